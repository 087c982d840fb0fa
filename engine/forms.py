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
#: pass where Greater + Cast is two and Where is a slow one.
_STEEP = 2.0**127

#: Constants are looked at up to this size; beyond it the runtime's folding does the same work.
_INSPECTED = 1 << 16


def step(op: Builder, x: ir.Value) -> ir.Value:
    """1 where x > 0, else 0 (also at 0), in x's type."""
    if x.dtype == ir.DataType.FLOAT:
        return op.HardSigmoid(x, alpha=_STEEP, beta=0.0)
    return op.Cast(op.Greater(x, 0.0), to=_dtype(x))


def indicator(op: Builder, condition: ir.Value, like: ir.Value) -> ir.Value:
    """A boolean as 0 and 1 in the type of ``like``."""
    return op.Cast(condition, to=_dtype(like))


def half_step(op: Builder, x: ir.Value) -> ir.Value:
    """1 where x > 0, 1/2 at 0, else 0, in x's type: each side's even share of a tie."""
    if x.dtype == ir.DataType.FLOAT:
        return op.HardSigmoid(x, alpha=_STEEP, beta=0.5)
    return op.Add(op.Mul(op.Sign(x), 0.5), 0.5)


def between(op: Builder, x: ir.Value, low: Operand, high: Operand) -> ir.Value:
    """1 where low < x < high, else 0; a missing bound is no bound, but one has to be there."""
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
    """Per sample inner product of two tensors of equal shape, ``[N]``."""
    return op.ReduceSum(op.Flatten(op.Mul(a, b), axis=1), [1], keepdims=0)
