"""Geometry of windowed operators, and the three convolutions that a convolution's reverse sweep needs.

A convolution with weights W, seen as a linear map, has an adjoint (the gradient of its input) and is
linear in W as well (the gradient of its weights). Pooling uses the same adjoint with a kernel of ones,
ConvTranspose *is* the adjoint, so its own gradient is the plain convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.explicit_pads import window as read_window
from onnxplain.engine.graph.shapes import Dim, dims
from onnxplain.engine.rules.node import Primal

#: Up to so many channels a transposed convolution is faster than one with the flipped kernel.
FEW_CHANNELS = 4


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and pads of a windowed operator, one number per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    group: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def axes(self) -> list[int]:
        """The spatial axes of a tensor [N, C, ...]."""
        return list(range(2, 2 + self.rank))

    @property
    def extents(self) -> tuple[int, ...]:
        """How far a window reaches: (k - 1) d + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def pads(self) -> list[int]:
        """Pads as the attribute has them: all begins, then all ends."""
        return [*self.begin, *self.end]

    def output(self, axis: int, size: int) -> int:
        """Number of windows along a spatial axis (rounded down)."""
        return (size + self.begin[axis] + self.end[axis] - self.extents[axis]) // self.strides[axis] + 1


def window_of(node: Primal) -> Window:
    """The geometry of a Conv, ConvTranspose or pooling node with explicit pads."""
    kernel, strides, dilations = read_window(node.ir)
    count = len(kernel)
    pads = node.attribute("pads") or (0,) * (2 * count)
    return Window(
        tuple(kernel), tuple(strides), tuple(dilations), tuple(pads[:count]), tuple(pads[count:]),
        int(node.attribute("group", 1)),
    )  # fmt: skip


def spatial(value: ir.Value, count: int) -> tuple[Dim, ...]:
    """Sizes of the spatial axes as far as they are known."""
    known = dims(value)
    return known[2:] if known is not None and len(known) == count + 2 else (None,) * count


def convolve(op: Builder, x: ir.Value, w: ir.Value, win: Window) -> ir.Value:
    """The plain convolution; negative pads crop, which the operator's own attribute cannot say."""
    crop = [min(p, 0) for p in win.pads]
    if any(crop):
        n = win.rank
        x = op.Pad(x, [0, 0, *crop[:n], 0, 0, *crop[n:]])
    return op.Conv(
        x, w, kernel_shape=win.kernel, strides=win.strides, dilations=win.dilations, group=win.group,
        pads=[max(p, 0) for p in win.pads],
    )  # fmt: skip


def input_gradient(op: Builder, dy: ir.Value, w: ir.Value, win: Window, x: ir.Value, node: Primal) -> ir.Value:
    """Adjoint of the convolution of ``x`` with ``w``: from the result's shape to the shape of ``x``.

    Stride 1: a convolution with the flipped kernel, unless it gives a few channels only: the runtime computes them
    in blocks of 8 or 16. Kernel = stride (patches): a 1x1 convolution and DepthToSpace. Else ConvTranspose.
    Measured in docs/performance.md.
    """
    if all(s == 1 for s in win.strides):
        if _gives_few(op, win, x):
            return _unit_transposed(op, dy, w, win)
        return _flipped(op, dy, w, win, node)
    if _is_patches(win, x):
        return _patches(op, dy, w, win, x)
    return _transposed(op, dy, w, win, x)


def _gives_few(op: Builder, win: Window, x: ir.Value) -> bool:
    """Whether the gradient has few channels: that of a picture by the first layer."""
    known = dims(x)
    channels = known[1] if known is not None and len(known) > 1 else None
    return (
        isinstance(channels, int)
        and channels <= FEW_CHANNELS
        and win.group == 1
        and any(k > 1 for k in win.kernel)
        and min(win.pads, default=0) >= 0
        and "ConvTranspose" not in op.lacks
    )


def _unit_transposed(op: Builder, dy: ir.Value, w: ir.Value, win: Window) -> ir.Value:
    """ConvTranspose of stride 1, which reaches every element of x and no more."""
    return op.ConvTranspose(dy, w, kernel_shape=win.kernel, dilations=win.dilations, pads=win.pads)


def _flipped(op: Builder, dy: ir.Value, w: ir.Value, win: Window, node: Primal) -> ir.Value:
    n = win.rank
    flipped = _exchange_channels(op, w, win, node)
    if any(k > 1 for k in win.kernel):
        last = [-1] * n
        flipped = op.Slice(flipped, last, [-(2**31)] * n, win.axes, last)
    pads = [e - 1 - p for e, p in zip(win.extents * 2, win.pads, strict=True)]
    back = Window(win.kernel, win.strides, win.dilations, tuple(pads[:n]), tuple(pads[n:]), win.group)
    return convolve(op, dy, flipped, back)


