"""Which of several equal forms is emitted, in one place: the ones that measured fastest.

Choices are made here and nowhere else; `docs/performance.md` has the measurements behind them.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, Operand
from onnxplain.engine.graph.shapes import constant

#: ``HardSigmoid(2^127 x)`` is 1 for every normal positive float32 and 0 for x <= 0. It is one vectorised
#: pass where Greater + Cast is two and Where is a slow one. Not every runtime computes it so (OpenVINO 2026 does
#: not, without a word), which is why files that are shipped have the plain form.
_STEEP = 2.0**127

#: Constants are looked at up to this size; beyond it the runtime's folding does the same work.
_INSPECTED = 1 << 16


def step(op: Builder, x: ir.Value) -> ir.Value:
    """1 where x > 0, else 0 (also at 0), in x's type."""
    if x.dtype == ir.DataType.FLOAT and not op.portable:
        return op.HardSigmoid(x, alpha=_STEEP, beta=0.0)
    if "Greater" in op.lacks:
        return op.Ceil(op.Clip(x, 0.0, 1.0))
    return op.Cast(op.Greater(x, 0.0), to=_dtype(x))


def is_greatest(op: Builder, x: ir.Value, greatest: ir.Value) -> ir.Value:
    """1 where x equals a bound that it never exceeds, else 0, in x's type."""
    if "Equal" in op.lacks:
        return op.Sub(1.0, step(op, op.Sub(greatest, x)))
    return indicator(op, op.Equal(x, greatest), x)


def reached(op: Builder, x: ir.Value, bound: ir.Value, number: float) -> ir.Value:
    """1 where x has reached an upper bound, else 0, in x's type.

    The comparison is the gate's own (:func:`between`), so that a runtime makes it once and reads x no more.

    Args:
        op: Where to emit.
        x: Values up to the bound.
        bound: The bound in the graph.
        number: The same as a number.
    """
    if {"Less", "Not"}.isdisjoint(op.lacks):
        return indicator(op, op.Not(op.Less(x, bound)), x)
    return at_least(op, x, number)


def at_least(op: Builder, x: ir.Value, bound: float) -> ir.Value:
    """1 where x >= bound, else 0, for a constant bound.

    With u the distance from the float32 below the bound, ``HardSigmoid((x - (bound - u)) / u)`` is exact:
    the slope is a power of two and the offset an integer of 24 bits.
    """
    below = np.nextafter(np.float32(bound), np.float32(-np.inf))
    slope = 1.0 / (float(np.float32(bound)) - float(below))
    if x.dtype == ir.DataType.FLOAT and not op.portable and bound != 0 and np.isfinite(slope) and slope < _STEEP:
        return op.HardSigmoid(x, alpha=slope, beta=-float(below) * slope)
    if "GreaterOrEqual" in op.lacks:
        return op.Sub(1.0, step(op, op.Sub(bound, x)))
    return indicator(op, op.GreaterOrEqual(x, bound), x)


def indicator(op: Builder, condition: ir.Value, like: ir.Value) -> ir.Value:
    """A boolean as 0 and 1 in the type of ``like``."""
    return op.Cast(condition, to=_dtype(like))


def half_step(op: Builder, x: ir.Value) -> ir.Value:
    """1 where x > 0, 1/2 at 0, else 0, in x's type: each side's even share of a tie."""
    if x.dtype == ir.DataType.FLOAT and not op.portable:
        return op.HardSigmoid(x, alpha=_STEEP, beta=0.5)
    if "Sign" in op.lacks:
        return op.Mul(op.Add(op.Sub(step(op, x), step(op, op.Mul(x, -1.0))), 1.0), 0.5)
    return op.Add(op.Mul(op.Sign(x), 0.5), 0.5)


def between(op: Builder, x: ir.Value, low: Operand, high: Operand) -> ir.Value:
    """1 where low < x < high, else 0; a missing bound is no bound, but one has to be there."""
    if not {"Greater", "Less", "And"}.isdisjoint(op.lacks):
        gates = [] if low is None else [step(op, op.Sub(x, low))]
        gates += [] if high is None else [step(op, op.Sub(high, x))]
        return gates[0] if len(gates) == 1 else op.Mul(*gates)
    parts = [] if low is None else [op.Greater(x, low)]
    parts += [] if high is None else [op.Less(x, high)]
    return indicator(op, parts[0] if len(parts) == 1 else op.And(*parts), x)


def finite(op: Builder, x: ir.Value) -> ir.Value:
    """``x`` with 0 for what is infinite: the bias of a place whose adjoint is 0 (a mask of -inf) is 0, not NaN.

    Constants of at most :data:`_INSPECTED` elements that are finite are given back as they are.
    """
    known = constant(x)
    if known is not None and known.size <= _INSPECTED and np.isfinite(known).all():
        return x
    return op.Where(op.Equal(op.Abs(x), math.inf), 0.0, x)


def _dtype(x: ir.Value) -> int:
    return (x.dtype or ir.DataType.FLOAT).value


def dot(op: Builder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Per sample inner product of two tensors of equal shape, ``[N, 1]``.

    A matrix product of a row with a row: one read of each and no tensor of products. Runtimes fuse the
    Transpose into it; a product with a column instead is twelve times slower.
    """
    rows = [op.Reshape(v, [0, 1, -1]) for v in (a, b)]
    return op.Squeeze(op.MatMul(rows[0], op.Transpose(rows[1], perm=[0, 2, 1])), [2])


def channel_sum(op: Builder, x: ir.Value, weights: ir.Value, channels: int) -> ir.Value:
    """Weighted sum over axis 1, ``[N, C, ...]`` -> ``[N, 1, P]`` with all places in one axis.

    As a matrix product a quarter of the time of a 1x1 convolution with one output channel.
    """
    return op.MatMul(op.Reshape(weights, [1, channels]), op.Reshape(x, [0, channels, -1]))
