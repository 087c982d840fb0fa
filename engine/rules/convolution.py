"""Conv, ConvTranspose and Col2Im, 1-D to 3-D, with groups, strides, dilations and any padding.

Operator pages: https://onnx.ai/onnx/operators/onnx__Conv.html and onnx__ConvTranspose.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import reshape_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, linear, only
from onnxplain.engine.rules.windows import (
    Window,
    channelwise,
    convolve,
    input_gradient,
    spatial,
    weight_gradient,
    window_of,
)


@gradient("Conv")
def conv(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = the adjoint convolution of dy; dW = x convolved with dy; db = sum of dy over batch and space."""
    win = window_of(node)
    return [
        lambda: input_gradient(op, dy, node.x(1), win, node.x(0), node),
        lambda: weight_gradient(op, dy, node.x(0), win),
        lambda: op.ReduceSum(dy, [0, *win.axes], keepdims=0),
    ][: len(node.inputs)]


@gradient("ConvTranspose")
def conv_transpose(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = the plain convolution of dy; dW = dy convolved with x; db = sum of dy over batch and space."""
    win = transposed_window(node)
    return [
        lambda: convolve(op, dy, node.x(1), win),
        lambda: weight_gradient(op, node.x(0), dy, win),
        lambda: op.ReduceSum(dy, [0, *win.axes], keepdims=0),
    ][: len(node.inputs)]


def transposed_window(node: Primal) -> Window:
    """The convolution whose adjoint this ConvTranspose is; output padding shortens the end padding."""
    win = window_of(node)
    extra = tuple(node.attribute("output_padding") or (0,) * win.rank)
    mode = node.attribute("auto_pad", "NOTSET")
    wanted = node.attribute("output_shape")
    if wanted or mode in ("SAME_UPPER", "SAME_LOWER"):
        total = _total_padding(node, win, extra, wanted)
        small = [max(t, 0) // 2 for t in total]
        large = [max(t, 0) - s for t, s in zip(total, small, strict=True)]
        begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
        # An output_shape that the kernels do not reach is filled up with zeros at the end.
        win = replace(win, begin=tuple(begin), end=tuple(e + min(t, 0) for e, t in zip(end, total, strict=True)))
    elif mode == "VALID":
        win = replace(win, begin=(0,) * win.rank, end=(0,) * win.rank)
    return replace(win, end=tuple(e - x for e, x in zip(win.end, extra, strict=True)))


def _total_padding(node: Primal, win: Window, extra: tuple[int, ...], wanted: Sequence[int] | None) -> list[int]:
    """Padding per axis that gives the wanted size: ``output_shape``, or stride times input size for SAME.

    Negative where an ``output_shape`` is larger than what the kernels reach.
    """
    reach = [e + x - s for e, x, s in zip(win.extents, extra, win.strides, strict=True)]
    if wanted is None:
        return [max(r, 0) for r in reach]
    sizes = spatial(node.x(0), win.rank)
    if not all(isinstance(s, int) for s in sizes):
        raise node.unsupported("output_shape with an input size known only at run time", "export it with explicit pads")
    spans = [s * int(size or 0) for s, size in zip(win.strides, sizes, strict=True)]
    return [span + r - w for span, r, w in zip(spans, reach, wanted[-win.rank :], strict=True)]


@gradient("Col2Im")
def col2im(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = the columns of dy: a convolution whose kernels pick one cell of the block each."""
    block, known = node.constant(2), dims(node.x(2))
    count = len(block) if block is not None else known[0] if known is not None else None
    if not isinstance(count, int):
        raise node.unsupported(
            "its number of spatial axes is known only at run time", "export it with a fixed block_shape"
        )
    sizes = op.Slice(op.Shape(dy), [2], [2 + count])
    single = op.Reshape(dy, op.Concat([-1, 1], sizes, axis=0))
    if block is not None:
        cells = int(np.prod(block))
        kernel = op.constant(np.eye(cells).reshape(cells, 1, *block.tolist()), dy.dtype)
    else:
        cells_now = op.ReduceProd(node.x(2), keepdims=1)
        square = op.ConstantOfShape(op.Concat(cells_now, cells_now, axis=0))
        picked = op.EyeLike(square, dtype=(dy.dtype or ir.DataType.FLOAT).value)
        kernel = op.Reshape(picked, op.Concat(cells_now, [1], node.x(2), axis=0))
    keep = {name: node.attribute(name) for name in ("strides", "dilations", "pads")}
    return only(node, reshape_like(op, op.Conv(single, kernel, **keep), node.x()))


linear("Col2Im")


@bias("Conv", "ConvTranspose")
def conv_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    b = node.optional(2)
    count = window_of(node).rank
    return affine_bias(op, node, None if b is None else channelwise(op, b, count), node.active(0) + node.active(1))


def affine_bias(op: Builder, node: Primal, b: ir.Value | None, factors: int, position: int = 2) -> list[Bias]:
    """Bias of ``y = L + b`` where L is a product of degree ``factors`` in its active operands.

    c = L + b - factors L - (b if it is active itself), with L = y - b.
    """
    terms: list[Bias] = []
    if b is not None and not node.active(position):
        shift = node.optional(position)
        terms.append(Bias(b, "explicit", (shift.name if shift is not None else "") or ""))
    if factors != 1:
        product = node.y if b is None else op.Sub(node.y, b)
        rest = product if factors == 0 else op.Neg(product) if factors == 2 else op.Mul(product, 1.0 - factors)
        terms.append(Bias(rest, "implicit"))
    return terms
