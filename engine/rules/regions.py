"""RoiAlign: the mean of bilinear samples in each cell of each region.

Validity and weights of a sample factor over the axes, so a region reads the picture through one matrix per
axis: ``y = A x B^T`` with ``A[cell, row] = mean over samples of max(0, 1 - |place - row|)``. Gradients are
matrix products, without gathering or scattering single elements; the boxes' gradient goes through the
places. The number of samples per cell is taken as it is (it changes in steps).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import cast_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient


@dataclass(frozen=True)
class _Line:
    """One axis of all regions.

    Attributes:
        matrix: Weights ``[R, cells, size]``.
        slopes: Derivative of the weights by each sample's place, ``[R, cells, samples, size]``.
        part: Where a sample lies in its region, from 0 to 1, ``[R, cells, samples]``.
        scale: What box coordinates are multiplied by.
        free: 1 where the region's length follows its box, ``[R]``; None where it does everywhere.
        ends: Columns of the box: start and end.
    """

    matrix: ir.Value
    slopes: ir.Value
    part: ir.Value
    scale: float
    free: ir.Value | None
    ends: tuple[int, int]


def _line(op: Builder, node: Primal, axis: int) -> _Line:
    """Axis 0 is the rows, 1 the columns."""
    x, rois = node.x(0), node.x(1)
    cells = int(node.attribute(("output_height", "output_width")[axis], 1))
    ratio, scale = int(node.attribute("sampling_ratio", 0)), float(node.attribute("spatial_scale", 1.0))
    half = str(node.attribute("coordinate_transformation_mode", "half_pixel")) == "half_pixel"
    ends = (1 - axis, 3 - axis)
    start, end = (op.Mul(op.Gather(rois, op.constant(column), axis=1), scale) for column in ends)
    length = op.Sub(end, start)
    free = None if half else forms.indicator(op, op.Greater(length, 1.0), length)
    length = length if half else op.Max(length, 1.0)
    start = op.Sub(start, 0.5) if half else start
    count = op.Ceil(op.Div(length, float(cells))) if ratio <= 0 else op.constant(float(ratio), x.dtype)
    most = op.constant(ratio) if ratio > 0 else op.Cast(
        op.Max(op.ReduceMax(count, keepdims=0), 1.0), to=ir.DataType.INT64.value
    )  # fmt: skip
    samples = cast_like(op, op.Range(0, most, 1), x)
    each = op.Max(count, 1.0)
    each = op.Reshape(each, [-1, 1, 1])
    cell = op.Unsqueeze(cast_like(op, op.Range(0, op.constant(cells), 1), x), [1])
    part = op.Div(op.Add(cell, op.Div(op.Add(samples, 0.5), each)), float(cells))
    place = op.Add(op.Reshape(start, [-1, 1, 1]), op.Mul(op.Reshape(length, [-1, 1, 1]), part))
    size = cast_like(op, op.Squeeze(op.Shape(x, start=2 + axis, end=3 + axis), [0]), x)
    taken = op.And(op.GreaterOrEqual(place, -1.0), op.LessOrEqual(place, size))
    taken = op.And(taken, op.Less(samples, op.Reshape(count, [-1, 1, 1])))
    share = op.Unsqueeze(op.Div(forms.indicator(op, taken, x), each), [3])
    last = op.Sub(size, 1.0)
    at = op.Unsqueeze(op.Min(op.Max(place, 0.0), last), [3])
    inside = op.Unsqueeze(forms.between(op, place, 0.0, last), [3])
    rows = cast_like(op, op.Range(0, op.Squeeze(op.Shape(x, start=2 + axis, end=3 + axis), [0]), 1), x)
    away = op.Sub(at, rows)
    near = op.Max(op.Sub(1.0, op.Abs(away)), 0.0)
    matrix = op.ReduceSum(op.Mul(near, share), [2], keepdims=0)
    # The upper neighbour counts from the place on, the lower one up to it: a place on an element leans to its right.
    lower = forms.between(op, away, -1.0, 0.0)
    upper = op.Mul(forms.indicator(op, op.GreaterOrEqual(away, 0.0), x), forms.indicator(op, op.Less(away, 1.0), x))
    slopes = op.Mul(op.Sub(lower, upper), op.Mul(share, inside))
    return _Line(matrix, slopes, part, scale, free, ends)


def _check(node: Primal) -> None:
    mode = str(node.attribute("mode", "avg"))
    if mode != "avg":
        raise node.unsupported(f"its mode '{mode}' has no rule", "export the model with RoiAlign in mode 'avg'")


def _matrix(op: Builder, value: ir.Value) -> ir.Value:
    """``[R, ...]`` as ``[R, 1, ...]``, to stand beside channels."""
    return op.Unsqueeze(value, [1])


def _turned(op: Builder, value: ir.Value, rank: int) -> ir.Value:
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


@gradient("RoiAlign")
def roi_align(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = sum over the regions of each sample of A^T dy B; dboxes through the places."""
    _check(node)
    x = node.x(0)
    lines = functools.cache(lambda: (_line(op, node, 0), _line(op, node, 1)))

    def to_x() -> ir.Value:
        rows, columns = lines()
        partial = op.MatMul(_matrix(op, _turned(op, rows.matrix, 3)), dy)
        mine = forms.indicator(op, op.Equal(op.Unsqueeze(node.x(2), [1]), _range_like(op, x, node.x(2))), x)
        spread = op.Mul(op.Unsqueeze(columns.matrix, [2]), op.Unsqueeze(mine, [1, 3]))
        # [C, H, R q] times [R q, N W]: regions are summed by the product itself.
        left = op.Reshape(op.Transpose(partial, perm=[1, 2, 0, 3]), op.Concat(op.Shape(x, start=1, end=3), [-1], axis=0))
        right = op.Reshape(spread, op.Concat([-1], op.Mul(op.Shape(x, start=0, end=1), op.Shape(x, start=3)), axis=0))
        whole = op.Reshape(op.MatMul(left, right), op.Concat([0, 0], op.Shape(x, start=0, end=1), [-1], axis=0))
        return op.Transpose(whole, perm=[2, 0, 1, 3])

    return [to_x, lambda: _to_boxes(op, node, dy, *lines()), None]


