"""Integer operators -> DequantizeLinear, the float operator, QuantizeLinear.

Every integer tensor that stands for real numbers gets its *real* form: a float tensor. Operators that
compute on integers compute on the real forms instead:

1. QLinearConv, QLinearMatMul, QGemm, QLinearAdd and their kin -> the float operator, then QuantizeLinear.
2. ConvInteger, MatMulInteger -> the float operator on levels minus zero point; the Cast behind it goes.
3. DynamicQuantizeLinear -> QuantizeLinear with the scale that it computes, which counts as a constant.
4. Operators that only move integers (Reshape, Transpose, MaxPool, Concat, ...) move the real form.

With ``round_values`` the real form of a quantised activation is what DequantizeLinear gives, and the
straight-through rules differentiate it. Without, it is the activation itself, limited to the range that
the integers can express: exporters leave Relu and Clip to that range, so it is part of the function.
The activation in front of either is kept under :data:`UNROUNDED`, for scores that would saturate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.infer import InferringBuilder, infer_node
from onnxplain.engine.graph.passes.fused.table import CONTRIB, REASON
from onnxplain.engine.graph.shapes import FLOATS, constant, dims, rank
from onnxplain.engine.rules.node import Primal

#: Operators that move integers without computing on them, by the number of leading operands that are moved.
_MOVING = {
    "Reshape": 1, "Flatten": 1, "Squeeze": 1, "Unsqueeze": 1, "Transpose": 1, "Identity": 1, "MaxPool": 1, "Slice": 1,
    "Split": 1, "Gather": 1, "GatherElements": 1, "GatherND": 1, "Expand": 1, "Tile": 1, "DepthToSpace": 1,
    "SpaceToDepth": 1, "ReduceMax": 1, "ReduceMin": 1,
}  # fmt: skip
#: Key in the ``meta`` of a real form: the value that was quantised, neither rounded nor limited, and which operator
#: with zero limits it where an end of the range is at zero (``Max``, ``Min``, or empty).
UNROUNDED = "onnxplain.unrounded"

_DYNAMIC = {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
_CONTRIB = {"QuantizeLinear", "DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}
_CONTRIB |= {"QAttention", "DynamicQuantizeLSTM"}


def is_quantised(model: ir.Model) -> bool:
    """Whether activations are quantised anywhere, in branches and bodies too; dequantised weights alone need nothing."""
    return any(
        (n.domain in ("", "ai.onnx") and n.op_type in _DYNAMIC)
        or (n.domain == CONTRIB and (n.op_type in _CONTRIB or n.op_type.startswith("QLinear")))
        for n in walk(model.graph)
    )


@dataclass(frozen=True)
class Real:
    """The float form of an integer tensor: ``value = (integer - zero) * scale``; no scale means 1, no zero 0."""

    value: ir.Value
    scale: ir.Value | None = None
    zero: ir.Value | None = None


class DequantizePass(ir.passes.InPlacePass):
    """See the module's text. Requires nodes in order."""

    def __init__(self, round_values: bool = True) -> None:
        super().__init__()
        self.round_values = round_values

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        Work(model.graph, self.round_values).run()
        common.LiftSubgraphInitializersToMainGraphPass()(model)
        return ir.passes.PassResult(model, modified=True)


