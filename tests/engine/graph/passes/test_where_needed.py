"""General passes run where they have something to do, and on no other model."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from mutants import originals
from onnx import helper
from tiny_models import model, node

from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes import where_needed
from onnxplain.engine.graph.passes.where_needed import WhereNeededPass


def made(nodes: list[onnx.NodeProto]) -> ir.Model:
    return read_model(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]})).to_ir()


def test_order() -> None:
    nodes = [node("Relu", "x", "a"), node("Tanh", "a", "b"), node("Add", "a b", "y")]
    assert not where_needed.is_unsorted(made(nodes))
    found = ir.from_proto(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}))
    last = found.graph[2]
    found.graph.remove(last)
    found.graph.insert_before(found.graph[0], last)
    assert where_needed.is_unsorted(found)


def test_constants_functions_and_bodies() -> None:
    plain = made([node("Relu", "x", "y")])
    for needed in (where_needed.has_constants, where_needed.has_functions, where_needed.has_bodies):
        assert not needed(plain)
    constant = helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0])
    assert where_needed.has_constants(made([constant, node("Add", "x c", "y")]))


@pytest.mark.parametrize("name", list(originals()))
def test_as_the_general_traversal_sees_it(name: str) -> None:
    found = read_model(originals()[name]).to_ir()
    everything = list(ir.traversal.RecursiveGraphIterator(found.graph))
    assert list(walk(found.graph)) == everything
    assert where_needed.has_constants(found) == any(n.op_type == "Constant" for n in everything)
    if any(next(subgraphs(n), None) is not None for n in everything):
        assert where_needed.has_bodies(found)


def test_the_pass_runs_where_it_is_needed() -> None:
    class Counting(ir.passes.InPlacePass):
        count = 0

        def call(self, model: ir.Model) -> ir.passes.PassResult:
            self.count += 1
            return ir.passes.PassResult(model, modified=True)

    general, found = Counting(), made([node("Relu", "x", "y")])
    assert not WhereNeededPass(lambda m: False, general)(found).modified
    assert general.count == 0
    assert WhereNeededPass(lambda m: m is found, general)(found).modified
    assert general.count == 1
