"""Coarse maps handed out over finer places, so that each keeps its sum.

Interpolation keeps values: a map of ones stays a map of ones, and its sum grows with its area. Spreading keeps sums:
every place hands its value out over the places that it reaches, by the weights of linear interpolation, scaled to sum
to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import size_of


def spread(op: Builder, value: ir.Value, sizes: Sequence[ir.Value], align_corners: bool) -> ir.Value:
    """Emit maps ``[N, places...]`` at other sizes, each with the sum that it had.

    Args:
        op: Where to emit.
        value: The maps.
        sizes: Size of each place axis, ``int64[1]``.
        align_corners: Coordinate convention, as for interpolation.
    """
    count = len(sizes)
    for axis, size in enumerate(sizes, start=1):
        matrix = _spreading(op, value, axis, size, align_corners)
        order = [i for i in range(count + 1) if i != axis] + [axis]
        moved = op.MatMul(op.Transpose(value, perm=order), op.Transpose(matrix, perm=[1, 0]))
        value = op.Transpose(moved, perm=[order.index(i) for i in range(count + 1)])
    return value


def _spreading(op: Builder, value: ir.Value, axis: int, size: ir.Value, align_corners: bool) -> ir.Value:
    """``[target, source]`` with columns that sum to one; the triangle is as wide as the coarser grid's steps."""
    kind = (value.dtype or ir.DataType.FLOAT).value
    length = size_of(op, value, axis)
    source, target = (op.Cast(n, to=kind) for n in (length, size))

    def steps(count: ir.Value) -> ir.Value:
        return op.Cast(op.Range(0, op.Squeeze(count, [0]), 1), to=kind)

    if align_corners:
        at = op.Mul(steps(size), op.Div(op.Sub(source, 1.0), op.Max(op.Sub(target, 1.0), op.constant(1, value.dtype))))
    else:
        at = op.Sub(op.Mul(op.Add(steps(size), 0.5), op.Div(source, target)), 0.5)
        at = op.Min(op.Max(at, op.constant(0, value.dtype)), op.Sub(source, 1.0))
    distance = op.Abs(op.Sub(op.Unsqueeze(at, [1]), steps(length)))
    width = op.Max(op.Div(source, target), op.constant(1, value.dtype))
    share = op.Relu(op.Sub(1.0, op.Div(distance, width)))
    return op.Div(share, op.ReduceSum(share, [0], keepdims=1))
