"""Axes of which a Slice takes all are left out; everything else stays, and so does the answer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import constant, dims
from onnxplain.engine.rewrite import Rewriter

END = 2**31 - 1
X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def model(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> onnx.ModelProto:
    operands = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    names = [n if v is not None else "" for n, v in operands.items()]
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", *names], ["s"]), helper.make_node("Relu", ["s"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in operands.items() if v is not None],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


CASES = {
    # starts, ends, axes, steps; the axes that are left; the sizes behind it
    "one of two": ([0, 2], [END, 4], [0, 2], None, [2], ("N", "T", 2)),
    "no axes named": ([0, 0, 1], [END, END, 3], None, None, [2], ("N", "T", 2)),
    "steps": ([0, 1], [END, 4], [1, 2], [1, 2], [2], ("N", "T", 2)),
    "axis from the end": ([0, 1], [2**62, 4], [-3, -1], None, [-1], ("N", "T", 3)),
    "all": ([0, 0], [END, END], [0, 1], None, None, ("N", "T", 5)),
    "every second": ([0, 0], [END, 3], [0, 2], [2, 1], [0, 2], ("unk__0", "T", 3)),
    "from the second on": ([1, 0], [END, 3], [0, 2], None, [0, 2], ("unk__0", "T", 3)),
    "without the last": ([0, 0], [-1, 3], [0, 2], None, [0, 2], ("unk__0", "T", 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_axes_that_are_left(case: str) -> None:
    starts, ends, axes, steps, left, sizes = CASES[case]
    proto = model(starts, ends, axes, steps)
    found = canonicalise(read_model(proto))
    slices = [n for n in found.graph if n.op_type == "Slice"]
    assert [constant(n.inputs[3]).tolist() for n in slices] == ([left] if left is not None else [])
    (y,) = found.graph.outputs
    assert dims(y) == sizes
    data = Rewriter(found).finish()
    run = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, {"x": X - 30})[0]
        for m in (proto.SerializeToString(), _bytes(data))
    ]
    np.testing.assert_array_equal(*run)


def _bytes(data: object) -> bytes:
    import onnx_ir as ir

    assert isinstance(data, ir.Model)
    return ir.to_proto(data).SerializeToString()


def test_bounds_that_are_computed_are_left_alone() -> None:
    proto = model([0, 2], [END, 4], [0, 2], None)
    starts = proto.graph.initializer[0]
    starts.name = "given"
    proto.graph.node.insert(0, helper.make_node("Identity", ["fed"], ["starts"]))
    proto.graph.input.append(helper.make_tensor_value_info("fed", TensorProto.INT32, [2]))
    found = canonicalise(read_model(proto))
    (node,) = (n for n in found.graph if n.op_type == "Slice")
    assert constant(node.inputs[3]).tolist() == [0, 2]
