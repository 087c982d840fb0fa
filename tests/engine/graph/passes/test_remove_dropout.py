"""Dropout in all its forms: gone at inference, refused where it is left in training mode."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from canonical_run import numbers, operators, run, same_outputs
from onnx import TensorProto, helper
from tiny_models import model, node

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

X = numbers(2, 3)


def net(
    opset: int, inputs: str = "a", outputs: str = "d", weights: dict[str, Any] | None = None, **attributes: Any
) -> onnx.ModelProto:
    nodes = [node("Relu", "x", "a"), node("Dropout", inputs, outputs, **attributes), node("Neg", "d", "y")]
    return model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, weights, opset=opset)


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
@pytest.mark.parametrize("outputs", ["d", "d mask"])
def test_dropout_at_inference(opset: int, outputs: str) -> None:
    proto = net(opset, outputs=outputs, **({"ratio": 0.7} if opset < 12 else {}))
    assert operators(same_outputs(proto, {"x": X}, 0)) == ["Relu", "Neg"]


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize(
    "weights",
    [
        {"r": np.array(0.7)},
        {"r": np.array(0.7), "t": np.array(False)},
        {"r": np.array(0.0), "t": np.array(True)},
    ],
    ids=["ratio", "off", "ratio 0"],
)
def test_dropout_by_operands(opset: int, weights: dict[str, Any]) -> None:
    assert operators(same_outputs(net(opset, " ".join(["a", *weights]), weights=weights), {"x": X}, 0)) == [
        "Relu",
        "Neg",
    ]


@pytest.mark.parametrize(
    "weights", [{"r": np.array(0.7), "t": np.array(True)}, {"t": np.array(True)}], ids=["ratio", "default ratio"]
)
def test_dropout_left_in_training_mode(weights: dict[str, Any]) -> None:
    inputs = "a r t" if "r" in weights else "a - t"
    with pytest.raises(UnsupportedNodeError, match=r"d_node.*training mode.*export the model in inference"):
        canonicalise(read_model(net(13, inputs, weights=weights)))


def test_dropout_whose_mode_is_fed() -> None:
    proto = net(13, "a - t")
    proto.graph.input.append(helper.make_tensor_value_info("t", TensorProto.BOOL, []))
    with pytest.raises(UnsupportedNodeError, match="training mode"):
        canonicalise(read_model(proto))


def test_mask_at_inference_is_true_everywhere() -> None:
    proto = net(13, outputs="d mask")
    proto.graph.output.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N", 3]))
    same_outputs(proto, {"x": X}, 0)


@pytest.mark.parametrize("chain", [1, 3])
def test_dropout_as_the_output(chain: int) -> None:
    names = [f"d{i}" for i in range(chain)] + ["y"]
    nodes = [node("Relu", "x", "d0"), *(node("Dropout", a, b) for a, b in itertools.pairwise(names))]
    canonical = same_outputs(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, opset=13), {"x": X}, 0)
    assert operators(canonical) == ["Relu"]


def test_dropout_of_an_input_as_the_output() -> None:
    proto = model([node("Dropout", "x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, opset=13)
    assert operators(same_outputs(proto, {"x": X}, 0)) == ["Identity"]


def test_dropout_inside_a_branch() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [node("Exp", "x", f"{name}e"), node("Dropout", f"{name}e", f"{name}y")]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}y", 1, [2, 3])])

    proto = model(
        [node("If", "c", "y", then_branch=branch("a"), else_branch=branch("b"))], {"x": [2, 3]}, {"y": [2, 3]}, opset=13
    )
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    canonical = same_outputs(proto, {"x": X, "c": np.array(True)}, 0)
    assert all(n.op_type != "Dropout" for n in canonical.graph.all_nodes())
    assert run(proto, {"x": X, "c": np.array(False)})[0].shape == (2, 3)
