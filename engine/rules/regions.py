"""RoiAlign: the mean, or the largest part, of bilinear samples in each cell of each region.

Validity and weights of a sample factor over the axes, so a region reads the picture through one matrix per
axis: ``y = A x B^T`` with ``A[cell, row] = mean over samples of max(0, 1 - |place - row|)``. Gradients are
matrix products, without gathering or scattering single elements; the boxes' gradient goes through the
places. The number of samples per cell is taken as it is (it changes in steps).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import cast_like, size_of, zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, no_gradient

no_gradient(
    "NonMaxSuppression",
    reported=True,
    remedy="it gives places, which change in steps; explain the boxes or scores that enter it, or what is picked by it",
)


@dataclass(frozen=True)
class _Line:
    """One axis of all regions.

    Attributes:
        matrix: Weights ``[R, cells, size]``.
        slopes: Derivative of the weights by each sample's place, ``[R, cells, samples, size]``.
        at: Each sample's place, moved into the picture, ``[R, cells, samples]``.
        valid: 1 where the sample was in reach of the picture.
        counted: Whether the region has that many samples.
        inside: 1 where the place follows the box.
        part: Where a sample lies in its region, from 0 to 1, ``[R, cells, samples]``.
        scale: What box coordinates are multiplied by.
        free: 1 where the region's length follows its box, ``[R]``; None where it does everywhere.
        ends: Columns of the box: start and end.
    """

    matrix: ir.Value
    slopes: ir.Value
    at: ir.Value
    valid: ir.Value
    counted: ir.Value
    inside: ir.Value
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
    counted = op.Less(samples, op.Reshape(count, [-1, 1, 1]))
    taken = op.And(taken, counted)
    share = op.Unsqueeze(op.Div(forms.indicator(op, taken, x), each), [3])
    last = op.Sub(size, 1.0)
    at = op.Unsqueeze(op.Min(op.Max(place, 0.0), last), [3])
    inside = op.Unsqueeze(forms.between(op, place, 0.0, last), [3])
    rows = cast_like(op, op.Range(0, op.Squeeze(op.Shape(x, start=2 + axis, end=3 + axis), [0]), 1), x)
    away = op.Sub(at, rows)
    near = op.Max(op.Sub(1.0, op.Abs(away)), 0.0)
    matrix = op.ReduceSum(op.Mul(near, share), [2], keepdims=0)
    # On an element, the mean of the slopes to both sides.
    slope = op.Mul(op.Neg(op.Sign(away)), forms.half_step(op, op.Sub(1.0, op.Abs(away))))
    slopes = op.Mul(slope, op.Mul(share, inside))
    return _Line(
        matrix, slopes, op.Squeeze(at, [3]), forms.indicator(op, taken, x), counted, op.Squeeze(inside, [3]),
        part, scale, free, ends,
    )  # fmt: skip


def _is_max(node: Primal) -> bool:
    mode = str(node.attribute("mode", "avg"))
    if mode not in ("avg", "max"):
        raise node.unsupported(f"its mode '{mode}' is unknown", "check the model with onnx.checker")
    return mode == "max"


def _matrix(op: Builder, value: ir.Value) -> ir.Value:
    """``[R, ...]`` as ``[R, 1, ...]``, to stand beside channels."""
    return op.Unsqueeze(value, [1])


def _turned(op: Builder, value: ir.Value, rank: int) -> ir.Value:
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


@gradient("RoiAlign")
def roi_align(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = sum over the regions of each sample of A^T dy B; dboxes through the places."""
    x = node.x(0)
    lines = functools.cache(lambda: (_line(op, node, 0), _line(op, node, 1)))
    if _is_max(node):
        winners = functools.cache(lambda: _Winners(op, node, *lines()))
        return [lambda: winners().to_x(dy), lambda: winners().to_boxes(dy), None]

    def to_x() -> ir.Value:
        rows, columns = lines()
        partial = op.MatMul(_matrix(op, _turned(op, rows.matrix, 3)), dy)
        mine = _owners(op, node)
        spread = op.Mul(op.Unsqueeze(columns.matrix, [2]), op.Unsqueeze(mine, [1, 3]))
        # [C, H, R q] times [R q, N W]: regions are summed by the product itself.
        left = op.Reshape(
            op.Transpose(partial, perm=[1, 2, 0, 3]), op.Concat(op.Shape(x, start=1, end=3), [-1], axis=0)
        )
        right = op.Reshape(spread, op.Concat([-1], op.Mul(op.Shape(x, start=0, end=1), op.Shape(x, start=3)), axis=0))
        whole = op.Reshape(op.MatMul(left, right), op.Concat([0, 0], op.Shape(x, start=0, end=1), [-1], axis=0))
        return op.Transpose(whole, perm=[2, 0, 1, 3])

    return [to_x, lambda: _to_boxes(op, node, dy, *lines()), None]