class Work:
    """The pass at work: the real form of every integer tensor so far."""

    def __init__(self, graph: ir.Graph, round_values: bool) -> None:
        self.op = InferringBuilder(graph, names_of(graph))
        self.round_values = round_values
        self.reals: dict[ir.Value, Real] = {}

    def run(self) -> None:
        """Rewrite the graph, and the graphs inside it, in which captured integers keep their real form."""
        outer = self.op
        for node in list(outer.graph):
            for inner in subgraphs(node):
                self.op = InferringBuilder(inner, names_of(outer.graph))
                self.op.opset = outer.opset
                self.run()
                self.op = outer
            self.visit(node)

    def visit(self, node: ir.Node) -> None:
        """Rewrite one node, where it computes on integers."""
        from onnxplain.engine.graph.passes.integer import INTEGER

        handler = INTEGER.get((node.domain, node.op_type))
        self.op.before, mark = node, len(self.op.emitted)
        try:
            if handler is not None:
                handler(self, Primal(node, frozenset()))
            elif node.domain == "" and any(x in self.reals for x in node.inputs if x is not None):
                self._follow(node)
            else:
                infer_node(node, self.op.opset)
        except UnsupportedNodeError as error:
            for emitted in reversed(self.op.emitted[mark:]):
                self.op.graph.remove(emitted, safe=True)
            del self.op.emitted[mark:]
            node.meta[REASON] = (error.reason, error.hint)

    # ----- real forms ----------------------------------------------------------------------------

    def real(self, value: ir.Value, scale: ir.Value | None, zero: ir.Value | None, axis: int | None = None) -> ir.Value:
        """``(value - zero) * scale`` as floats.

        Args:
            value: The integers.
            scale, zero: Scalars, or vectors along ``axis``; None for 1 and 0.
            axis: From the front or the end; the end needs a known rank.
        """
        op, known = self.op, self.reals.get(value)
        if known is None:
            scale = op.constant(1.0, ir.DataType.FLOAT) if scale is None else scale
            return dequantized(op, value, scale, zero, axis)
        if _same(known.scale, scale) and _same(known.zero, zero):
            return known.value
        return self._rescaled(known, scale, zero)

    def _rescaled(self, known: Real, scale: ir.Value | None, zero: ir.Value | None) -> ir.Value:
        op, levels = self.op, known.value
        if known.scale is not None:
            levels = op.Div(levels, known.scale)
        for shift, emit in ((known.zero, op.Add), (zero, op.Sub)):
            if shift is not None and not _same(known.zero, zero):
                levels = emit(levels, op.CastLike(shift, levels))
        return levels if scale is None else op.Mul(levels, scale)

    def quantise(self, node: Primal, x: ir.Value, scale: ir.Value, zero: ir.Value | None, index: int = 0) -> None:
        """Let ``x`` be the real form of the node's result, quantised; the node goes."""
        op, old = self.op, node.outputs[index]
        q = op.QuantizeLinear(x, scalar(op, scale), None if zero is None else scalar(op, zero))
        q.dtype = (zero.dtype if zero is not None else None) or ir.DataType.UINT8
        q.shape = q.shape or x.shape
        self.put(old, q)
        self.remember(q, x, scale, zero)

    def remember(
        self, q: ir.Value, x: ir.Value, scale: ir.Value, zero: ir.Value | None, axis: int | None = None
    ) -> None:
        """Note the real form of a quantised activation."""
        if self.round_values:
            value = dequantized(self.op, q, scale, zero, axis)
        else:
            value = limited(self.op, x, scale, zero, q.dtype or ir.DataType.UINT8, axis)
        limit = _zero_end(zero, q.dtype or ir.DataType.UINT8)
        if value is not x and limit is not None:
            value.meta[UNROUNDED] = (x, limit)
        self.reals[q] = Real(value, scale, zero)

    def put(self, old: ir.Value, new: ir.Value) -> None:
        """``new`` in the place of ``old``, under its name."""
        made = new.producer()
        if made is None or made.graph is not self.op.graph or (new.name and not new.name.startswith("onnxplain/")):
            new = self.op.Identity(new)
        name = old.name
        new.type, new.shape = new.type or old.type, new.shape or old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"onnxplain/replaced/{name}"
        new.name = name

    # ----- nodes that move integers, or take them out --------------------------------------------

    def _follow(self, node: ir.Node) -> None:
        op, first = self.op, node.inputs[0]
        if node.op_type == "Cast" and first in self.reals and node.outputs[0].dtype in FLOATS:
            known, to = self.reals[first], node.outputs[0].dtype
            value = self._rescaled(Real(known.value, known.scale, known.zero), None, None)
            self.put(node.outputs[0], op.Cast(value, to=to.value) if to != value.dtype and to is not None else value)
            return
        if node.op_type in ("Add", "Sub", "Mul"):
            self._arithmetic(node)
            return
        moved = len(node.inputs) if node.op_type == "Concat" else _MOVING.get(node.op_type, 0)
        known_all = [self.reals.get(x) for x in node.inputs[:moved] if x is not None]
        if not known_all or any(k is None for k in known_all):
            return
        reals = [k for k in known_all if k is not None]
        if any(not _same(reals[0].scale, k.scale) or not _same(reals[0].zero, k.zero) for k in reals):
            return
        attributes = {k: a.value for k, a in node.attributes.items()}
        results = op.emit(
            node.op_type, [*(k.value for k in reals), *node.inputs[moved:]], len(node.outputs), **attributes
        )
        for old, new in zip(node.outputs, results, strict=True):
            if old.dtype is None or old.dtype == node.inputs[0].dtype:  # type: ignore[union-attr]
                self.reals[old] = Real(new, reals[0].scale, reals[0].zero)

    def _arithmetic(self, node: ir.Node) -> None:
        """Sums and products of accumulators, which have neither scale nor zero point."""
        parts = []
        for x in node.inputs:
            known = self.reals.get(x) if x is not None else None
            if x is None or (known is not None and (known.scale is not None or known.zero is not None)):
                return
            parts.append(known.value if known is not None else self.op.Cast(x, to=ir.DataType.FLOAT.value))
        self.reals[node.outputs[0]] = Real(self.op.emit(node.op_type, parts)[0])


