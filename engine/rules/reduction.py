"""Reduce*, CumSum, CumProd, TopK, ArgMax: operators that go over the elements of some axes.

The adjoint of a reduced result has fewer axes or smaller ones than the operand. It gets the kept axes back
with one Unsqueeze, and multiplication broadcasts it; only where nothing is multiplied (Sum, Mean) an Expand
does, by numbers wherever the reduced sizes are known, even if the batch is not.

Kinks and ties, here and in the bias rules:

- ReduceMax, ReduceMin: elements that tie share the gradient evenly, as in torch's amax and amin.
- ReduceL1: 0 at 0. ReduceL2: 0 where the norm is 0, as in torch's norm.
- ReduceProd: right at zeros as well; each element gets the product of the others.
- TopK: the gradient goes to the elements that the node chose, ties as it broke them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims, rank
from onnxplain.engine.layout import cast_like, zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import (
    ZERO,
    Bias,
    Contribution,
    bias,
    gradient,
    homogeneous,
    linear,
    no_gradient,
    of_degree,
    only,
)

# ----- what a node reduces ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reduction:
    """Which axes a node reduces, and how its adjoint gets back to the operand's shape.

    Attributes:
        op, node: Where to emit, and the node.
        axes: The axes counted from the front; None where they, or the operand's rank, are of the run time.
        noop: Whether no axes mean that each element is reduced on its own, not all of them together.
        keepdims: Whether the result has the reduced axes with size 1.
    """

    op: Builder
    node: Primal
    axes: tuple[int, ...] | None
    noop: bool
    keepdims: bool

    @staticmethod
    def of(op: Builder, node: Primal) -> _Reduction:
        noop = bool(node.attribute("noop_with_empty_axes", 0))
        total = rank(node.x())
        given = node.constant(1)
        listed: Sequence[int] | None = [int(a) for a in given.reshape(-1)] if given is not None else None
        if node.optional(1) is None:
            listed = ()
        axes = None
        if listed is not None and total is not None:
            chosen = [a % total for a in listed]
            axes = tuple(sorted(chosen)) if chosen or noop else tuple(range(total))
        elif node.optional(1) is None and noop:
            axes = ()
        return _Reduction(op, node, axes, noop, bool(node.attribute("keepdims", 1)))

    def kept(self, value: ir.Value) -> ir.Value:
        """``value``, of the result's shape, so that it broadcasts against the operand."""
        if self.keepdims or self.axes == ():
            return value
        if self.axes is None:
            # Where there are no axes at run time, the result is a scalar or has the operand's shape.
            axes = self.node.optional(1)
            return value if axes is None else self.op.Unsqueeze(value, axes)
        return value if len(self.axes) == rank(self.node.x()) else self.op.Unsqueeze(value, list(self.axes))

    def sizes(self) -> list[int] | None:
        """Sizes of the reduced axes; None unless all are known."""
        known = dims(self.node.x())
        if self.axes is None or (known is None and self.axes):
            return None
        sizes = [known[a] for a in self.axes] if known is not None else []
        numbers = [s for s in sizes if isinstance(s, int)]
        return numbers if len(numbers) == len(sizes) else None

    def spread(self, dy: ir.Value) -> ir.Value:
        """The adjoint repeated over what was reduced."""
        sizes, total = self.sizes(), rank(self.node.x())
        scalar = not self.keepdims and self.axes is not None and len(self.axes) == total
        if sizes is None or total is None:
            return dy if self.axes == () else self.op.Expand(self.kept(dy), self.op.Shape(self.node.x()))
        if all(s == 1 for s in sizes) and not (scalar and total):
            return self.kept(dy)
        shape = [1] * total
        for axis, size in zip(self.axes or (), sizes, strict=True):
            shape[axis] = size
        return self.op.Expand(self.kept(dy), shape)

    def count(self) -> int | ir.Value:
        """Number of elements that became one: a number, or an int64 tensor of one element."""
        sizes = self.sizes()
        if sizes is not None:
            return math.prod(sizes)
        op, x = self.op, self.node.x()
        if self.axes is not None and len(self.axes) < (rank(x) or 0):
            parts = [op.Shape(x, start=a, end=a + 1) for a in self.axes]
            return parts[0] if len(parts) == 1 else op.ReduceProd(op.Concat(*parts, axis=0), keepdims=0)
        return op.Size(x) if self.axes is not None else op.Div(op.Size(x), op.Max(op.Size(self.node.y), 1))

    def again(self, op_type: str, value: ir.Value) -> ir.Value:
        """Another reduction over the same axes, which are kept."""
        noop = int(self.noop) or None
        axes = self.node.optional(1)
        return self.op.emit(op_type, [value, axes], keepdims=1, noop_with_empty_axes=noop)[0]


