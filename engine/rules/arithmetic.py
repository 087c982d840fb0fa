"""Add, Sub, Mul and their like: elementwise operators of several operands that broadcast.

Rules give each operand's gradient in the result's shape; the walk sums it down to the operand's.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, linear, of_degree


def constant_terms(op: Builder, node: Primal, signs: Sequence[int]) -> list[Bias]:
    """The operands that are added without being active: explicit biases."""
    terms = []
    for x, sign in zip(node.inputs, signs, strict=True):
        if x is not None and not node.active(node.inputs.index(x)):
            terms.append(Bias(x if sign > 0 else op.Neg(x), "explicit", x.name or ""))
    return terms


@gradient("Add", broadcasts=True)
def add(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy, db = dy."""
    return [dy, dy]


@bias("Add")
def add_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return constant_terms(op, node, (1, 1))


@gradient("Sub", broadcasts=True)
def sub(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy, db = -dy."""
    return [dy, lambda: op.Neg(dy)]


@bias("Sub")
def sub_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return constant_terms(op, node, (1, -1))


@gradient("Mul", broadcasts=True)
def mul(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy · b, db = dy · a."""
    a, b = node.x(0), node.x(1)
    return [lambda: op.Mul(dy, b), lambda: op.Mul(dy, a)]


@bias("Mul")
def mul_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return of_degree(op, node, node.active_count())


@gradient("Neg")
def neg(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = -dy."""
    return [op.Neg(dy)]


linear("Neg")
