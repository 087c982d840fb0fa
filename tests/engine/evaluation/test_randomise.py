"""Weights drawn anew: which, from what, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError, TargetError
from onnxplain.engine.evaluation.randomise import DISTRIBUTIONS, WeightLayer, randomised, weight_layers
from onnxplain.engine.graph.shapes import constant
from onnxplain.engine.loading import Model, load

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def net(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Fixed preprocessing, Conv with BatchNormalization, Conv with bias, MatMul with Add."""
    rng = np.random.default_rng(1)
    weights = {
        "mean": np.array([0.1, 0.2]).reshape(1, 2, 1, 1), "w1": rng.normal(0, 0.3, (8, 2, 3, 3)),
        "gamma": rng.normal(1, 0.1, 8), "beta": rng.normal(0, 0.1, 8), "running": rng.normal(0, 0.1, 8),
        "var": rng.uniform(0.5, 2, 8), "w2": rng.normal(0, 0.2, (16, 8, 3, 3)), "b2": rng.normal(0, 0.1, 16),
        "w3": rng.normal(0, 0.1, (16 * 36, 4)), "b3": rng.normal(0, 0.1, 4), "two": np.array(2.0),
    }  # fmt: skip
    nodes = [
        node("Sub", "x mean", "c"),
        node("Conv", "c w1", "z1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "z1 gamma beta running var", "n1"),
        node("Relu", "n1", "a1"),
        node("Conv", "a1 w2 b2", "z2", pads=[1, 1, 1, 1]),
        node("Relu", "z2", "a2"),
        node("Flatten", "a2", "f"),
        node("MatMul", "f w3", "m"),
        node("Add", "m b3", "s"),
        node("Mul", "s two", "y"),
    ]
    return model(nodes, {"x": ["N", 2, 6, 6]}, {"y": ["N", 4]}, weights, dtype=dtype)


def tensors(source: Model) -> dict[str, Array]:
    found = {name: constant(value) for name, value in source.canonical.graph.initializers.items()}
    return {name: array for name, array in found.items() if array is not None}


def changed(before: Model, after: Model) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert old.keys() == new.keys()
    for name in old:
        assert old[name].dtype == new[name].dtype and old[name].shape == new[name].shape
    return {name for name in old if not np.array_equal(old[name], new[name])}


def names(layer: WeightLayer) -> dict[str, str]:
    return {p.name: p.role for p in layer.parameters}


def test_layers_stand_from_the_output_down_each_with_what_belongs_to_it() -> None:
    layers = weight_layers(load(net()))
    assert [layer.operator for layer in layers] == ["MatMul", "Conv", "Conv"]
    assert [layer.number for layer in layers] == [0, 1, 2]
    assert names(layers[0]) == {"w3": "weight", "b3": "bias"}
    assert names(layers[1]) == {"w2": "weight", "b2": "bias"}
    assert names(layers[2]) == {
        "w1": "weight", "gamma": "gain", "beta": "bias", "running": "mean", "var": "variance"
    }  # fmt: skip
    assert [layer.parameters[0].fan_in for layer in layers] == [576, 72, 18]


def test_only_what_is_asked_for_changes() -> None:
    source = load(net())
    layers = weight_layers(source)
    assert changed(source, randomised(source, [])) == set()
    assert changed(source, randomised(source, layers[:1])) == {"w3", "b3"}
    assert changed(source, randomised(source, layers[2:])) == {"w1", "gamma", "beta"}
    assert changed(source, randomised(source, layers[2:], statistics=True)) == set(names(layers[2]))
    everything = changed(source, randomised(source, layers, statistics=True))
    assert everything == set().union(*map(names, layers)), "preprocessing and plain numbers stay"


def test_a_layer_gets_the_same_numbers_alone_and_with_others() -> None:
    source = load(net())
    layers = weight_layers(source)
    alone, together = tensors(randomised(source, layers[1:2], seed=3)), tensors(randomised(source, layers, seed=3))
    np.testing.assert_array_equal(alone["w2"], together["w2"])
    other = tensors(randomised(source, layers, seed=4))
    assert not np.array_equal(together["w2"], other["w2"])


@pytest.mark.parametrize(
    ("distribution", "spread"),
    [("normal", lambda w: w.std()), ("normal_0.1", lambda w: 0.1), ("kaiming", lambda w: np.sqrt(2 / 72))],
)
def test_deviation_of_weights(distribution: str, spread: Callable[[Array], float]) -> None:
    source = load(net())
    drawn = tensors(randomised(source, weight_layers(source), distribution=distribution))["w2"]
    # 1,152 draws: the deviation is known to 2.1 %, the mean to 3 % of it; five times that is allowed.
    assert drawn.std() == pytest.approx(spread(tensors(source)["w2"]), rel=0.1)
    assert abs(drawn.mean()) < 0.15 * drawn.std()


def test_permutation_keeps_the_values() -> None:
    source = load(net())
    before = tensors(source)
    after = tensors(randomised(source, weight_layers(source), distribution="permutation", statistics=True))
    for name in ("w1", "w2", "b2", "gamma", "var"):
        np.testing.assert_array_equal(np.sort(before[name], axis=None), np.sort(after[name], axis=None))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_normalisation_stays_possible(distribution: str) -> None:
    source = load(net())
    after = tensors(randomised(source, weight_layers(source), distribution=distribution, statistics=True))
    assert (after["var"] > 0).all()
    if distribution == "kaiming":
        np.testing.assert_array_equal(after["gamma"], np.ones(8, np.float32))
        np.testing.assert_array_equal(after["beta"], np.zeros(8, np.float32))
    if distribution == "normal":
        assert after["gamma"].min() > 0, "around their own mean of 1, not around 0"


def test_the_randomised_model_runs_and_answers_otherwise() -> None:
    source = load(net(), threads=1)
    x = RNG.standard_normal((3, 2, 6, 6)).astype(np.float32)
    fresh = randomised(source, weight_layers(source), seed=1)
    a, b = (ox.explain(m, x, method="gradient", target=0) for m in (source, fresh))
    assert not np.allclose(a.score, b.score)
    assert not np.allclose(a.attributions["x"], b.attributions["x"])
    again = ox.explain(source, x, method="gradient", target=0)
    np.testing.assert_array_equal(a.attributions["x"], again.attributions["x"])


def test_methods_that_fold_normalisation_see_the_new_weights() -> None:
    """The folded graph is made of the randomised one, not kept from the model before."""
    source = load(net(), threads=1)
    kept = {n: a.copy() for n, a in ((n, constant(v)) for n, v in source.folded.graph.initializers.items())
            if a is not None}  # fmt: skip
    fresh = randomised(source, weight_layers(source))
    for name, array in kept.items():
        if name.endswith("/folded"):
            assert not np.array_equal(array, constant(fresh.folded.graph.initializers[name]))


def test_half_precision() -> None:
    source = load(net(TensorProto.FLOAT16), threads=1)
    fresh = randomised(source, weight_layers(source), statistics=True)
    assert "w2" in changed(source, fresh)
    assert tensors(fresh)["w2"].dtype == np.float16
    x = RNG.standard_normal((2, 2, 6, 6)).astype(np.float16)
    assert np.isfinite(ox.explain(fresh, x, method="gradient").score).all()


def test_quantised_weights_are_drawn_in_real_numbers() -> None:
    """Two channels whose scales differ by ten: both are drawn with one deviation, in steps of their own."""
    rng = np.random.default_rng(2)
    scale = np.array([0.01, 0.1], np.float32)
    real = rng.normal(0, 0.3, (2, 400))
    levels = np.clip(np.rint(real / scale[:, None]), -127, 127).astype(np.int8)
    arrays = {"q": levels, "scale": scale, "zero": np.zeros(2, np.int8)}
    nodes = [
        node("DequantizeLinear", "q scale zero", "w", axis=0),
        node("Gemm", "x w", "y", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 400])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "q", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    source = load(proto, threads=1)
    (layer,) = weight_layers(source)
    assert layer.parameters[0].fan_in == 400
    fresh = randomised(source, [layer])
    (name,) = changed(source, fresh)
    drawn = tensors(fresh)[name]
    assert drawn.dtype == np.int8
    drawn = drawn * scale[:, None]
    # 400 draws a channel: a deviation is known to 3.5 %.
    np.testing.assert_allclose(drawn.std(axis=1), real.std(), rtol=0.18)


def test_recurrent_layers() -> None:
    """Steps are unrolled or scanned, and share their weights: each tensor is drawn once."""
    for steps in (4, 60):
        rng = np.random.default_rng(3)
        hidden, width = 5, 3
        arrays = {
            "W": rng.normal(0, 0.5, (1, 4 * hidden, width)).astype(np.float32),
            "R": rng.normal(0, 0.5, (1, 4 * hidden, hidden)).astype(np.float32),
            "B": rng.normal(0, 0.1, (1, 8 * hidden)).astype(np.float32),
            "V": rng.normal(0, 0.5, (hidden, 2)).astype(np.float32),
        }
        nodes = [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            helper.make_node("LSTM", ["t", "W", "R", "B"], ["", "h"], hidden_size=hidden),
            node("Squeeze", "h zero", "last"),
            node("MatMul", "last V", "y"),
        ]
        proto = model(nodes, {"x": ["N", steps, width]}, {"y": ["N", 2]}, {**arrays, "zero": np.array([0])})
        source = load(proto, threads=1)
        layers = weight_layers(source)
        assert sorted(tensors(source)[layer.parameters[0].name].size for layer in layers) == [10, 60, 100]
        assert layers[0].operator == "MatMul"
        x = rng.standard_normal((2, steps, width)).astype(np.float32)
        before = ox.explain(source, x, method="gradient", target=0).attributions["x"]
        for layer in layers:
            after = ox.explain(randomised(source, [layer]), x, method="gradient", target=0).attributions["x"]
            assert np.isfinite(after).all()
            assert not np.allclose(before, after)


def test_a_table_of_embeddings_is_a_layer() -> None:
    graph = helper.make_graph(
        [node("Gather", "table ids", "e"), node("ReduceMean", "e one", "m", keepdims=0), node("MatMul", "m w", "y")],
        "text",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(a, n) for n, a in {
            "table": RNG.normal(size=(9, 4)).astype(np.float32), "w": RNG.normal(size=(4, 2)).astype(np.float32),
            "one": np.array([1]),
        }.items()],
    )  # fmt: skip
    source = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    assert [names(layer) for layer in weight_layers(source)] == [{"w": "weight"}, {"table": "weight"}]


def test_a_mask_is_no_weight_and_a_position_is_one() -> None:
    mask = np.triu(np.full((4, 4), -1e9, np.float32), 1)
    position = RNG.normal(size=(1, 4, 4)).astype(np.float32)
    nodes = [
        node("MatMul", "x w", "a"), node("Add", "a position", "b"), node("Add", "b mask", "c"),
        node("ReduceMax", "c", "y", keepdims=0),
    ]  # fmt: skip
    weights = {"w": RNG.normal(size=(3, 4)), "position": position, "mask": mask}
    source = load(model(nodes, {"x": ["N", 4, 3]}, {"y": []}, weights))
    assert [names(layer) for layer in weight_layers(source)] == [{"w": "weight", "position": "bias"}]


def test_bad_requests() -> None:
    source = load(net())
    with pytest.raises(OptionError, match=r"distribution='uniform'.*'normal'"):
        randomised(source, weight_layers(source), distribution="uniform")
    with pytest.raises(TargetError, match="no float output 'z'"):
        weight_layers(source, "z")
    plain = load(model([node("Relu", "x", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}))
    with pytest.raises(OptionError, match="no weights between input and output"):
        weight_layers(plain)
