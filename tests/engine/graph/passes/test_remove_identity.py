"""Identity: gone inside graphs, kept where a graph's interface needs it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model


def canonical(nodes: list[onnx.NodeProto], outputs: list[str]) -> tuple[list[str], list[str | None]]:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = canonicalise(read_model(proto))
    return [n.op_type for n in model.graph], [v.name for v in model.graph.outputs]


def test_inside_a_graph_it_goes() -> None:
    chain = [("Identity", "x", "a"), ("Identity", "a", "b"), ("Relu", "b", "y")]
    nodes = [helper.make_node(operator, [source], [result]) for operator, source, result in chain]
    assert canonical(nodes, ["y"]) == (["Relu"], ["y"])


def test_a_computed_output_takes_its_name() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Identity", ["a"], ["y"])]
    assert canonical(nodes, ["y"]) == (["Relu"], ["y"])


def test_two_outputs_of_one_value_keep_their_names() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), *(helper.make_node("Identity", ["a"], [n]) for n in ("y", "z"))]
    operators, names = canonical(nodes, ["y", "a", "z"])
    assert names == ["y", "a", "z"]
    assert sorted(operators) == ["Identity", "Identity", "Relu"]
    operators, names = canonical(nodes, ["y", "z"])
    assert names == ["y", "z"]
    assert sorted(operators) == ["Identity", "Relu"]


def test_an_input_that_is_returned_stays_an_identity() -> None:
    assert canonical([helper.make_node("Identity", ["x"], ["y"])], ["y"]) == (["Identity"], ["y"])