def _owners(op: Builder, node: Primal) -> ir.Value:
    """1 where a region is of a sample, ``[R, N]``."""
    x, indices = node.x(0), node.x(2)
    count = op.Squeeze(size_of(op, x, 0), [0])
    samples = cast_like(op, op.Range(0, count, 1), indices)
    return forms.indicator(op, op.Equal(op.Unsqueeze(indices, [1]), samples), x)


def _to_boxes(op: Builder, node: Primal, dy: ir.Value, rows: _Line, columns: _Line) -> ir.Value:
    regions = op.Gather(node.x(0), node.x(2), axis=0)
    through_columns = op.MatMul(regions, _matrix(op, _turned(op, columns.matrix, 3)))
    d_rows = op.ReduceSum(op.MatMul(dy, _turned(op, through_columns, 4)), [1], keepdims=0)
    through_rows = op.MatMul(_matrix(op, rows.matrix), regions)
    d_columns = op.ReduceSum(op.MatMul(_turned(op, dy, 4), through_rows), [1], keepdims=0)
    places = [
        op.ReduceSum(op.Mul(line.slopes, op.Unsqueeze(d, [2])), [3], keepdims=0)
        for line, d in ((rows, d_rows), (columns, d_columns))
    ]
    return _box_gradient(op, ((rows, places[0]), (columns, places[1])))


def _box_gradient(op: Builder, found: Sequence[tuple[_Line, ir.Value]]) -> ir.Value:
    """From the adjoints of the samples' places to the boxes'."""
    parts: dict[int, ir.Value] = {}
    for line, places in found:
        length = op.ReduceSum(op.Mul(places, line.part), [1, 2], keepdims=0)
        if line.free is not None:
            length = op.Mul(length, line.free)
        start = op.ReduceSum(places, [1, 2], keepdims=0)
        parts[line.ends[0]] = op.Mul(op.Sub(start, length), line.scale)
        parts[line.ends[1]] = op.Mul(length, line.scale)
    return op.Concat(*(op.Unsqueeze(parts[i], [1]) for i in range(4)), axis=1)


def _followed(op: Builder, node: Primal, line: _Line) -> ir.Value:
    """The part of each sample's place that is proportional to the box, ``[R, cells, samples]``."""
    start, end = (op.Mul(op.Gather(node.x(1), op.constant(c), axis=1), line.scale) for c in line.ends)
    length = op.Sub(end, start)
    length = length if line.free is None else op.Mul(length, line.free)
    return op.Add(op.Reshape(start, [-1, 1, 1]), op.Mul(op.Reshape(length, [-1, 1, 1]), line.part))


