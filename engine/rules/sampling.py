"""GridSample and AffineGrid: reading a tensor at places between its elements.

Each axis of a place has taps: nearest 1, linear 2, cubic 4 neighbouring elements with weights that depend
on where between them the place is. The result is the sum over all combinations of taps, so the gradient
of x scatters the adjoint with the same weights, and the gradient of a coordinate takes the slopes of its
axis' weights instead.

Kinks and edges, as the operator has them: ``zeros`` drops taps outside; ``border`` moves places outside to
the edge, where their coordinate has no influence; ``reflection`` folds coordinates back, which turns the
sign of their gradient. Rounding (nearest) leaves the grid without gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import END, cast_like, count_of, reshape_like, widened
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, linear, only, zero

#: Both spellings of each mode: since opset 16, since opset 20.
_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}
_OFFSETS = {"nearest": [0.0], "linear": [0.0, 1.0], "cubic": [-1.0, 0.0, 1.0, 2.0]}
#: Keys' cubic convolution with a = -3/4 as polynomials of the distance, highest power first: inner and outer taps.
_INNER, _OUTER = (1.25, -2.25, 0.0, 1.0), (-0.75, 3.75, -6.0, 3.0)


@dataclass(frozen=True)
class Taps:
    """What one axis of every place reads.

    Attributes:
        index: The elements, int64 ``[N, taps, P]``.
        weight: Their weights, 0 for elements that do not exist.
        slope: Derivatives of the weights by the grid's coordinate; None where the mode rounds.
        coordinate: The grid's coordinate, ``[N, 1, P]``.
    """

    index: ir.Value
    weight: ir.Value
    slope: ir.Value | None
    coordinate: ir.Value


def length_of(op: Builder, x: ir.Value, axis: int) -> ir.Value:
    """The size of an axis, a scalar of the type of x."""
    known = dims(x)
    size = known[axis] if known is not None else None
    if isinstance(size, int):
        return op.constant(float(size), x.dtype)
    return op.Cast(op.Squeeze(op.Shape(x, start=axis, end=axis + 1), [0]), to=(x.dtype or ir.DataType.FLOAT).value)


@dataclass(frozen=True)
class _Line:
    """One spatial axis: its size and the ends between which coordinates lie."""

    op: Builder
    last: ir.Value
    low: ir.Value
    span: ir.Value

    @staticmethod
    def of(op: Builder, size: ir.Value, align: bool) -> _Line:
        last = op.Sub(size, 1.0)
        # A single element has no span; dividing by 1 folds everything onto it.
        return _Line(op, last, op.constant(0.0 if align else -0.5, size.dtype), op.Max(last, 1.0) if align else size)

    def fold(self, u: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Coordinates reflected at both ends until they lie between, and the sign of d folded / du."""
        op = self.op
        from_low = op.Sub(u, self.low)
        away = op.Abs(from_low)
        turns = op.Floor(op.Div(away, self.span))
        rest = op.Sub(away, op.Mul(turns, self.span))
        odd = op.Mod(turns, op.constant(2.0, u.dtype), fmod=1)
        direction = op.Sub(1.0, op.Mul(odd, 2.0))
        folded = op.Add(op.Add(self.low, op.Mul(odd, self.span)), op.Mul(direction, rest))
        side = op.Sub(op.Mul(forms.indicator(op, op.GreaterOrEqual(from_low, 0.0), u), 2.0), 1.0)
        return folded, op.Mul(direction, side)

    def clamp(self, u: ir.Value) -> ir.Value:
        return self.op.Min(self.op.Max(u, 0.0), self.last)


