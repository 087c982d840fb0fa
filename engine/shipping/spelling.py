"""Operators that a provider lacks, written in operators that it has, where that is exact.

Only forms that give the same number bit for bit (up to the sign of a zero, and the last bit of a reciprocal), so that
a file for one provider computes what the file for all of them does. What has no such form stays, and falls back to the
CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx_ir as ir

from onnxplain.engine.forms import step
from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.shapes import is_float

#: From the builder, in front of the node, and the node: what replaces its result, or None where it does not apply.
Spelling = Callable[[Builder, ir.Node], ir.Value | None]
_SPELLINGS: dict[str, tuple[frozenset[str], Spelling]] = {}


def _spells(op_type: str, *needed: str) -> Callable[[Spelling], Spelling]:
    """Register the form of an operator, and which operators it takes."""

    def register(spelling: Spelling) -> Spelling:
        _SPELLINGS[op_type] = (frozenset(needed), spelling)
        return spelling

    return register


def spell(model: ir.Model, lacks: Collection[str]) -> None:
    """Replace what the provider lacks, in the graph and in all bodies.

    Args:
        model: Changed in place; types of values have to be known.
        lacks: Operators that are to be avoided.
    """
    if not lacks:
        return
    builders: dict[ir.Graph, Builder] = {}
    taken, opset = names_of(model.graph), model.graph.opset_imports.get("", 18)
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.domain not in ("", "ai.onnx") or node.op_type not in lacks or not isinstance(node.graph, ir.Graph):
            continue
        needed, spelling = _SPELLINGS.get(node.op_type, (frozenset(), _none))
        if not needed.isdisjoint(lacks):
            continue
        op = builders.setdefault(node.graph, Builder(node.graph, taken=taken))
        op.before, op.lacks, op.portable, op.opset = node, lacks, True, opset
        _replace(node, spelling(op, node))


def _replace(node: ir.Node, value: ir.Value | None) -> None:
    """Give the value the place and the name of the node's result."""
    if value is None or not isinstance(node.graph, ir.Graph):
        return
    old = node.outputs[0]
    value.shape, value.type = old.shape, old.type
    name = old.name
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    old.name, value.name = None, name


def _none(op: Builder, node: ir.Node) -> ir.Value | None:
    return None


def _operands(node: ir.Node) -> list[ir.Value]:
    return [x for x in node.inputs if x is not None]


def _number(op: Builder, x: ir.Value) -> ir.Value:
    return op.Cast(x, to=ir.DataType.FLOAT.value)


@_spells("And", "Cast", "Mul")
def _and(op: Builder, node: ir.Node) -> ir.Value:
    a, b = _operands(node)
    return op.Cast(op.Mul(_number(op, a), _number(op, b)), to=ir.DataType.BOOL.value)


@_spells("Or", "Cast", "Add")
def _or(op: Builder, node: ir.Node) -> ir.Value:
    a, b = _operands(node)
    return op.Cast(op.Add(_number(op, a), _number(op, b)), to=ir.DataType.BOOL.value)


@_spells("GreaterOrEqual", "Less", "Not")
def _greater_or_equal(op: Builder, node: ir.Node) -> ir.Value:
    return op.Not(op.Less(*_operands(node)))


@_spells("LessOrEqual", "Greater", "Not")
def _less_or_equal(op: Builder, node: ir.Node) -> ir.Value:
    return op.Not(op.Greater(*_operands(node)))


@_spells("Sign", "Mul", "Sub")
def _sign(op: Builder, node: ir.Node) -> ir.Value | None:
    x = _operands(node)[0]
    return op.Sub(step(op, x), step(op, op.Mul(x, -1.0))) if is_float(x) else None


@_spells("Sum", "Add")
def _sum(op: Builder, node: ir.Node) -> ir.Value | None:
    first, *rest = _operands(node)
    for other in rest:
        first = op.Add(first, other)
    return first if rest else None


@_spells("Neg", "Mul")
def _neg(op: Builder, node: ir.Node) -> ir.Value:
    x = _operands(node)[0]
    return op.Mul(x, -1.0 if is_float(x) else -1)


@_spells("Abs", "Max", "Mul")
def _abs(op: Builder, node: ir.Node) -> ir.Value | None:
    x = _operands(node)[0]
    return op.Max(x, op.Mul(x, -1.0)) if is_float(x) else None


@_spells("Max", "Where", "Greater")
def _max(op: Builder, node: ir.Node) -> ir.Value | None:
    first, *rest = _operands(node)
    for other in rest:
        first = op.Where(op.Greater(first, other), first, other)
    return first if rest else None


@_spells("Min", "Mul")
def _min(op: Builder, node: ir.Node) -> ir.Value | None:
    """By Where, or through the maximum of the negated numbers."""
    first, *rest = _operands(node)
    for other in rest:
        if {"Where", "Greater"}.isdisjoint(op.lacks):
            first = op.Where(op.Greater(other, first), first, other)
        elif "Max" not in op.lacks and is_float(other):
            first = op.Mul(op.Max(op.Mul(first, -1.0), op.Mul(other, -1.0)), -1.0)
        else:
            return None
    return first if rest else None


@_spells("ReduceMin", "ReduceMax", "Mul")
def _reduce_min(op: Builder, node: ir.Node) -> ir.Value | None:
    x, *axes = _operands(node)
    attributes = {k: a.value for k, a in node.attributes.items()}
    return op.Mul(op.ReduceMax(op.Mul(x, -1.0), *axes, **attributes), -1.0) if is_float(x) else None


@_spells("Reciprocal", "Div")
def _reciprocal(op: Builder, node: ir.Node) -> ir.Value:
    return op.Div(1.0, _operands(node)[0])


@_spells("Flatten", "Reshape")
def _flatten(op: Builder, node: ir.Node) -> ir.Value | None:
    axis = node.attributes.get_int("axis", 1)
    return op.Reshape(_operands(node)[0], [0, -1]) if axis == 1 else None
