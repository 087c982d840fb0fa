"""Pooling: MaxPool, AveragePool, LpPool, the global pools, and MaxUnpool.

Ties of a maximum go to one winner, the first in row-major order, as the operator's Indices say. A norm
of 0 (LpPool) has gradient 0.
Operator pages: https://onnx.ai/onnx/operators/onnx__MaxPool.html, onnx__AveragePool.html.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import onnx_ir as ir

from onnxplain.engine.forms import indicator, is_greatest
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims, static_dims
from onnxplain.engine.layout import END, reshape_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import ZERO, Contribution, gradient, homogeneous, linear, only
from onnxplain.engine.rules.windows import Window, input_gradient, ones, spatial, window_of

homogeneous(1, "MaxPool", "GlobalMaxPool", "LpPool", "GlobalLpPool")
linear("AveragePool", "GlobalAveragePool", "MaxUnpool")


@gradient("MaxPool")
def max_pool(op: Builder, node: Primal, dy: ir.Value | None, d_indices: object = None) -> Sequence[Contribution]:
    """dx = dy at each window's first maximum; where windows overlap, contributions add.

    The winners come from a second MaxPool: asking the forward one for its Indices would take it off
    onnxruntime's blocked layout. Where windows tile a picture, no index is needed (:func:`_to_first_of_tile`).
    """
    if dy is None:
        return [ZERO]
    win = window_of(node)
    x = node.x()
    if _by_comparisons(op, win, x):
        return [_to_first_of_tile(op, node, dy, win)]
    if not {"MaxPool/Indices", "ScatterElements"}.isdisjoint(op.lacks):
        return [_to_first_maximum(op, node, dy, win)]
    keep = ("kernel_shape", "strides", "dilations", "pads", "ceil_mode")
    attributes = {k: node.attribute(k) for k in keep}
    _, winners = op.emit("MaxPool", [x], 2, **attributes)
    overlapping = any(e > s for e, s in zip(win.extents, win.strides, strict=True))
    zeros = _zeros(op, op.Size(x), x.dtype)
    scattered = op.ScatterElements(
        zeros, op.Reshape(winners, [-1]), op.Reshape(dy, [-1]), axis=0, reduction="add" if overlapping else None
    )
    return [op.Reshape(scattered, op.Shape(x))]


#: What :func:`_to_first_of_tile` emits.
_TILED = frozenset({"Resize", "Tile", "Equal", "Cast", "Add", "MaxPool", "Where"})
#: Ranks of so many cells can be told apart in float16.
_RANKED = 256


def _by_comparisons(op: Builder, win: Window, x: ir.Value) -> bool:
    few = win.rank <= 2 and math.prod(win.kernel) <= _RANKED
    return few and _tiles(win, x) and not op.portable and _TILED.isdisjoint(op.lacks)


def _to_first_of_tile(op: Builder, node: Primal, dy: ir.Value, win: Window) -> ir.Value:
    """The same by comparisons, where windows tile x: three times as fast as indices and scattering.

    Every cell has a rank below 1, which falls from the first cell of a window to the last; 1 more where the cell
    holds the maximum. So the highest is the first of these, and no window is without one, whatever it holds.
    """
    x = node.x()
    count = math.prod(win.kernel)
    falling = np.arange(count, 0, -1).reshape(1, 1, *win.kernel) / (2 * count)
    tiles = [int(size or 0) // k for size, k in zip(spatial(x, win.rank), win.kernel, strict=True)]
    ranks = op.Tile(op.constant(falling, x.dtype), [1, 1, *tiles])
    ranked = op.Add(is_greatest(op, x, _stretched(op, node.y, win)), ranks)
    ranked.shape = x.shape
    attributes = {k: node.attribute(k) for k in ("kernel_shape", "strides")}
    highest = _stretched(op, op.MaxPool(ranked, **attributes), win)
    found = op.Where(op.Equal(ranked, highest), _stretched(op, dy, win), op.constant(0.0, x.dtype))
    found.shape = x.shape
    return found


def _stretched(op: Builder, value: ir.Value, win: Window) -> ir.Value:
    """Each element repeated over its window, where windows tile."""
    factors = [1.0, 1.0, *[float(k) for k in win.kernel]]
    return op.Resize(
        value, None, op.constant(factors, ir.DataType.FLOAT),
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _to_first_maximum(op: Builder, node: Primal, dy: ir.Value, win: Window) -> ir.Value:
    """The same without Indices and scattering, for providers that lack them.

    One slice of x per cell of the window; the first that equals the maximum takes dy. A transposed
    convolution with a one per cell brings the cells back to their places.
    """
    x, cells = node.x(), list(product(*(range(k) for k in win.kernel)))
    shared: list[ir.Value] = []
    left: ir.Value | None = None
    for piece in _pieces(op, node, win, cells):
        hit = is_greatest(op, piece, node.y)
        share = hit if left is None else op.Mul(hit, left)
        left = op.Sub(1.0, share) if left is None else op.Sub(left, share)
        shared.append(op.Mul(share, dy))
    places = op.Concat([-1, 1], op.Slice(op.Shape(dy), [2], [2 + win.rank]), axis=0)
    stacked = op.Concat(*(op.Reshape(part, places) for part in shared), axis=1)
    kernel = np.eye(len(cells)).reshape(len(cells), 1, *win.kernel)
    spread = op.ConvTranspose(
        stacked, op.constant(kernel, x.dtype), kernel_shape=win.kernel, strides=win.strides, dilations=win.dilations
    )
    return op.Reshape(_placed(op, node, spread, win), op.Shape(x))


def _placed(op: Builder, node: Primal, spread: ir.Value, win: Window) -> ir.Value:
    """Cells of all windows -> cells of x: the padding off, and zeros where no window reaches."""
    sizes, counts = spatial(node.x(), win.rank), spatial(node.y, win.rank)
    if all(isinstance(d, int) for d in (*sizes, *counts)):
        reached = [(int(n or 0) - 1) * s + e for n, s, e in zip(counts, win.strides, win.extents, strict=True)]
        if reached == list(sizes) and not any(win.begin):
            return spread
    # At most a stride of cells lies behind the last window.
    spread = op.Pad(spread, [0] * (4 + win.rank) + [s - 1 for s in win.strides])
    begin = op.constant(np.asarray(win.begin, np.int64))
    ends = op.Add(op.Slice(op.Shape(node.x()), [2], [2 + win.rank]), begin)
    return op.Slice(spread, begin, ends, win.axes)


def _pieces(op: Builder, node: Primal, win: Window, cells: Sequence[Sequence[int]]) -> list[ir.Value]:
    """Per cell of the window, what all windows have there: each in the shape of the result."""
    padded = node.x()
    ceil = bool(node.attribute("ceil_mode", 0))
    end = [p + (s - 1) * ceil for p, s in zip(win.end, win.strides, strict=True)]
    if any((*win.begin, *end)):
        padded = op.Pad(padded, [0, 0, *win.begin, 0, 0, *end], op.constant(-np.inf, padded.dtype))
    known = spatial(node.y, win.rank)
    if all(isinstance(size, int) for size in known):
        span = op.constant([(int(n or 0) - 1) * s + 1 for n, s in zip(known, win.strides, strict=True)])
    else:
        counts = op.Slice(op.Shape(node.y), [2], [2 + win.rank])
        span = op.Add(op.Mul(op.Sub(counts, 1), list(win.strides)), 1)
    found = []
    for cell in cells:
        start = op.constant([c * d for c, d in zip(cell, win.dilations, strict=True)])
        found.append(op.Slice(padded, start, op.Add(start, span), win.axes, list(win.strides)))
    return found


def _zeros(op: Builder, size: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    fill = ir.tensor([0], dtype=dtype or ir.DataType.FLOAT)
    return op.ConstantOfShape(op.Reshape(size, [-1]), value=fill)


@gradient("AveragePool")
def average_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / (number of cells counted), spread over each window."""
    win = window_of(node)
    x = node.x()
    return [_over_windows(op, node, _by_count(op, node, dy, win, x), win)]


