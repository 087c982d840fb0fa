"""Undoes broadcasting: sums a gradient over the axes along which its operand was repeated.

By static axes where the shapes tell, at run time where they do not.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dims, dims, same


def unbroadcast(op: Builder, gradient: ir.Value, like: ir.Value, full: ir.Value) -> ir.Value:
    """Sum ``gradient``, which has the shape of ``full``, down to the shape of ``like``."""
    if like is full:
        return gradient
    return reduce_to(op, gradient, like, dims(like), dims(full))


def reduce_to(op: Builder, gradient: ir.Value, like: ir.Value, small: Dims | None, large: Dims | None) -> ir.Value:
    """The same with the sizes given: ``small`` those of ``like``, ``large`` those of ``gradient``."""
    axes = repeated_axes(small, large)
    if axes is None or small is None or large is None:
        return _at_run_time(op, gradient, like)
    lead = len(large) - len(small)
    inner = [a for a in axes if a >= lead]
    if inner:
        gradient = op.ReduceSum(gradient, inner, keepdims=1)
    if lead:
        gradient = op.ReduceSum(gradient, list(range(lead)), keepdims=0)
    return gradient


def repeated_axes(small: Dims | None, large: Dims | None) -> list[int] | None:
    """Axes of ``large`` along which ``small`` was repeated (or that it lacks); None where unknown."""
    if small is None or large is None or len(small) > len(large):
        return None
    lead = len(large) - len(small)
    axes = list(range(lead))
    for i, (s, f) in enumerate(zip(small, large[lead:], strict=True)):
        if same(s, f) or (isinstance(s, int) and s != 1):
            continue
        if s != 1:
            return None
        axes.append(lead + i)
    return axes


def _at_run_time(op: Builder, gradient: ir.Value, like: ir.Value) -> ir.Value:
    shape, full = op.Shape(like), op.Shape(gradient)
    missing = op.Sub(op.Shape(full), op.Shape(shape))
    ones = op.ConstantOfShape(missing, value=ir.tensor([1], dtype=ir.DataType.INT64))
    repeated = op.Not(op.Equal(op.Concat(ones, shape, axis=0), full))
    axes = op.Reshape(op.NonZero(repeated), [-1])
    return op.Reshape(op.ReduceSum(gradient, axes, keepdims=1, noop_with_empty_axes=1), shape)
