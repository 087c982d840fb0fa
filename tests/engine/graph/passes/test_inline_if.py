"""If with a known condition: the branch's nodes, the same answers, names kept and unique."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

FLOAT = TensorProto.FLOAT


def info(name: str, shape: list[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(
    name: str, nodes: list[onnx.NodeProto], *outputs: str, weights: dict[str, np.ndarray] | None = None
) -> onnx.GraphProto:
    constants = [onnx.numpy_helper.from_array(a, k) for k, a in (weights or {}).items()]
    return helper.make_graph(nodes, name, [], [info(o, None) for o in outputs], constants)


def model(nodes: list[onnx.NodeProto], outputs: list[str], shape: list[int | str], opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [info("x", shape)], [info(o, None) for o in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def flag(name: str, value: bool) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))


def run(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})


def canonical(proto: onnx.ModelProto) -> ir.Model:
    """The canonical graph, once it answers as the model does and keeps its interface."""
    result = canonicalise(read_model(proto))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for one, other in zip(run(proto, x), run(ir.to_proto(result), x), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [v.name for v in result.graph.outputs] == [o.name for o in proto.graph.output]
    main = [v.name for n in result.graph for v in n.outputs]
    assert len(main) == len(set(main))
    inner = [v.name for g in result.graph.subgraphs() for n in g for v in n.outputs]
    assert not set(main) & set(inner), "a branch hides a name of the graph around it"
    return result


def operators(result: ir.Model) -> list[str]:
    return [n.op_type for n in result.graph.all_nodes()]


@pytest.mark.parametrize(("value", "operator"), [(True, "Relu"), (False, "Exp")])
def test_the_branch_that_is_taken_is_inlined(value: bool, operator: str) -> None:
    then = branch("t", [helper.make_node("Relu", ["x"], ["r"])], "r")
    other = branch("e", [helper.make_node("Exp", ["x"], ["r"])], "r")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    assert operators(canonical(model([flag("c", value), node], ["y"], ["N", 4]))) == [operator]


def test_nested_conditions_that_depend_on_a_known_rank_are_resolved() -> None:
    """The inner condition is computed in the outer branch from the rank, as exporters write it."""
    inner = helper.make_node(
        "If",
        ["two"],
        ["q"],
        then_branch=branch("it", [helper.make_node("Neg", ["w"], ["s"])], "s"),
        else_branch=branch("ie", [helper.make_node("Identity", ["w"], ["s"])], "s"),
    )
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["w"]),
        helper.make_node("Shape", ["w"], ["shape"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Constant", [], ["two_"], value_int=2),
        helper.make_node("Equal", ["rank", "two_"], ["two"]),
        inner,
    ]
    then = branch("t", nodes, "q", weights={"k": np.asarray(3.0, np.float32)})
    other = branch("e", [helper.make_node("Exp", ["x"], ["r"])], "r")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    found = operators(canonical(model([flag("c", True), node], ["y"], ["N", 4])))
    assert found == ["Mul", "Neg"]


def test_a_branch_that_returns_an_outer_value() -> None:
    then = branch("t", [helper.make_node("Identity", ["h"], ["r"])], "r")
    other = branch("e", [helper.make_node("Exp", ["h"], ["r"])], "r")
    first = helper.make_node("Relu", ["x"], ["h"])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    last = helper.make_node("Add", ["y", "h"], ["z"])
    result = canonical(model([flag("c", True), first, node, last], ["z", "h", "y"], ["N", 4]))
    assert sorted(operators(result)) == ["Add", "Identity", "Relu"]


def test_the_same_names_in_two_branches_stay_apart() -> None:
    def one(condition: str, result: str, operator: str) -> onnx.NodeProto:
        then = branch("t", [helper.make_node(operator, ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"])], "b")
        return helper.make_node("If", [condition], [result], then_branch=then, else_branch=then)

    nodes = [flag("c", True), one("c", "p", "Relu"), one("c", "q", "Exp"), helper.make_node("Add", ["p", "q"], ["y"])]
    result = canonical(model(nodes, ["y", "p"], ["N", 4]))
    assert operators(result).count("Neg") == 2


def test_a_condition_of_the_run_time_stays() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("t", [helper.make_node("Identity", ["h"], ["r"])], "r"),
            else_branch=branch("e", [helper.make_node("Constant", [], ["r"], value_floats=[1.0, 2.0])], "r"),
        ),
    ]
    result = canonical(model(nodes, ["y", "h"], ["N", 4]))
    kept = next(n for n in result.graph if n.op_type == "If")
    for name in ("then_branch", "else_branch"):
        graph = kept.attributes[name].as_graph()
        assert not graph.initializers, "constants live in the main graph"
        assert all(v.producer() is not None and v.producer().graph is graph for v in graph.outputs)
