"""Sizes inside Loop and Scan bodies: what stays the same from step to step is known, what changes is not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.loop_states import CHANGES
from onnxplain.engine.graph.shapes import dims


def loop(nodes: list[onnx.NodeProto], declared: list[int | str] | None) -> tuple[ir.Node, ir.Graph, ir.Model]:
    """A Loop over one state of shape (N, 3); the file notes ``declared`` for it inside the body."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), *nodes],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, declared),
        ],
        [helper.make_tensor_value_info(n, t, None) for n, t in [("c2", TensorProto.BOOL), ("s2", 1), ("k", 1)]],
    )
    outer = [helper.make_node("Loop", ["n", "", "x"], ["y", "ks"], body=body), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(
        outer,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("z", "ks")],
        [
            onnx.numpy_helper.from_array(np.asarray(2), "n"),
            onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "W"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = canonicalise(read_model(proto))
    node = next(n for n in model.graph if n.op_type == "Loop")
    return node, node.attributes["body"].as_graph(), model


@pytest.mark.parametrize("declared", [None, ["N", 3], [7, 5]], ids=["unknown", "right", "wrong"])
def test_a_state_that_keeps_its_shape_has_the_initial_one(declared: list[int | str] | None) -> None:
    """A wrong note in the file is not believed."""
    nodes = [helper.make_node("MatMul", ["s", "W"], ["s2"]), helper.make_node("ReduceSum", ["s2"], ["k"], keepdims=0)]
    node, body, model = loop(nodes, declared)
    assert dims(body.inputs[2]) == dims(body.outputs[1]) == ("N", 3)
    assert dims(node.outputs[0]) == ("N", 3)
    assert dims(node.outputs[1]) == (None,)
    assert dims(model.graph.outputs[0]) == ("N", 3)


def test_a_state_that_grows_is_known_to() -> None:
    nodes = [helper.make_node("Concat", ["s", "s"], ["s2"], axis=1), helper.make_node("Identity", ["s2"], ["k"])]
    node, body, _ = loop(nodes, None)
    assert dims(body.inputs[2]) == ("N", None)
    assert dims(node.outputs[0]) == ("N", None)
    assert body.inputs[2].meta[CHANGES]


def test_a_state_that_loses_an_axis_has_no_known_rank() -> None:
    nodes = [helper.make_node("ReduceSum", ["s", "n"], ["s2"], keepdims=0), helper.make_node("Identity", ["s2"], ["k"])]
    nodes[0].input[1] = ""
    _, body, _ = loop(nodes, None)
    assert dims(body.inputs[2]) is None
    assert body.inputs[2].meta[CHANGES]


def test_what_a_scan_goes_through_loses_its_axis_inside_and_regains_it_outside() -> None:
    """The constant of the outer graph is seen from inside: without it, the Unsqueeze has no known rank."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "e"], ["s2"]),
            helper.make_node("Unsqueeze", ["s2", "axis"], ["wide"]),
            helper.make_node("MatMul", ["wide", "W"], ["k"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("s", "e")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("s2", "k")],
    )
    options = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [-1]}
    graph = helper.make_graph(
        [helper.make_node("Scan", ["s0", "x"], ["y", "ks"], body=body, **options)],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in [("s0", ["N", 3]), ("x", ["N", 5, 3])]],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "ks")],
        [
            onnx.numpy_helper.from_array(np.asarray([1]), "axis"),
            onnx.numpy_helper.from_array(np.zeros((3, 4), np.float32), "W"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    node = next(n for n in canonicalise(read_model(proto)).graph if n.op_type == "Scan")
    inside = node.attributes["body"].as_graph()
    assert [dims(v) for v in inside.inputs] == [("N", 3), ("N", 3)]
    assert [dims(v) for v in inside.outputs] == [("N", 3), ("N", 1, 4)]
    assert [dims(v) for v in node.outputs] == [("N", 3), ("N", 1, 4, 5)]
