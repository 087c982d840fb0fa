"""Comparisons and boolean operators have derivative 0, and nothing is reported as lost."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter


@pytest.mark.parametrize("comparison", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf"])
def test_a_gate_is_no_path(comparison: str) -> None:
    """y = where(not compare(x), x, 0): the whole gradient goes through the chosen branch."""
    operands = ["x"] if comparison.startswith("Is") else ["x", "zero"]
    nodes = [
        helper.make_node(comparison, operands, ["c"]),
        helper.make_node("Not", ["c"], ["n"]),
        helper.make_node("Or", ["n", "n"], ["o"]),
        helper.make_node("Where", ["o", "x", "zero"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [3]) for n in "xy"]
    zero = onnx.numpy_helper.from_array(np.float32(0), "zero")
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    rewriter = Rewriter(canonicalise(read_model(model)))
    x, y = rewriter.value("x"), rewriter.value("y")
    adjoints = rewriter.backward_from({y: rewriter.op.constant(np.ones(3, np.float32))}, [x])
    assert adjoints.path.blocked == []
    assert [n.op_type for n in adjoints.nodes] == ["Where"]
    assert x in adjoints.of
