"""Which of several equal forms is emitted, in one place: the ones that measured fastest.

Choices are made here and nowhere else; `docs/performance.md` has the measurements behind them.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, Operand

#: ``HardSigmoid(2^127 x)`` is 1 for every normal positive float32 and 0 for x <= 0. It is one vectorised
#: pass where Greater + Cast is two and Where is a slow one.
_STEEP = 2.0**127


def step(op: Builder, x: ir.Value) -> ir.Value:
    """1 where x > 0, else 0 (also at 0), in x's type."""
    if x.dtype == ir.DataType.FLOAT:
        return op.HardSigmoid(x, alpha=_STEEP, beta=0.0)
    return op.Cast(op.Greater(x, 0.0), to=_dtype(x))


def indicator(op: Builder, condition: ir.Value, like: ir.Value) -> ir.Value:
    """A boolean as 0 and 1 in the type of ``like``."""
    return op.Cast(condition, to=_dtype(like))


def between(op: Builder, x: ir.Value, low: Operand, high: Operand) -> ir.Value:
    """1 where low < x < high, else 0; a missing bound is no bound."""
    parts = [] if low is None else [indicator(op, op.Greater(x, low), x)]
    parts += [] if high is None else [indicator(op, op.Less(x, high), x)]
    return parts[0] if len(parts) == 1 else op.Mul(*parts)


def _dtype(x: ir.Value) -> int:
    return (x.dtype or ir.DataType.FLOAT).value


def dot(op: Builder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Per sample inner product of two tensors of equal shape, ``[N]``."""
    return op.ReduceSum(op.Flatten(op.Mul(a, b), axis=1), [1], keepdims=0)
