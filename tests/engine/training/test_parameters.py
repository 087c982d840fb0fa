"""What is trained of a network, where it begins, and that layers do not share what the file merely keeps once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tiny_models import model, node

from onnxplain.engine.errors import OptionError
from onnxplain.engine.loading import load
from onnxplain.engine.training.parameters import find_parameters, own_parameters


def found(proto: onnx.ModelProto, frozen: tuple[str, ...] = ()) -> dict[str, Any]:
    return {p.name: p for p in find_parameters(load(proto).canonical, frozen)}


def mixed() -> onnx.ModelProto:
    """One of each: Conv in groups, its transpose, BatchNormalization, MatMul and Add, Gemm, and constants beside."""
    rng = np.random.default_rng(0)
    return model(
        [
            node("Sub", "x average", "x0"),
            node("Conv", "x0 w1 b1", "c", group=2, kernel_shape=[3, 3]),
            node("BatchNormalization", "c g s m v", "n"),
            node("ConvTranspose", "n w2", "t", strides=[2, 2]),
            node("PRelu", "t slope", "r"),
            node("GlobalAveragePool", "r", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f w3", "d"),
            node("Add", "d b3", "e"),
            node("Mul", "e temperature", "h"),
            node("Gemm", "h w4 b4", "y", transB=1),
        ],
        {"x": ["N", 4, 6, 6]},
        {"y": ["N", 3]},
        {
            "average": rng.normal(size=(4, 1, 1)), "w1": rng.normal(size=(6, 2, 3, 3)), "b1": np.zeros(6),
            "g": np.ones(6), "s": np.zeros(6), "m": np.zeros(6), "v": np.ones(6), "w2": rng.normal(size=(6, 5, 4, 4)),
            "slope": rng.normal(size=(5, 1, 1)), "w3": rng.normal(size=(5, 7)), "b3": np.zeros(7),
            "temperature": np.array([2.0]), "w4": rng.normal(size=(3, 7)), "b4": np.zeros(3),
        },
    )  # fmt: skip


def test_kinds_and_fan_in() -> None:
    parameters = found(mixed())
    assert {n: p.kind for n, p in parameters.items()} == {
        "w1": "weight", "b1": "bias", "g": "scale", "s": "bias", "w2": "weight", "slope": "slope",
        "w3": "weight", "b3": "bias", "w4": "weight", "b4": "bias",
    }  # fmt: skip
    # Conv: 2 channels a group, 3x3. Transposed: 6 channels, 4x4 taps of which every fourth meets a given place.
    assert {n: parameters[n].fan_in for n in ("w1", "w2", "w3", "w4")} == {"w1": 18, "w2": 24, "w3": 5, "w4": 7}


def test_they_lie_one_behind_the_other() -> None:
    end = 0
    for p in found(mixed()).values():
        assert p.start == end
        end += int(np.prod(p.shape))


def test_first_values() -> None:
    """Variance 2 / fan-in within four of its own standard errors; biases 0, scales 1, slopes a quarter."""
    parameters = find_parameters(load(mixed()).canonical)
    for number, p in enumerate(parameters):
        drawn = p.drawn(3, number)
        assert drawn.shape == p.shape
        if p.kind == "weight":
            assert abs(drawn.var() * p.fan_in / 2 - 1) < 4 * np.sqrt(2 / drawn.size)
            assert not np.array_equal(drawn, p.drawn(4, number))
            assert np.array_equal(drawn, p.drawn(3, number))
        else:
            assert np.all(drawn == {"bias": 0.0, "scale": 1.0, "slope": 0.25}[p.kind])


def test_frozen_ones_are_left_out() -> None:
    assert set(found(mixed(), ("w[12]", "b*", "slope"))) == {"g", "s", "w3", "w4"}


@pytest.mark.parametrize(
    ("frozen", "words"), [(("layer9.*",), "fits no parameter; .* are w1, b1"), (("*",), "no float weights to train")]
)
def test_frozen_that_leave_nothing(frozen: tuple[str, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        found(mixed(), frozen)


def test_half_precision_is_refused() -> None:
    half = model(
        [node("Gemm", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": np.eye(2)}, dtype=TensorProto.FLOAT16
    )
    with pytest.raises(OptionError, match="float16 are not trained"):
        found(half)


def test_layers_own_what_the_file_keeps_once() -> None:
    """Two BatchNormalizations of an untrained net: all their parameters are the same two tensors in the file."""
    nodes = [
        node("Conv", "x w1 zero", "a"), node("BatchNormalization", "a one zero zero one", "b"),
        node("Conv", "b w2 zero", "c"), node("BatchNormalization", "c one zero zero one", "d"),
        node("GlobalAveragePool", "d", "p"), node("Flatten", "p", "y"),
    ]  # fmt: skip
    weights = {"w1": np.ones((3, 1, 1, 1)), "w2": np.ones((3, 3, 1, 1)), "one": np.ones(3), "zero": np.zeros(3)}
    network = load(model(nodes, {"x": ["N", 1, 4, 4]}, {"y": ["N", 3]}, weights)).canonical.clone()
    own_parameters(network)
    used = [v.name for n in network.graph if n.op_type != "GlobalAveragePool" for v in n.inputs[1:] if v is not None]
    assert len(used) == len(set(used)) == 12
    assert len(find_parameters(network)) == 8


def test_a_layer_that_is_used_twice_stays_one() -> None:
    nodes = [
        node("Gemm", "x w b", "a"), node("Relu", "a", "r"), node("Gemm", "r w b", "c"), node("Gemm", "c v b", "y"),
    ]  # fmt: skip
    weights = {"w": np.eye(3), "v": np.ones((3, 3)), "b": np.zeros(3)}
    network = load(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, weights)).canonical.clone()
    own_parameters(network)
    first, second, third = (n.inputs[2] for n in network.graph if n.op_type == "Gemm")
    assert first is second
    assert third is not first