Handler = Callable[[Work, Primal], None]


# ----- forms ------------------------------------------------------------------------------------------


def scalar(op: Builder, value: ir.Value) -> ir.Value:
    """A vector of one element as a scalar, which is what per-tensor quantisation means."""
    return op.Reshape(value, op.constant(np.zeros(0, np.int64))) if dims(value) == (1,) else value


def dequantized(
    op: Builder, value: ir.Value, scale: ir.Value, zero: ir.Value | None, axis: int | None = None
) -> ir.Value:
    """DequantizeLinear, per tensor or along an axis; a scalar zero point goes with a vector of scales."""
    scale, zero = scalar(op, scale), None if zero is None else scalar(op, zero)
    if rank(scale) == 1 and zero is not None and rank(zero) == 0:
        zero = op.Expand(zero, op.Shape(scale))
    elif rank(scale) == 0 and zero is not None and rank(zero) == 1:
        scale = op.Expand(scale, op.Shape(zero))
    result = op.DequantizeLinear(value, scale, zero, axis=axis if rank(scale) == 1 else None)
    result.type = ir.TensorType(scale.dtype or ir.DataType.FLOAT)
    result.shape = result.shape or value.shape
    return result


def _ends(dtype: ir.DataType) -> tuple[int, int] | None:
    """Smallest and largest integer of a quantised type."""
    if dtype.name not in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4"):
        return None
    low = -(2 ** (dtype.bitwidth - 1)) if dtype.name[0] == "I" else 0
    return low, low + 2**dtype.bitwidth - 1


def _zero_end(zero: ir.Value | None, dtype: ir.DataType) -> str | None:
    """``Max`` or ``Min`` where the range of integers ends at zero from below or above; None where that is not known."""
    ends, points = _ends(dtype), np.zeros(1) if zero is None else constant(zero)
    if ends is None or points is None:
        return None
    for limit, end in zip(("Max", "Min"), ends, strict=True):
        if np.any(points == end):
            return limit if np.all(points == end) else None
    return ""


def limited(
    op: Builder, x: ir.Value, scale: ir.Value, zero: ir.Value | None, dtype: ir.DataType, axis: int | None
) -> ir.Value:
    """x within the range that integers of ``dtype`` express with this scale and zero point."""
    ends = _ends(dtype)
    if ends is None:
        return x
    scale = scalar(op, scale)
    shift = None if zero is None else op.Cast(scalar(op, zero), to=(scale.dtype or ir.DataType.FLOAT).value)
    bounds = []
    for bound in ends:
        level = op.constant(bound, scale.dtype) if shift is None else op.Sub(op.constant(bound, scale.dtype), shift)
        bounds.append(op.Mul(level, scale))
    if rank(scale) == 1:
        count = rank(x)
        if count is None:
            return x
        bounds = [op.Reshape(b, [-1] + [1] * (count - 1 - (1 if axis is None else axis) % count)) for b in bounds]
        return op.Max(op.Min(x, bounds[1]), bounds[0])
    return op.Clip(x, *bounds)


def _same(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether two scales or zero points are known to be equal."""
    if a is b:
        return True
    first, second = constant(a), constant(b)
    if a is None or b is None:
        other = second if a is None else first
        return other is not None and other.dtype.kind in "iu" and not other.any()
    if first is None or second is None or first.size != second.size:
        return False
    return bool(np.all(first.ravel() == second.ravel()))