def _range_like(op: Builder, x: ir.Value, indices: ir.Value) -> ir.Value:
    known = dims(x)
    size = known[0] if known is not None else None
    count = op.constant(size) if isinstance(size, int) else op.Squeeze(op.Shape(x, start=0, end=1), [0])
    return cast_like(op, op.Range(0, count, 1), indices)


def _to_boxes(op: Builder, node: Primal, dy: ir.Value, rows: _Line, columns: _Line) -> ir.Value:
    regions = op.Gather(node.x(0), node.x(2), axis=0)
    through_columns = op.MatMul(regions, _matrix(op, _turned(op, columns.matrix, 3)))
    d_rows = op.ReduceSum(op.MatMul(dy, _turned(op, through_columns, 4)), [1], keepdims=0)
    through_rows = op.MatMul(_matrix(op, rows.matrix), regions)
    d_columns = op.ReduceSum(op.MatMul(_turned(op, dy, 4), through_rows), [1], keepdims=0)
    parts: dict[int, ir.Value] = {}
    for line, d in ((rows, d_rows), (columns, d_columns)):
        places = op.ReduceSum(op.Mul(line.slopes, op.Unsqueeze(d, [2])), [3], keepdims=0)
        length = op.ReduceSum(op.Mul(places, line.part), [1, 2], keepdims=0)
        if line.free is not None:
            length = op.Mul(length, line.free)
        start = op.ReduceSum(places, [1, 2], keepdims=0)
        parts[line.ends[0]] = op.Mul(op.Sub(start, length), line.scale)
        parts[line.ends[1]] = op.Mul(length, line.scale)
    return op.Concat(*(op.Unsqueeze(parts[i], [1]) for i in range(4)), axis=1)


@bias("RoiAlign")
def roi_align_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """Linear in x; without what the boxes' own change would do where they are active."""
    if not node.active(1):
        return []
    rows, columns = _line(op, node, 0), _line(op, node, 1)
    regions = op.Gather(node.x(0), node.x(2), axis=0)
    moved = []
    for line in (rows, columns):
        start, end = (op.Mul(op.Gather(node.x(1), op.constant(c), axis=1), line.scale) for c in line.ends)
        length = op.Sub(end, start)
        length = length if line.free is None else op.Mul(length, line.free)
        place = op.Add(op.Reshape(start, [-1, 1, 1]), op.Mul(op.Reshape(length, [-1, 1, 1]), line.part))
        moved.append(op.ReduceSum(op.Mul(line.slopes, op.Unsqueeze(place, [3])), [2], keepdims=0))
    pairs = ((moved[0], columns.matrix), (rows.matrix, moved[1]))
    change = [
        op.MatMul(op.MatMul(_matrix(op, a), regions), _matrix(op, _turned(op, b, 3))) for a, b in pairs
    ]
    total = op.Add(*change)
    return [Bias(op.Neg(total) if node.active(0) else op.Sub(node.y, total), "implicit")]