class _Winners:
    """Mode ``max``: of all samples of a cell the largest single product of a weight and an element."""

    def __init__(self, op: Builder, node: Primal, rows: _Line, columns: _Line) -> None:
        self.op, self.node, self.lines = op, node, (rows, columns)
        x = node.x(0)
        self.taps = [self._taps(line, k) for k, line in enumerate(self.lines)]
        width = op.Squeeze(op.Shape(x, start=3), [0])
        index = self._flat(op.Add(op.Mul(self.taps[0][0], width), self.taps[1][0]))
        product = op.Mul(self.taps[0][1], self.taps[1][1])
        self.combinations = op.Shape(product)
        self.weight = self._flat(product)
        both = op.And(*(self._spread(op.Unsqueeze(g.counted, [3]), k) for k, g in enumerate(self.lines)))
        counted = self._flat(op.Expand(both, self.combinations))
        regions = op.Reshape(op.Gather(x, node.x(2), axis=0), [0, 0, -1])
        channels = op.Concat([1], op.Shape(x, start=1, end=2), [1], axis=0)
        cells = op.Concat([0, 0], op.Shape(index, start=2), axis=0)
        self.index = op.Expand(op.Reshape(index, [0, 1, -1]), channels)
        self.cell = op.Reshape(op.GatherElements(regions, self.index, axis=2), cells)
        score = op.Where(counted, op.Mul(self.cell, self.weight), -math.inf)
        first = op.ArgMax(score, axis=3, keepdims=1)
        numbers = op.Range(0, op.Squeeze(op.Shape(score, start=3), [0]), 1)
        self.hit = forms.indicator(op, op.Equal(numbers, first), x)
        self.regions = regions

    def _taps(self, line: _Line, axis: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Elements, weights and slopes, ``[R, cells, .., samples, .., 2, ..]`` among all combinations."""
        op, x = self.op, self.node.x(0)
        at = op.Unsqueeze(line.at, [3])
        low = op.Floor(at)
        part = op.Sub(at, low)
        last = op.Sub(op.Squeeze(op.Shape(x, start=2 + axis, end=3 + axis), [0]), 1)
        index = op.Cast(op.Add(low, op.constant([0.0, 1.0], x.dtype)), to=ir.DataType.INT64.value)
        weight = op.Mul(op.Concat(op.Sub(1.0, part), part, axis=3), op.Unsqueeze(line.valid, [3]))
        slope = op.Mul(op.constant([-1.0, 1.0], x.dtype), op.Unsqueeze(op.Mul(line.valid, line.inside), [3]))
        return self._spread(op.Min(index, last), axis), self._spread(weight, axis), self._spread(slope, axis)

    def _spread(self, value: ir.Value, axis: int) -> ir.Value:
        """``[R, cells, samples, taps]`` at its places in ``[R, p, q, rows, columns, row taps, column taps]``."""
        return self.op.Unsqueeze(value, [2, 4, 6] if axis == 0 else [1, 3, 5])

    def _flat(self, value: ir.Value) -> ir.Value:
        """``[R, 1, p q, K]``."""
        op = self.op
        places = op.ReduceProd(op.Shape(self.node.y, start=2), keepdims=1)
        return op.Reshape(value, op.Concat([0, 1], places, [-1], axis=0))

    def _cells(self, value: ir.Value) -> ir.Value:
        """A tensor of the result's shape as ``[R, C, p q, 1]``."""
        return self.op.Reshape(value, [0, 0, -1, 1])

    def to_x(self, dy: ir.Value) -> ir.Value:
        """dy at each cell's winner, times its weight."""
        op, x = self.op, self.node.x(0)
        updates = op.Reshape(op.Mul(op.Mul(self.hit, self.weight), self._cells(dy)), [0, 0, -1])
        found = op.ScatterElements(zeros_like(op, self.regions), self.index, updates, axis=2, reduction="add")
        mine = op.Transpose(_owners(op, self.node), perm=[1, 0])
        return op.Reshape(op.MatMul(mine, op.Flatten(found, axis=1)), op.Shape(x))

    def _slopes(self, axis: int) -> ir.Value:
        return self.op.Mul(self.taps[axis][2], self.taps[1 - axis][1])

    def to_boxes(self, dy: ir.Value) -> ir.Value:
        """The winner's element times the slope of its weight."""
        op = self.op
        share = op.ReduceSum(op.Mul(op.Mul(self.hit, self.cell), self._cells(dy)), [1], keepdims=0)
        share = op.Reshape(share, self.combinations)
        places = [
            op.ReduceSum(op.Mul(share, self._slopes(0)), [2, 4, 5, 6], keepdims=0),
            op.ReduceSum(op.Mul(share, self._slopes(1)), [1, 3, 5, 6], keepdims=0),
        ]
        return _box_gradient(op, list(zip(self.lines, places, strict=True)))

    def moved(self) -> ir.Value:
        """What the boxes' own size contributes to the result."""
        op = self.op
        parts = [
            op.Mul(self._slopes(k), self._spread(op.Unsqueeze(_followed(op, self.node, line), [3]), k))
            for k, line in enumerate(self.lines)
        ]
        along = op.Mul(op.Mul(self.hit, self.cell), self._flat(op.Add(*parts)))
        return op.Reshape(op.ReduceSum(along, [3], keepdims=0), op.Shape(self.node.y))


@bias("RoiAlign")
def roi_align_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """Linear in x; without what the boxes' own change would do where they are active."""
    if not node.active(1):
        return []
    rows, columns = _line(op, node, 0), _line(op, node, 1)
    if _is_max(node):
        total = _Winners(op, node, rows, columns).moved()
        return [Bias(op.Neg(total) if node.active(0) else op.Sub(node.y, total), "implicit")]
    regions = op.Gather(node.x(0), node.x(2), axis=0)
    moved = [
        op.ReduceSum(op.Mul(line.slopes, op.Unsqueeze(_followed(op, node, line), [3])), [2], keepdims=0)
        for line in (rows, columns)
    ]
    pairs = ((moved[0], columns.matrix), (rows.matrix, moved[1]))
    change = [op.MatMul(op.MatMul(_matrix(op, a), regions), _matrix(op, _turned(op, b, 3))) for a, b in pairs]
    total = op.Add(*change)
    return [Bias(op.Neg(total) if node.active(0) else op.Sub(node.y, total), "implicit")]