def _over_windows(op: Builder, node: Primal, scaled: ir.Value, win: Window) -> ir.Value:
    """Each element of ``scaled`` added to all cells of its window, in the shape of x."""
    x = node.x()
    if _tiles(win, x):
        return _stretched(op, scaled, win)
    reach = _with_overhang(node, win, x)
    known = dims(x)
    channels = known[1] if known is not None else None
    if isinstance(channels, int):
        kernel = ones(op, [channels, 1, *win.kernel], x.dtype)
        return input_gradient(op, scaled, kernel, replace(reach, group=channels), x, node)
    # Channels are alike, so with an unknown number of them they join the batch.
    single = op.Reshape(scaled, op.Concat([-1, 1], op.Slice(op.Shape(scaled), [2], [2 + win.rank]), axis=0))
    spread = input_gradient(op, single, ones(op, [1, 1, *win.kernel], x.dtype), reach, x, node)
    return op.Reshape(spread, op.Shape(x))


def _tiles(win: Window, x: ir.Value) -> bool:
    sizes = spatial(x, win.rank)
    return (
        win.kernel == win.strides
        and not any(win.pads)
        and all(d == 1 for d in win.dilations)
        and all(isinstance(s, int) and s % k == 0 for s, k in zip(sizes, win.kernel, strict=True))
    )