# ----- sums -------------------------------------------------------------------------------------------


@gradient("ReduceSum")
def reduce_sum(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy."""
    return only(node, _Reduction.of(op, node).spread(dy))


@gradient("ReduceMean")
def reduce_mean(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / n for n elements."""
    reduction = _Reduction.of(op, node)
    count = reduction.count()
    if isinstance(count, ir.Value):
        dy = op.Div(dy, cast_like(op, count, dy))
    elif count > 1:
        dy = op.Mul(dy, 1.0 / count)
    return only(node, reduction.spread(dy))


@gradient("CumSum")
def cum_sum(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = CumSum of dy from the other end."""
    exclusive, reverse = int(node.attribute("exclusive", 0)), int(node.attribute("reverse", 0))
    return only(node, op.CumSum(dy, node.x(1), exclusive=exclusive, reverse=1 - reverse))


linear("ReduceSum", "ReduceMean", "CumSum")


def _running(
    op: Builder, node: Primal, value: ir.Value, *, back: bool = False, exclusive: int | None = None
) -> ir.Value:
    """Running sum the node's way along its axis, or the other way."""
    exclusive = int(node.attribute("exclusive", 0)) if exclusive is None else exclusive
    return op.CumSum(value, node.x(1), exclusive=exclusive, reverse=int(node.attribute("reverse", 0)) ^ int(back))


@gradient("CumProd")
def cum_prod(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx_j = sum over i from j on of dy_i · (product of all factors of y_i but x_j).

    That is dy_i y_i / x_j where x_j is not 0; at the first 0 of a line the product is formed with 1 in its
    place; behind it the 0 stays among the factors, so that nothing is left.
    """
    x, y = node.x(), node.y
    zero = op.Equal(x, 0.0)
    count = _running(op, node, forms.indicator(op, zero, x), exclusive=0)
    first = op.And(zero, op.Equal(count, 1.0))
    whole = op.Div(_running(op, node, op.Mul(dy, y), back=True), op.Where(zero, 1.0, x))
    exclusive, reverse = int(node.attribute("exclusive", 0)), int(node.attribute("reverse", 0))
    others = op.CumProd(op.Where(first, 1.0, x), node.x(1), exclusive=exclusive, reverse=reverse)
    at_zero = op.Mul(_running(op, node, op.Mul(dy, others), back=True), forms.indicator(op, first, x))
    return only(node, op.Where(zero, at_zero, whole))


@bias("CumProd")
def cum_prod_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """(1 - n) y: of degree n in its n factors."""
    factors = _running(op, node, zeros_like(op, node.x(), fill=1.0))
    return [Bias(op.Mul(node.y, op.Sub(1.0, factors)), "implicit")]


@gradient("ReduceSumSquare")
def reduce_sum_square(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = 2 dy · x."""
    return only(node, op.Mul(node.x(), _Reduction.of(op, node).kept(op.Mul(dy, 2.0))))


homogeneous(2, "ReduceSumSquare")

# ----- norms ------------------------------------------------------------------------------------------


@gradient("ReduceL1")
def reduce_l1(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · sign(x)."""
    return only(node, op.Mul(op.Sign(node.x()), _Reduction.of(op, node).kept(dy)))


@gradient("ReduceL2")
def reduce_l2(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = (dy / y) · x, 0 where y = 0."""
    y = op.Where(op.Equal(node.y, 0.0), 1.0, node.y)
    return only(node, op.Mul(node.x(), _Reduction.of(op, node).kept(op.Div(dy, y))))


# ----- choices ----------------------------------------------------------------------------------------


@gradient("ReduceMax", "ReduceMin")
def reduce_extremum(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / k at each of the k elements that equal y, else 0."""
    reduction = _Reduction.of(op, node)
    hits = forms.indicator(op, op.Equal(node.x(), reduction.kept(node.y)), node.x())
    return only(node, op.Mul(hits, op.Div(reduction.kept(dy), reduction.again("ReduceSum", hits))))


@gradient("TopK")
def top_k(op: Builder, node: Primal, dy: ir.Value | None, _: ir.Value | None = None) -> Sequence[Contribution]:
    """dx = dy at the elements that were chosen, else 0."""
    axis = int(node.attribute("axis", -1))
    indices = node.outputs[1] if len(node.outputs) > 1 else None
    if indices is None or not indices.name:
        largest, ordered = int(node.attribute("largest", 1)), int(node.attribute("sorted", 1))
        indices = op.emit("TopK", node.inputs, outputs=2, axis=axis, largest=largest, sorted=ordered)[1]
    return only(node, ZERO if dy is None else op.ScatterElements(zeros_like(op, node.x()), indices, dy, axis=axis))


homogeneous(1, "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "TopK")

no_gradient(
    "ArgMax",
    "ArgMin",
    reported=True,
    remedy="it gives a place, which changes in steps; explain the scores that enter it, or ReduceMax of them",
)

# ----- products ---------------------------------------------------------------------------------------


@gradient("ReduceProd")
def reduce_prod(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · (product of the others).

    With P the product of the elements that are not 0, the others' product is P over the element itself (1 in
    place of a 0), unless there is a 0 among them. Linear in the number of elements, no division by 0.
    """
    reduction, x = _Reduction.of(op, node), node.x()
    zero = forms.indicator(op, op.Equal(x, 0.0), x)
    safe = op.Add(x, zero)
    product, zeros = reduction.again("ReduceProd", safe), reduction.again("ReduceSum", zero)
    alone = forms.indicator(op, op.Equal(zeros, zero), x)
    return only(node, op.Mul(op.Div(op.Mul(reduction.kept(dy), product), safe), alone))


@bias("ReduceProd")
def reduce_prod_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """(1 - n) y: of degree n in the n elements of each product."""
    count = _Reduction.of(op, node).count()
    if isinstance(count, int):
        return of_degree(op, node, count)
    return [Bias(op.Mul(node.y, op.Sub(1.0, cast_like(op, count, node.y))), "implicit")]


# ----- logarithms -------------------------------------------------------------------------------------


@gradient("ReduceLogSum")
def reduce_log_sum(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / sum(x) = dy · exp(-y)."""
    return only(node, _Reduction.of(op, node).spread(op.Mul(dy, op.Exp(op.Neg(node.y)))))


@bias("ReduceLogSum")
def reduce_log_sum_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y - 1."""
    return [Bias(op.Sub(node.y, 1.0), "implicit")]


def _shares(op: Builder, reduction: _Reduction) -> ir.Value:
    """Softmax over the reduced axes, exp(x - y); 0 where all elements are -inf."""
    y = reduction.node.y
    floor = op.Where(op.Equal(y, -math.inf), 0.0, y)
    return op.Exp(op.Sub(reduction.node.x(), reduction.kept(floor)))


@gradient("ReduceLogSumExp")
def reduce_log_sum_exp(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · exp(x - y)."""
    reduction = _Reduction.of(op, node)
    return only(node, op.Mul(_shares(op, reduction), reduction.kept(dy)))


@bias("ReduceLogSumExp")
def reduce_log_sum_exp_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y - sum(p · x) with p = exp(x - y): the entropy of p. Elements of -inf (masks) have p = 0 and count as 0."""
    reduction = _Reduction.of(op, node)
    weighted = op.Mul(_shares(op, reduction), forms.finite(op, node.x()))
    noop, axes = int(reduction.noop) or None, node.optional(1)
    mean = op.emit("ReduceSum", [weighted, axes], keepdims=int(reduction.keepdims), noop_with_empty_axes=noop)[0]
    return [Bias(op.Sub(forms.finite(op, node.y), mean), "implicit")]