class _Sampler:
    """Reads off a GridSample node what it does, and emits taps."""

    def __init__(self, op: Builder, node: Primal) -> None:
        self.op, self.node = op, node
        self.x, self.grid = node.x(0), node.x(1)
        self.count = node.rank(0) - 2
        mode, padding = str(node.attribute("mode", "linear")), str(node.attribute("padding_mode", "zeros"))
        if mode not in _MODES or padding not in ("zeros", "border", "reflection"):
            raise node.unsupported(f"mode '{mode}' with padding '{padding}'", "check the model with onnx.checker")
        self.mode, self.padding = _MODES[mode], padding
        self.align = bool(node.attribute("align_corners", 0))

    def taps(self) -> list[Taps]:
        """Per spatial axis; the grid's last axis names them backwards."""
        return [self._axis(k) for k in range(self.count)]

    def _axis(self, k: int) -> Taps:
        op = self.op
        size = length_of(op, self.x, 2 + k)
        line = _Line.of(op, size, self.align)
        place = op.Gather(self.grid, op.constant(self.count - 1 - k), axis=-1)
        g = cast_like(op, op.Reshape(place, [0, 1, -1]), self.x)
        half = op.Mul(line.last if self.align else size, 0.5)
        u = op.Add(op.Mul(g, half), op.Mul(line.last, 0.5))
        u, sign = self._inside(op.Round(u) if self.mode == "nearest" else u, line)
        offsets = op.constant(np.asarray(_OFFSETS[self.mode]).reshape(1, -1, 1), u.dtype)
        at = op.Add(op.Round(u) if self.mode == "nearest" else op.Floor(u), offsets)
        weight, slope = self._weights(u, at)
        chain = half if sign is None else op.Mul(sign, half)
        if self.padding == "zeros":
            exists = op.And(op.GreaterOrEqual(at, 0.0), op.LessOrEqual(at, line.last))
            exist = forms.indicator(op, exists, u)
            weight = op.Mul(weight, exist)
            slope = None if slope is None else op.Mul(slope, exist)
        element = op.Round(line.fold(at)[0]) if self.padding == "reflection" else at
        index = op.Cast(line.clamp(element), to=ir.DataType.INT64.value)
        return Taps(index, weight, None if slope is None else op.Mul(slope, chain), g)

    def _inside(self, u: ir.Value, line: _Line) -> tuple[ir.Value, ir.Value | None]:
        """Coordinates after padding, and their derivative by what they were."""
        op = self.op
        if self.padding == "zeros":
            return u, None
        if self.padding == "reflection":
            return line.fold(u)
        high = op.Sub(line.last, line.low)
        inside = op.And(op.GreaterOrEqual(u, line.low), op.LessOrEqual(u, high))
        return op.Where(inside, u, line.clamp(u)), forms.indicator(op, inside, u)

    def _weights(self, u: ir.Value, at: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        op = self.op
        if self.mode == "nearest":
            return op.Add(op.Mul(at, 0.0), 1.0), None
        distance = op.Abs(op.Sub(u, at))
        if self.mode == "linear":
            ends = op.constant(np.asarray([-1.0, 1.0]).reshape(1, -1, 1), u.dtype)
            return op.Sub(1.0, distance), op.Add(op.Mul(distance, 0.0), ends)
        rows = np.asarray([_OUTER, _INNER, _INNER, _OUTER])
        signs = np.asarray([1.0, 1.0, -1.0, -1.0])
        slopes = signs[:, None] * rows[:, :3] * [3.0, 2.0, 1.0]
        return _polynomial(op, rows, distance), _polynomial(op, slopes, distance)


def _polynomial(op: Builder, coefficients: np.ndarray, t: ir.Value) -> ir.Value:
    """Per tap, the polynomial with the coefficients of its row, highest power first."""
    columns = [op.constant(c.reshape(1, -1, 1), t.dtype) for c in coefficients.T]
    total = op.Mul(columns[0], t)
    for column in columns[1:-1]:
        total = op.Mul(op.Add(total, column), t)
    return op.Add(total, columns[-1])


def linear_taps(op: Builder, u: ir.Value, size: ir.Value) -> Taps:
    """Linear taps at places ``[N, 1, P]`` counted in elements; what lies outside counts as 0."""
    last = op.Sub(size, 1.0)
    ends = op.constant(np.asarray([0.0, 1.0]).reshape(1, -1, 1), u.dtype)
    at = op.Add(op.Floor(u), ends)
    exist = forms.indicator(op, op.And(op.GreaterOrEqual(at, 0.0), op.LessOrEqual(at, last)), u)
    weight = op.Mul(op.Sub(1.0, op.Abs(op.Sub(u, at))), exist)
    slope = op.Mul(exist, op.Sub(op.Mul(ends, 2.0), 1.0))
    index = op.Cast(op.Min(op.Max(at, 0.0), last), to=ir.DataType.INT64.value)
    return Taps(index, weight, slope, u)


def _spread(op: Builder, value: ir.Value, axis: int, count: int) -> ir.Value:
    """``[N, taps, P]`` as ``[N, 1, .., taps, .., 1, P]``: the axis' own place among all combinations."""
    return op.Unsqueeze(value, [1 + j for j in range(count) if j != axis]) if count > 1 else value


def combined(op: Builder, x: ir.Value, taps: Sequence[Taps], slope_of: int | None = None) -> tuple[ir.Value, ir.Value]:
    """(flat elements, weights) of all combinations, ``[N, 1, T P]`` each; one axis by slopes instead."""
    count = len(taps)
    index: ir.Value | None = None
    weight: ir.Value | None = None
    for k, tap in enumerate(taps):
        part = tap.slope if k == slope_of else tap.weight
        assert part is not None
        here, factor = _spread(op, tap.index, k, count), _spread(op, part, k, count)
        if index is None or weight is None:
            index, weight = here, factor
            continue
        size = op.Squeeze(op.Shape(x, start=2 + k, end=3 + k), [0])
        index, weight = op.Add(op.Mul(index, size), here), op.Mul(weight, factor)
    assert index is not None
    assert weight is not None
    return op.Reshape(index, [0, 1, -1]), op.Reshape(weight, [0, 1, -1])


def per_channel(op: Builder, x: ir.Value, index: ir.Value) -> ir.Value:
    """``[N, 1, K]`` as ``[N, C, K]``."""
    return op.Expand(index, op.Concat([1], op.Shape(x, start=1, end=2), [1], axis=0))


def scattered(op: Builder, x: ir.Value, dy: ir.Value, taps: Sequence[Taps]) -> ir.Value:
    """dy ``[N, C, P]`` added up at the taps, in the shape of x."""
    index, weight = combined(op, x, taps)
    parts = op.Mul(op.Unsqueeze(dy, [2]), op.Reshape(weight, op.Concat([0, 1, -1], op.Shape(dy, start=2), axis=0)))
    updates = widened(op, op.Reshape(parts, [0, 0, -1]))
    flat = op.Concat(op.Shape(x, start=0, end=2), [-1], axis=0)
    zeros = op.ConstantOfShape(
        op.Reshape(count_of(op, x), [1]), value=ir.tensor([0], dtype=updates.dtype or ir.DataType.FLOAT)
    )
    total = op.ScatterElements(op.Reshape(zeros, flat), per_channel(op, x, index), updates, axis=2, reduction="add")
    return reshape_like(op, cast_like(op, total, x), x)


def slope_by(op: Builder, x: ir.Value, taps: Sequence[Taps], axis: int) -> ir.Value:
    """Derivative of the result by the coordinate of one axis, ``[N, C, P]``."""
    index, weight = combined(op, x, taps, slope_of=axis)
    values = op.GatherElements(op.Reshape(x, [0, 0, -1]), per_channel(op, x, index), axis=2)
    places = op.Shape(taps[axis].coordinate, start=2)
    return op.ReduceSum(op.Reshape(op.Mul(values, weight), op.Concat([0, 0, -1], places, axis=0)), [2], keepdims=0)


_NEAREST = zero(
    "in nearest mode the picked element changes in steps as the grid moves",
    "use bilinear or bicubic mode to differentiate by the grid",
)


@gradient("GridSample")
def grid_sample(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy at each place's taps, by weight; dgrid = sum over channels of dy · (x at the taps, by slope)."""
    sampler = _Sampler(op, node)
    x, grid = node.x(0), node.x(1)
    flat = op.Reshape(dy, [0, 0, -1])
    taps = functools.cache(sampler.taps)

    def to_grid() -> ir.Value:
        parts = []
        for k in reversed(range(sampler.count)):
            along = op.ReduceSum(op.Mul(flat, slope_by(op, x, taps(), k)), [1], keepdims=0)
            parts.append(op.Unsqueeze(along, [2]))
        joined = op.Concat(*parts, axis=2)
        return cast_like(op, reshape_like(op, joined, grid), grid)

    return [lambda: scattered(op, x, flat, taps()), _NEAREST if sampler.mode == "nearest" else to_grid]


@bias("GridSample")
def grid_sample_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """Linear in x; y - sum of slope · coordinate over the axes where the grid is active, without y where x is."""
    sampler = _Sampler(op, node)
    if sampler.mode == "nearest" or not node.active(1):
        return [] if node.active(0) else [Bias(node.y, "implicit")]
    taps = sampler.taps()
    parts = [op.Mul(slope_by(op, node.x(0), taps, k), tap.coordinate) for k, tap in enumerate(taps)]
    moved = op.Reshape(op.Sum(*parts), op.Shape(node.y))
    return [Bias(op.Neg(moved) if node.active(0) else op.Sub(node.y, moved), "implicit")]


@gradient("AffineGrid")
def affine_grid(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dtheta = dy^T · (the grid of the identity, with a column of ones)."""
    theta, known = node.x(0), node.dims(0)
    count = known[1] if known is not None else None
    if not isinstance(count, int):
        raise node.unsupported(
            "it is not known whether it is 2-D or 3-D", "export the model with a fixed shape of theta"
        )
    whole = op.constant(np.eye(count, count + 1)[None], theta.dtype)
    size = op.Concat([1], op.Slice(node.x(1), [1], [END]), axis=0)
    base = op.Reshape(op.AffineGrid(whole, size, align_corners=int(node.attribute("align_corners", 0))), [-1, count])
    rows = op.Pad(base, [0, 1], op.constant(1.0, theta.dtype), [1])
    return only(node, op.MatMul(op.Transpose(op.Reshape(dy, [0, -1, count]), perm=[0, 2, 1]), rows))


linear("AffineGrid")