def _with_overhang(node: Primal, win: Window, x: ir.Value) -> Window:
    """With ceil_mode the last window may reach past the padding: that much more end padding."""
    if not node.attribute("ceil_mode", 0):
        return win
    sizes = spatial(x, win.rank)
    outputs = spatial(node.y, win.rank)
    if not all(isinstance(s, int) for s in (*sizes, *outputs)):
        raise node.unsupported("ceil_mode with a size known only at run time", "export it with a fixed input size")
    end = [
        max((int(o or 0) - 1) * s + e - int(size or 0) - b, p)
        for o, s, e, size, b, p in zip(outputs, win.strides, win.extents, sizes, win.begin, win.end, strict=True)
    ]
    return replace(win, end=tuple(end))


def _by_count(op: Builder, node: Primal, dy: ir.Value, win: Window, x: ir.Value) -> ir.Value:
    ceil = bool(node.attribute("ceil_mode", 0))
    include = bool(node.attribute("count_include_pad", 0))
    if not ceil and (include or not any(win.pads)):
        return op.Mul(dy, 1.0 / math.prod(win.kernel))
    n = win.rank
    sizes = op.Slice(op.Shape(x), [2], [2 + n])
    cells = op.Expand(op.constant(1.0, x.dtype), op.Concat([1, 1], sizes, axis=0))
    reach = _with_overhang(node, win, x)
    pads = reach.pads
    if include:
        # Explicit padding counts, the overhang of ceil_mode does not.
        cells = op.Pad(cells, [0, 0, *win.begin, 0, 0, *win.end], op.constant(1.0, x.dtype))
        pads = [0] * n + [r - e for r, e in zip(reach.end, win.end, strict=True)]
    counts = op.Conv(
        cells, ones(op, [1, 1, *win.kernel], x.dtype), kernel_shape=win.kernel, strides=win.strides,
        dilations=win.dilations, pads=pads,
    )  # fmt: skip
    return op.Div(dy, counts)


