"""ScatterElements and ScatterND in all their reductions, of which one text serves both; TensorScatter.

Where several updates meet at one place under ``none``, the standard leaves the result open; their
gradient then is as if they had not met.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import cast_like, widened, zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient


class _Places:
    """Reads from and writes to the places that a scatter node addresses."""

    def __init__(self, op: Builder, node: Primal) -> None:
        self.op = op
        self.data, self.indices, self.updates = node.x(0), node.x(1), node.x(2)
        self.axis = int(node.attribute("axis", 0)) if node.op_type == "ScatterElements" else None
        self.reduction = str(node.attribute("reduction", "none"))
        if self.reduction not in ("none", "add", "mul", "max", "min"):
            raise node.unsupported(f"its reduction '{self.reduction}' is unknown", "check the model with onnx.checker")

    def scatter(self, base: ir.Value, updates: ir.Value, reduction: str = "none") -> ir.Value:
        """``base`` with the updates written to, or combined with, what is at the places."""
        if self.axis is not None:
            return self.op.ScatterElements(base, self.indices, updates, axis=self.axis, reduction=reduction)
        return self.op.ScatterND(base, self.indices, updates, reduction=reduction)

    def gather(self, values: ir.Value) -> ir.Value:
        """What stands at the places, in the shape of the updates."""
        if self.axis is not None:
            return self.op.GatherElements(values, self.indices, axis=self.axis)
        return self.op.GatherND(values, self.indices)

    def total(self, updates: ir.Value) -> ir.Value:
        """The updates added up at the places, zeros elsewhere."""
        updates = widened(self.op, updates)
        added = self.scatter(zeros_like(self.op, self.data, updates.dtype), updates, "add")
        return cast_like(self.op, added, self.data)

    def shares(self, y: ir.Value) -> tuple[ir.Value, ir.Value]:
        """For max and min: how much of y the data and each update are; ties share."""
        op = self.op
        ours = forms.indicator(op, op.Equal(self.data, y), y)
        theirs = forms.indicator(op, op.Equal(self.updates, self.gather(y)), y)
        count = op.Add(ours, self.total(theirs))
        return op.Div(ours, count), op.Div(theirs, self.gather(count))


@gradient("ScatterElements", "ScatterND")
def scatter(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """ddata = dy where y is data, dupdates = dy at their places; times the other factors for ``mul``."""
    at = _Places(op, node)
    if at.reduction == "none":
        return [lambda: at.scatter(dy, zeros_like(op, at.updates)), None, lambda: at.gather(dy)]
    if at.reduction == "add":
        return [dy, None, lambda: at.gather(dy)]
    if at.reduction == "mul":
        return [lambda: at.scatter(dy, at.updates, "mul"), None, lambda: _factors(op, at, dy)]
    data, updates = at.shares(node.y)
    return [lambda: op.Mul(dy, data), None, lambda: op.Mul(at.gather(dy), updates)]


def _factors(op: Builder, at: _Places, dy: ir.Value) -> ir.Value:
    """dy times the product of all factors but the update itself, right at zeros too."""
    zero = op.Equal(at.updates, 0.0)
    safe = op.Where(zero, op.constant(1, at.updates.dtype), at.updates)
    zeros = forms.indicator(op, zero, at.updates)
    product = at.gather(at.scatter(at.data, safe, "mul"))
    others = op.Sub(at.gather(at.total(zeros)), zeros)
    kept = op.Div(op.Mul(at.gather(dy), product), safe)
    return op.Mul(kept, forms.indicator(op, op.Equal(others, 0.0), dy))


@bias("ScatterElements", "ScatterND")
def scatter_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """What is not active at its places (none, add: explicit); what the product or choice leaves over."""
    at = _Places(op, node)
    data, updates = node.active(0), node.active(2)
    if at.reduction in ("none", "add"):
        if data and updates:
            return []
        if not data:
            kept = at.data if at.reduction == "add" else at.scatter(at.data, zeros_like(op, at.updates))
            return [Bias(kept, "explicit", at.data.name or "")]
        return [Bias(at.total(at.updates) if at.reduction == "add" else at.scatter(
            zeros_like(op, at.data), at.updates), "explicit", at.updates.name or "")]  # fmt: skip
    if at.reduction == "mul":
        if not updates:
            return []
        met = at.total(zeros_like(op, at.updates, fill=1))
        return [Bias(op.Mul(node.y, op.Neg(met) if data else op.Sub(1.0, met)), "implicit")]
    if data and updates:
        return []
    ours = at.shares(node.y)[0]
    return [Bias(op.Mul(node.y, op.Sub(1.0, ours) if data else ours), "implicit")]


def _cache_write(op: Builder, node: Primal, cache: ir.Value, update: ir.Value) -> ir.Value:
    axis, mode = node.attribute("axis", -2), node.attribute("mode", "linear")
    return op.TensorScatter(cache, update, node.optional(2), axis=axis, mode=mode)


def _written(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
    """``dy`` at the places that the update was written to, in its shape."""
    update, rank = node.x(1), node.rank(1)
    axis = node.axis(-2, 1)
    steps = op.Range(0, op.Squeeze(op.Shape(update, start=axis, end=axis + 1), [0]), 1)
    places = op.Reshape(steps, [-1] + [1] * (rank - 1 - axis))
    start = node.optional(2)
    if start is not None:
        places = op.Add(op.Reshape(start, [-1] + [1] * (rank - 1)), places)
    if node.attribute("mode", "linear") == "circular":
        places = op.Mod(places, op.Shape(dy, start=axis, end=axis + 1))
    return op.GatherElements(dy, op.Expand(places, op.Shape(update)), axis=axis)


@gradient("TensorScatter")
def tensor_scatter(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dcache = dy with zeros where the update was written, dupdate = dy there."""
    parts: list[Contribution] = [
        lambda: _cache_write(op, node, dy, zeros_like(op, node.x(1))),
        lambda: _written(op, node, dy),
        None,
    ]
    return parts[: len(node.inputs)]


@bias("TensorScatter")
def tensor_scatter_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """What is not active, at its places."""
    cache, update = node.x(0), node.x(1)
    if node.active(0) and node.active(1):
        return []
    if node.active(0):
        return [Bias(_cache_write(op, node, zeros_like(op, cache), update), "explicit", update.name or "")]
    return [Bias(_cache_write(op, node, cache, zeros_like(op, update)), "explicit", cache.name or "")]
