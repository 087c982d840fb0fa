"""Functions of a model at another opset: served where nothing changed in between, refused by name where something did."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import node

import onnxplain as ox
from onnxplain.engine.errors import UnsupportedVersionError

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
AXES = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([1])))


def net(body: list[onnx.NodeProto], own: int, models: int) -> onnx.ModelProto:
    function = helper.make_function("my", "Body", ["a"], ["b"], body, [helper.make_opsetid("", own)])
    graph = helper.make_graph(
        [helper.make_node("Body", ["x"], ["m"], domain="my"), node("Mul", "m m", "y")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", models), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(("own", "models"), [(13, 18), (18, 13), (14, 17), (13, 13)])
def test_a_body_in_which_nothing_changed(own: int, models: int) -> None:
    """ReduceSum is the same from 13 on, Relu only takes more types; the runtime says the same."""
    proto = net([AXES, node("Relu", "a", "r"), node("ReduceSum", "r axes", "b", keepdims=0)], own, models)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": X})[0]
    total = np.maximum(X, 0).sum(axis=1)
    np.testing.assert_allclose(expected, total**2, rtol=1e-5)
    e = ox.explain(proto, X, method="fullgrad", target=2)
    np.testing.assert_allclose(e.outputs["y"], expected, rtol=1e-6)
    slope = 2 * total[:, None, 2:3] * (X > 0) * (np.arange(4) == 2)
    np.testing.assert_allclose(e.attributions["x"], slope * X, rtol=1e-5)


CHANGED: dict[str, tuple[list[onnx.NodeProto], int, int]] = {
    "ReduceSum": ([node("ReduceSum", "a", "b", axes=[1], keepdims=0)], 11, 18),
    "Softmax": ([AXES, node("Softmax", "a", "s", axis=1), node("ReduceSum", "s axes", "b", keepdims=0)], 12, 13),
    "Gelu": ([AXES, node("Gelu", "a", "s"), node("ReduceSum", "s axes", "b", keepdims=0)], 20, 18),
}


@pytest.mark.parametrize("operator", CHANGED)
def test_a_body_with_an_operator_that_changed_is_refused_by_name(operator: str) -> None:
    proto: Any = net(*CHANGED[operator])
    with pytest.raises(
        UnsupportedVersionError, match=rf"'my::Body' of the model is written for opset .* {operator} is not"
    ):
        ox.explain(proto, X, method="gradient")