@gradient("GlobalAveragePool")
def global_average_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / (number of cells), everywhere."""
    x = node.x()
    sizes = spatial(x, node.rank() - 2)
    if all(isinstance(s, int) for s in sizes):
        scaled = op.Mul(dy, 1.0 / math.prod(int(s or 0) for s in sizes))
    else:
        count = op.ReduceProd(op.Slice(op.Shape(x), [2], [2**31 - 1]), keepdims=0)
        scaled = op.Div(dy, op.Cast(count, to=(x.dtype or ir.DataType.FLOAT).value))
    return [op.Expand(scaled, op.Shape(x))]


@gradient("GlobalMaxPool")
def global_max_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy at each channel's first maximum."""
    x = node.x()
    flat = op.Reshape(x, [0, 0, -1])
    winner = op.ArgMax(flat, axis=2, keepdims=1)
    cells = op.Range(op.constant(0, ir.DataType.INT64), op.Gather(op.Shape(flat), 2), op.constant(1, ir.DataType.INT64))
    chosen = op.Mul(indicator(op, op.Equal(cells, winner), x), op.Reshape(dy, [0, 0, 1]))
    return [op.Reshape(chosen, op.Shape(x))]


def _norm_share(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
    """dy · y^(1 - p), 0 where y = 0."""
    p = int(node.attribute("p", 2))
    if p == 1:
        return dy
    safe = op.Where(op.Equal(node.y, 0.0), 1.0, node.y)
    return op.Div(dy, safe if p == 2 else op.Pow(safe, op.constant(float(p - 1), safe.dtype)))


def _norm_slope(op: Builder, node: Primal) -> ir.Value:
    """sign(x) · |x|^(p - 1)."""
    x, p = node.x(), int(node.attribute("p", 2))
    if p == 2:
        return x
    if p == 1:
        return op.Sign(x)
    return op.Mul(op.Sign(x), op.Pow(op.Abs(x), op.constant(float(p - 1), x.dtype)))


@gradient("LpPool")
def lp_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = sign(x) |x|^(p - 1) · (dy · y^(1 - p), spread over each window)."""
    spread = _over_windows(op, node, _norm_share(op, node, dy), window_of(node))
    return [op.Mul(spread, _norm_slope(op, node))]


@gradient("GlobalLpPool")
def global_lp_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = sign(x) |x|^(p - 1) · dy · y^(1 - p)."""
    return [op.Mul(_norm_slope(op, node), _norm_share(op, node, dy))]


@gradient("MaxUnpool")
def max_unpool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy at the places that x was written to; where several met at one place, the one that stayed."""
    x, kernel = node.x(), tuple(node.attribute("kernel_shape"))
    strides = tuple(node.attribute("strides") or (1,) * len(kernel))
    apart = all(k <= s for k, s in zip(kernel, strides, strict=True))
    if apart and node.optional(2) is None:
        places = op.Reshape(node.x(1), [-1])
        return only(node, reshape_like(op, op.Gather(op.Reshape(dy, [-1]), places, axis=0), x))
    # The operator takes floats only: element numbers are exact as far as its type counts.
    sizes = static_dims(x)
    limit = 2 ** (np.finfo((x.dtype or ir.DataType.FLOAT).numpy()).nmant + 1)
    if sizes is None or math.prod(sizes) >= limit:
        raise node.unsupported(
            "where its values meet cannot be told for an operand of that size, or of unknown size",
            "export it without output_shape, after a pooling whose windows do not overlap",
        )

    attributes = {name: node.attribute(name) for name in ("kernel_shape", "strides", "pads")}
    numbers = np.arange(1, math.prod(sizes) + 1).reshape(sizes)
    written = op.MaxUnpool(op.constant(numbers, x.dtype), *node.inputs[1:], **attributes)
    places = op.Reshape(op.Cast(op.Round(written), to=ir.DataType.INT64.value), [-1])
    slots = op.ConstantOfShape([math.prod(sizes) + 1], value=ir.tensor([0], dtype=dy.dtype or ir.DataType.FLOAT))
    total = op.ScatterElements(slots, places, op.Reshape(dy, [-1]), axis=0, reduction="add")
    return only(node, reshape_like(op, op.Slice(total, [1], [END], [0]), x))
