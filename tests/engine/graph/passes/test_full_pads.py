"""A Pad with axes behind a Transpose: what onnxruntime 1.31 fails on, against onnx.reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_models
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxplain as ox
from onnxplain.engine.graph.passes.full_pads import FullPadsPass

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def padded(pads: list[int], axes: list[int], *, run_time: str = "", ranked: bool = True) -> onnx.ModelProto:
    """Transpose, Pad, Transpose; ``run_time`` names which of pads and axes are fed."""
    fed = [n for n in ("pads", "axes") if n in run_time]
    numbers = {n: np.asarray(v, np.int64) for n, v in (("pads", pads), ("axes", axes)) if n not in fed}
    nodes = [
        tiny_models.node("Transpose", "x", "a", perm=[2, 0, 1]),
        tiny_models.node("Pad", "a pads - axes", "b"),
        tiny_models.node("Transpose", "b", "y", perm=[1, 2, 0]),
    ]
    model = tiny_models.model(nodes, {"x": [2, 3, 4]}, {"y": [None] * 3}, numbers)
    sizes = {"pads": len(pads), "axes": len(axes)}
    model.graph.input.extend(helper.make_tensor_value_info(n, TensorProto.INT64, [sizes[n]]) for n in fed)
    if not ranked:
        for value in (*model.graph.input[:1], *model.graph.output):
            value.type.tensor_type.ClearField("shape")
    return model


CASES = [([1, 0], [0]), ([1, 2], [-2]), ([1, 2, 3, 4], [2, 0]), ([1, 2, 3, 4, 5, 6], [1, 2, 0])]


@pytest.mark.parametrize(("pads", "axes"), CASES)
@pytest.mark.parametrize("run_time", ["", "pads", "pads axes"])
@pytest.mark.parametrize("ranked", [True, False])
def test_the_padded_tensor_is_the_same(pads: list[int], axes: list[int], run_time: str, ranked: bool) -> None:
    proto = padded(pads, axes, run_time=run_time, ranked=ranked)
    numbers = {"pads": np.asarray(pads), "axes": np.asarray(axes)}
    feeds: dict[str, Any] = {"x": X, **{n: numbers[n] for n in run_time.split()}}
    expected = ReferenceEvaluator(proto).run(None, feeds)[0]
    model = ir.from_proto(proto)
    assert FullPadsPass()(model).modified
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected)


def test_amounts_known_now_stay_constants() -> None:
    model = ir.from_proto(padded([1, 2], [-1]))
    for node in model.graph:
        node.outputs[0].shape = ir.Shape([4, 2, 3])
    FullPadsPass()(model)
    assert [n.op_type for n in model.graph] == ["Transpose", "Pad", "Transpose"]
    pads = model.graph[1].inputs[1]
    assert pads is not None and pads.const_value is not None
    np.testing.assert_array_equal(pads.const_value.numpy(), [0, 0, 1, 0, 0, 2])
    assert not FullPadsPass()(model).modified


def test_a_slice_between_transposes_is_differentiated() -> None:
    """The adjoint of a Slice is a Pad, and those of the Transposes stand around it."""
    nodes = [
        tiny_models.node("Transpose", "x", "a", perm=[1, 2, 0]),
        tiny_models.node("Slice", "a starts ends axes", "b"),
        tiny_models.node("Transpose", "b", "c", perm=[2, 0, 1]),
        tiny_models.node("Mul", "c c", "y"),
    ]
    weights = {"starts": np.array([1]), "ends": np.array([3]), "axes": np.array([1])}
    proto = tiny_models.model(nodes, {"x": ["N", 3, 4]}, {"y": ["N", 3, 2]}, weights)
    gradient = ox.vjp(proto, {"x": X}, {"y": np.ones((2, 3, 2), np.float32)})["x"]
    expected = np.where((np.arange(4) == 1) | (np.arange(4) == 2), 2 * X, 0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
