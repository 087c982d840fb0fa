"""DFT and STFT: linear maps whose adjoint is the transform of the opposite sign.

With real and imaginary parts as the last axis, the adjoint of the transform of length n is n times the
inverse one, and the adjoint of the inverse one is the forward one over n. What was padded is cut again,
what was cut is padded, a real signal takes the real part. A transform that keeps half of the spectrum
reads its adjoint as a spectrum whose other half is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import cast_like, count_of, reshape_like, widened
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, gradient, linear, multilinear, no_gradient, only

# Made from sizes; the edges of the mel filters are rounded to bins.
no_gradient("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", reported=False)

#: The opset from which the axis is an operand.
_AXIS_OPERAND = 20


def _transform(op: Builder, x: ir.Value, length: ir.Value, axis: ir.Value | int, **attributes: Any) -> ir.Value:
    """A DFT node in the form of the graph's opset; ``length`` is ``int64[1]``."""
    scalar = op.Squeeze(length, [0])
    if op.opset >= _AXIS_OPERAND:
        place = op.constant(axis) if isinstance(axis, int) else op.Reshape(axis, [])
        return op.DFT(x, scalar, place, **attributes)
    assert isinstance(axis, int)
    return op.DFT(x, scalar, axis=axis, **attributes)


def _axis(op: Builder, node: Primal) -> ir.Value | int:
    """The transformed axis: a number where it is known, else an ``int64[1]``."""
    if op.opset < _AXIS_OPERAND:
        return node.axis(1)
    operand, known = node.optional(2), node.constant(2)
    if operand is None or known is not None:
        axis = -2 if known is None else int(known.reshape(-1)[0])
        return axis % node.rank() if axis < 0 else axis
    return op.Reshape(operand, [1])


def _size(op: Builder, x: ir.Value, axis: ir.Value | int) -> ir.Value:
    if isinstance(axis, int):
        return op.Shape(x, start=axis, end=axis + 1)
    return op.Gather(op.Shape(x), axis)


def _fitted(op: Builder, value: ir.Value, size: ir.Value, axis: ir.Value | int) -> ir.Value:
    """``value`` with the axis cut, or padded with zeros, to a size ``int64[1]``."""
    axes = op.constant([axis]) if isinstance(axis, int) else axis
    missing = op.Max(op.Sub(size, _size(op, value, axis)), 0)
    return op.Pad(op.Slice(value, [0], size, axes), op.Concat([0], missing, axis=0), None, axes)


def _real(op: Builder, spectrum: ir.Value, x: ir.Value, node: Primal) -> ir.Value:
    """The parts that ``x`` has: the real one, or both."""
    known = dims(x)
    parts = known[-1] if known else None
    if not isinstance(parts, int):
        # Cut to the number of parts at run time.
        return op.Slice(spectrum, [0], op.Shape(x, start=-1), [-1])
    return spectrum if parts == 2 else op.Slice(spectrum, [0], [1], [-1])


@gradient("DFT")
def dft(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = n · inverse DFT of dy; for the inverse DFT, the DFT of dy over n; cut or padded to the signal."""
    x, axis = node.x(), _axis(op, node)
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    if inverse and onesided:
        return only(node, _half_spectrum(op, node, dy, axis))
    given = node.optional(1)
    length = op.Reshape(given, [1]) if given is not None else _size(op, x, axis)
    length = op.Cast(length, to=ir.DataType.INT64.value)
    n = cast_like(op, length, dy)
    turned = _transform(op, dy, length, axis, inverse=int(not inverse))
    scaled = op.Div(turned, n) if inverse else op.Mul(turned, n)
    dx = _fitted(op, _real(op, scaled, x, node), _size(op, x, axis), axis)
    return only(node, reshape_like(op, dx, x))


def _half_spectrum(op: Builder, node: Primal, dy: ir.Value, axis: ir.Value | int) -> ir.Value:
    """Adjoint of the real inverse transform of half a spectrum: all bins but the first and the middle stand for two."""
    x = node.x()
    length = _size(op, dy, axis)
    half = _transform(op, dy, length, axis, onesided=1)
    bins = op.Range(0, op.Squeeze(_size(op, half, axis), [0]), 1)
    single = op.Or(op.Equal(bins, 0), op.Equal(op.Mul(bins, 2), length))
    weight = op.Div(op.Sub(2.0, forms.indicator(op, single, dy)), cast_like(op, length, dy))
    if isinstance(axis, int):
        column = op.Reshape(weight, [-1] + [1] * (node.rank() - 1 - axis))
    else:
        ones = op.ConstantOfShape(op.Shape(op.Shape(half)), value=ir.tensor([1], dtype=ir.DataType.INT64))
        column = op.Reshape(weight, op.ScatterElements(ones, axis, op.Shape(weight)))
    return reshape_like(op, _fitted(op, op.Mul(half, column), _size(op, x, axis), axis), x)


linear("DFT")


def _frames(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
    """Which elements of the signal each frame reads, int64 ``[frames, frame length]``."""
    count = op.Squeeze(op.Shape(dy, start=1, end=2), [0])
    step = op.Cast(op.Reshape(node.x(1), []), to=ir.DataType.INT64.value)
    starts = op.Mul(op.Range(0, count, 1), step)
    window, given = node.optional(2), node.optional(3)
    length = op.Reshape(given, []) if given is not None else op.Size(window)
    within = op.Range(0, op.Cast(length, to=ir.DataType.INT64.value), 1)
    return op.Add(op.Unsqueeze(starts, [1]), within)


@gradient("STFT")
def stft(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dsignal = frames' adjoint DFT · window, added up where frames overlap; dwindow = sum of it · the signal's frames."""
    x, window = node.x(), node.optional(2)
    if window is None and node.optional(3) is None:
        raise node.unsupported("it has neither a window nor a frame length", "export it with frame_length")
    places = _frames(op, node, dy)
    length = op.Shape(places, start=1)
    turned = _transform(op, dy, length, 2, inverse=1)
    frames = op.Mul(_real(op, turned, x, node), cast_like(op, length, dy))

    def to_signal() -> ir.Value:
        weighted = frames if window is None else op.Mul(frames, op.Unsqueeze(window, [1]))
        parts = op.Concat(op.Shape(x, start=0, end=1), [-1], op.Shape(x, start=2), axis=0)
        updates = widened(op, op.Reshape(weighted, parts))
        index = op.Expand(op.Reshape(places, [1, -1, 1]), op.Shape(updates))
        zeros = op.ConstantOfShape(
            op.Reshape(count_of(op, x), [1]), value=ir.tensor([0], dtype=updates.dtype or ir.DataType.FLOAT)
        )
        total = op.ScatterElements(op.Reshape(zeros, op.Shape(x)), index, updates, axis=1, reduction="add")
        return cast_like(op, total, x)

    def to_window() -> ir.Value:
        return op.ReduceSum(op.Mul(frames, op.Gather(x, places, axis=1)), [0, 1, 3], keepdims=0)

    return [to_signal, None, to_window, None][: len(node.inputs)]


multilinear("STFT")
