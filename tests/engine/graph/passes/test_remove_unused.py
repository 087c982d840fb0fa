"""What no result needs goes away, and nothing else; the same as the general pass, which is slower."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from mutants import originals
from onnx import TensorProto, helper, parser
from tiny_models import model, node

from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.remove_unused import RemoveUnusedPass


def cleaned(proto: onnx.ModelProto) -> ir.Model:
    made = read_model(proto).to_ir()
    RemoveUnusedPass()(made)
    return made


def test_nodes_and_initializers() -> None:
    proto = model(
        [node("Relu", "x", "a"), node("Exp", "a", "dead"), node("Mul", "dead w", "deader"), node("Neg", "a", "y")],
        {"x": ["N", 3], "unused": [2]}, {"y": ["N", 3]}, {"w": np.ones(3), "alone": np.ones(2)},
    )  # fmt: skip
    made = cleaned(proto)
    assert [n.op_type for n in made.graph] == ["Relu", "Neg"]
    assert not made.graph.initializers
    assert [v.name for v in made.graph.inputs] == ["x", "unused"]  # the interface stays


def test_results_and_operands_that_are_left_out() -> None:
    proto = model(
        [helper.make_node("MaxPool", ["x"], ["m", "places"], kernel_shape=[2]), helper.make_node("Clip", ["m", "", ""], ["y"])],
        {"x": [1, 1, 4]}, {"y": [1, 1, 3]},
    )  # fmt: skip
    made = cleaned(proto)
    pool, clip = made.graph
    assert len(pool.outputs) == 1
    assert len(clip.inputs) == 1


def test_a_result_in_the_middle_keeps_its_place() -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["n", "mean", "deviation"]),
        node("Mul", "n deviation", "y"),
    ]
    made = cleaned(model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"s": np.ones(3)}))
    assert [y.name for y in made.graph[0].outputs] == ["n", "", "deviation"]


def test_branches_and_functions() -> None:
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18, "f" : 1]>
        net (float[N] x, bool c) => (float[N] y) {
            dead = Sin(x)
            h = If (c) <then_branch = a () => (float[N] p) { q = Exp(x) p = Neg(x) },
                        else_branch = b () => (float[N] r) { r = Cos(x) }>
            y = f.F(h)
        }
        <opset_import: ["" : 18], domain: "f"> F (a) => (b) { dead = Exp(a) b = Tanh(a) }
    """)
    made = cleaned(proto)
    assert [n.op_type for n in ir.traversal.RecursiveGraphIterator(made.graph)] == ["If", "Neg", "Cos", "F"]
    (function,) = made.functions.values()
    assert [n.op_type for n in function] == ["Tanh"]


def test_what_only_a_branch_reads_stays() -> None:
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        net (float[N] x, bool c) => (float[N] y) {
            s = Sin(x)
            y = If (c) <then_branch = a () => (float[N] p) { p = Neg(s) },
                        else_branch = b () => (float[N] r) { r = Cos(x) }>
        }
    """)
    assert [n.op_type for n in cleaned(proto).graph] == ["Sin", "If"]


def test_batch_normalization_in_training_keeps_its_results() -> None:
    names = ["x", "s", "b", "m", "v"]
    nodes = [helper.make_node("BatchNormalization", names, ["y", "rm", "rv"], training_mode=1)]
    weights = {n: np.ones(2) for n in names[1:]}
    made = cleaned(model(nodes, {"x": ["N", 2, 3]}, {"y": ["N", 2, 3]}, weights))
    assert len(made.graph[0].outputs) == 3


@pytest.mark.parametrize("name", list(originals()))
def test_like_the_general_pass(name: str) -> None:
    """On whole models with dead ends added."""
    proto = originals()[name]
    first = proto.graph.input[0]
    if first.type.tensor_type.elem_type == TensorProto.FLOAT:
        proto.graph.node.insert(0, helper.make_node("Neg", [first.name], ["dead_end"], name="dead_end_node"))

    def described(made: ir.Model) -> list[Any]:
        return [
            (n.op_type, [x.name if x is not None else None for x in n.inputs], [y.name for y in n.outputs])
            for n in ir.traversal.RecursiveGraphIterator(made.graph)
        ]

    general = read_model(proto).to_ir()
    common.RemoveUnusedNodesPass()(general)
    ours = cleaned(proto)
    assert described(ours) == described(general)
    assert set(ours.graph.initializers) == set(general.graph.initializers)
