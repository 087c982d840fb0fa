"""Which operand of a product counts as a gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import model, node

from onnxplain.engine.backward import find_path
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.propagation.gates import live_factors
from onnxplain.engine.rules.node import Primal

WEIGHTS: dict[str, Any] = {
    "w": np.random.default_rng(0).normal(size=(4, 4)), "u": np.random.default_rng(1).normal(size=(4, 4)),
    "two": np.array(2.0), "one": np.array(1.0), "e": np.array(-0.5), "row": np.array([-1, 4]), "axis": np.array([1]),
}  # fmt: skip
LINES = [node("MatMul", "x w", "h"), node("MatMul", "x u", "k")]


@pytest.mark.parametrize(
    ("nodes", "live"),
    [
        ([node("Mul", "h k", "y")], [0, 1]),
        ([node("Mul", "h two", "y")], [0]),
        ([node("Mul", "h h", "y")], [0, 1]),
        ([node("Softmax", "k", "p"), node("Mul", "p h", "y")], [1]),
        ([node("Softmax", "k", "p"), node("Reshape", "p row", "r"), node("Mul", "two r", "s"), node("Mul", "h s", "y")], [0]),
        ([node("Sigmoid", "k", "p"), node("Sub", "one p", "q"), node("Mul", "h q", "y")], [0]),
        ([node("Sigmoid", "k", "p"), node("Sigmoid", "h", "q"), node("Mul", "p q", "y")], [0, 1]),
        ([node("Sigmoid", "k", "p"), node("MatMul", "p u", "q"), node("Mul", "h q", "y")], [0, 1]),
        ([node("Reciprocal", "k", "p"), node("Mul", "h p", "y")], [0]),
        ([node("Pow", "k e", "p"), node("Mul", "h p", "y")], [0]),
        ([node("Div", "one k", "p"), node("Mul", "p h", "y")], [1]),
        ([node("Div", "k two", "p"), node("Mul", "p h", "y")], [0, 1]),
        ([node("Exp", "k", "a"), node("ReduceSum", "a axis", "b"), node("Div", "a b", "p"), node("Mul", "p h", "y")], [1]),
        ([node("Erf", "h", "p"), node("Mul", "p h", "y")], [1]),
        ([node("Mul", "h two", "g"), node("Tanh", "h", "p"), node("Mul", "g p", "y")], [0]),
        ([node("Tanh", "k", "p"), node("Mul", "h p", "y")], [0, 1]),
        ([node("Add", "h k", "p"), node("Mul", "h p", "y")], [0, 1]),
        ([node("Tanh", "h", "p"), node("Mul", "k p", "q"), node("Mul", "h q", "y")], [0, 1]),
    ],
    ids=lambda v: " ".join(n.op_type for n in v) if v and isinstance(v[0], onnx.NodeProto) else None,
)  # fmt: skip
def test_live_factors(nodes: list[onnx.NodeProto], live: list[int]) -> None:
    proto = model([*LINES, *nodes], {"x": ["N", 4]}, {"y": ["N", 4]}, WEIGHTS)
    graph = canonicalise(read_model(proto)).graph
    path = find_path(list(graph), [graph.inputs[0]], [graph.outputs[0]])
    last = Primal(path.nodes[-1], path.active)
    assert last.op_type == "Mul"
    assert live_factors(last, (0, 1)) == live
