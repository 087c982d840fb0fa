"""Pooling: MaxPool, AveragePool and the global pools.

Ties of a maximum go to one winner, the first in row-major order, as the operator's Indices say.
Operator pages: https://onnx.ai/onnx/operators/onnx__MaxPool.html, onnx__AveragePool.html.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxplain.engine.forms import indicator
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, gradient, homogeneous, linear
from onnxplain.engine.rules.windows import Window, input_gradient, ones, spatial, window_of

homogeneous(1, "MaxPool", "GlobalMaxPool")
linear("AveragePool", "GlobalAveragePool")


@gradient("MaxPool")
def max_pool(op: Builder, node: Primal, dy: ir.Value | None, d_indices: object = None) -> Sequence[Contribution]:
    """dx = dy at each window's first maximum; where windows overlap, contributions add.

    The winners come from a second MaxPool: asking the forward one for its Indices would take it off
    onnxruntime's blocked layout.
    """
    if dy is None:
        return [None]
    win = window_of(node)
    x = node.x()
    keep = ("kernel_shape", "strides", "dilations", "pads", "ceil_mode")
    attributes = {k: node.attribute(k) for k in keep}
    _, winners = op.emit("MaxPool", [x], 2, **attributes)
    overlapping = any(e > s for e, s in zip(win.extents, win.strides, strict=True))
    zeros = _zeros(op, op.Size(x), x.dtype)
    scattered = op.ScatterElements(
        zeros, op.Reshape(winners, [-1]), op.Reshape(dy, [-1]), axis=0, reduction="add" if overlapping else None
    )
    return [op.Reshape(scattered, op.Shape(x))]


def _zeros(op: Builder, size: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    fill = ir.tensor([0], dtype=dtype or ir.DataType.FLOAT)
    return op.ConstantOfShape(op.Reshape(size, [-1]), value=fill)


@gradient("AveragePool")
def average_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / (number of cells counted), spread over each window."""
    win = window_of(node)
    x = node.x()
    scaled = _by_count(op, node, dy, win, x)
    if _tiles(win, x):
        factors = [1.0, 1.0, *[float(k) for k in win.kernel]]
        return [
            op.Resize(
                scaled, None, op.constant(factors, ir.DataType.FLOAT),
                mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )
        ]  # fmt: skip
    reach = _with_overhang(node, win, x)
    known = dims(x)
    channels = known[1] if known is not None else None
    if isinstance(channels, int):
        kernel = ones(op, [channels, 1, *win.kernel], x.dtype)
        return [input_gradient(op, scaled, kernel, replace(reach, group=channels), x, node)]
    # Channels are alike, so with an unknown number of them they join the batch.
    single = op.Reshape(scaled, op.Concat([-1, 1], op.Slice(op.Shape(scaled), [2], [2 + win.rank]), axis=0))
    spread = input_gradient(op, single, ones(op, [1, 1, *win.kernel], x.dtype), reach, x, node)
    return [op.Reshape(spread, op.Shape(x))]


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