def _exchange_channels(op: Builder, w: ir.Value, win: Window, node: Primal) -> ir.Value:
    """[O, C/g, k...] -> [C, O/g, k...]: what was output channel becomes input channel, group by group."""
    rest = list(range(2, 2 + win.rank))
    if win.group == 1:
        return op.Transpose(w, perm=[1, 0, *rest])
    known = dims(w)
    if known is None or not all(isinstance(d, int) for d in known):
        raise node.unsupported(
            "the weights of a grouped convolution have run-time sizes", "export it with fixed weights"
        )
    out, inner = int(known[0] or 0), int(known[1] or 0)
    per_group = out // win.group
    if per_group == 1 and inner == 1:
        return w
    kernel = list(win.kernel)
    grouped = op.Reshape(w, [win.group, per_group, inner, *kernel])
    swapped = op.Transpose(grouped, perm=[0, 2, 1, *[a + 1 for a in rest]])
    return op.Reshape(swapped, [win.group * inner, per_group, *kernel])


def _is_patches(win: Window, x: ir.Value) -> bool:
    """Whether windows tile a picture without overlap, padding or remainder."""
    sizes = spatial(x, win.rank)
    return (
        win.rank == 2
        and win.group == 1
        and win.kernel == win.strides
        and win.kernel[0] == win.kernel[1]
        and not any(win.pads)
        and all(d == 1 for d in win.dilations)
        and all(isinstance(s, int) and s % k == 0 for s, k in zip(sizes, win.kernel, strict=True))
    )


def _patches(op: Builder, dy: ir.Value, w: ir.Value, win: Window, x: ir.Value) -> ir.Value:
    columns = op.Transpose(op.Flatten(w, axis=1), perm=[1, 0])
    kernel = op.Unsqueeze(columns, [2, 3])
    return op.DepthToSpace(op.Conv(dy, kernel, kernel_shape=[1, 1]), blocksize=win.kernel[0], mode="CRD")


def _transposed(op: Builder, dy: ir.Value, w: ir.Value, win: Window, x: ir.Value) -> ir.Value:
    sizes = spatial(x, win.rank)
    common = {"kernel_shape": win.kernel, "strides": win.strides, "dilations": win.dilations, "group": win.group}
    if all(isinstance(s, int) for s in sizes):
        numbers = [s for s in sizes if isinstance(s, int)]
        # What the last window does not reach gets no gradient: it is the output padding.
        left = [
            size + b + e - ((win.output(i, size) - 1) * stride + extent)
            for i, (size, b, e, stride, extent) in enumerate(
                zip(numbers, win.begin, win.end, win.strides, win.extents, strict=True)
            )
        ]
        return op.ConvTranspose(dy, w, pads=win.pads, output_padding=left, **common)
    whole = op.ConvTranspose(dy, w, output_padding=[s - 1 for s in win.strides], **common)
    begin = op.constant(list(win.begin), ir.DataType.INT64)
    return op.Slice(whole, begin, op.Add(begin, op.Slice(op.Shape(x), [2], [2 + win.rank])), win.axes)


def weight_gradient(op: Builder, dy: ir.Value, x: ir.Value, win: Window) -> ir.Value:
    """Gradient of the weights: a convolution of x with dy, batch and channels exchanged, strides and dilations too."""
    n = win.rank
    exchange = [1, 0, *win.axes]
    if win.group == 1:
        data = op.Transpose(x, perm=exchange)
    else:
        # [N, g C', ...] -> [C', g N, ...]: the groups stay channels, the batch joins them.
        shape = op.Shape(x)
        per_group = op.Div(op.Slice(shape, [1], [2]), [win.group])
        sizes = op.Slice(shape, [2], [2 + n])
        grouped = op.Reshape(x, op.Concat(op.Slice(shape, [0], [1]), [win.group], per_group, sizes, axis=0))
        turned = op.Transpose(grouped, perm=[2, 1, 0, *[a + 1 for a in win.axes]])
        data = op.Reshape(turned, op.Concat(per_group, [-1], sizes, axis=0))
    kernel = op.Transpose(dy, perm=exchange)
    crop = [min(p, 0) for p in win.pads]
    if any(crop):
        data = op.Pad(data, [0, 0, *crop[:n], 0, 0, *crop[n:]])
    result = op.Conv(
        data, kernel, strides=win.dilations, dilations=win.strides, group=win.group, pads=[max(p, 0) for p in win.pads]
    )
    # A remainder that no window reached makes the result longer than the kernel.
    result = op.Slice(result, [0] * n, list(win.kernel), win.axes)
    return op.Transpose(result, perm=exchange)


def channelwise(op: Builder, vector: ir.Value, spatial_axes: int) -> ir.Value:
    """[C] -> [C, 1, ..., 1], to stand against [N, C, ...]."""
    if not spatial_axes:
        return vector
    column = op.Reshape(vector, [-1] + [1] * spatial_axes)
    known = dims(vector)
    column.shape = ir.Shape([*(known or (None,)), *[1] * spatial_axes])
    return column


def ones(op: Builder, shape: Sequence[int], dtype: ir.DataType | None) -> ir.Value:
    """A constant of ones."""
    value = op.Expand(op.constant(1.0, dtype), list(shape))
    value.shape = ir.Shape(list(shape))
    return value
