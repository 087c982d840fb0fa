"""Eigen-CAM: what varies most over the places of a layer, whatever the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import END, reshape_like
from onnxplain.engine.method import Parts, Run, method
from onnxplain.engine.methods.cam_family import ClassActivationMap

#: Squarings of the Gram matrix: 2^14 steps of the power iteration, enough where the second singular value is
#: below 0.999 of the first.
SQUARINGS = 14
#: Steps with the Gram matrix itself afterwards, which take back the squarings' rounding.
POLISH = 4


@method("eigencam")
class EigenCAM(ClassActivationMap):
    """``A v`` at one layer, with v the first right singular vector of the activations, places as rows.

    No class is looked at: the map is the same for all of them. The vector comes from a power iteration in the
    graph, a fixed number of squarings of the smaller Gram matrix. Its sign, which a singular vector leaves open,
    makes the largest magnitude of the map positive.

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        center: Take each channel's mean over places away first (principal component analysis proper).
        relu: Whether negative places of the map are set to zero.
        align_corners: How the map is upsampled.
    """

    summary: ClassVar[str] = "first principal component of a layer's activations; the same for all classes"
    source: ClassVar[str] = "Muhammad and Yeasin 2020, arXiv 2008.00299"
    differentiates: ClassVar[bool] = False

    layer: str = ""
    center: bool = False
    relu: bool = True
    align_corners: bool = True

    def __post_init__(self) -> None:
        """There is no sign policy: no gradient is used."""

    def weigh(self, op: Builder, a: ir.Value, g: ir.Value, places: Sequence[int]) -> ir.Value:
        """A v, before the sum over channels."""
        if self.center:
            shape = a.shape
            a = op.Sub(a, op.ReduceMean(a, list(places), keepdims=1))
            a.shape = shape
        known = dims(a) or ()
        channels = [i for i in range(1, len(known)) if i not in places]
        order = [0, *places, *channels]
        moved = op.Transpose(a, perm=order)
        moved.shape = ir.Shape([known[i] for i in order])
        rows = _rows(op, moved, len(places))
        product = op.Mul(rows, _direction(op, rows, _fewer_places(known, places, channels)))
        back = reshape_like(op, product, moved)
        return op.Transpose(back, perm=[order.index(i) for i in range(len(order))])

    def reduce(self, run: Run) -> Parts:
        parts = super().reduce(run)
        parts.notes.append("the map does not depend on the target: it shows what the layer responds to most")
        return parts


def _rows(op: Builder, moved: ir.Value, places: int) -> ir.Value:
    """``[N, places..., channels...]`` as ``[N, P, C]``."""
    joined = moved
    if len(dims(moved) or ()) > places + 2:
        start = op.Slice(op.Shape(moved), [0], [places + 1])
        joined = op.Reshape(moved, op.Concat(start, [-1], axis=0))
    if places == 1:
        return joined
    last = op.Slice(op.Shape(joined), [-1], [END])
    return op.Reshape(joined, op.Concat([0, -1], last, axis=0))


def _fewer_places(known: Sequence[object], places: Sequence[int], channels: Sequence[int]) -> bool:
    """Whether there are fewer places than channels; taken to be so where the sizes are not known."""

    def count(axes: Sequence[int]) -> int | None:
        total = 1
        for axis in axes:
            size = known[axis]
            if not isinstance(size, int):
                return None
            total *= size
        return total

    p, c = count(places), count(channels)
    return c is None or (p is not None and p <= c)


def _direction(op: Builder, rows: ir.Value, by_places: bool) -> ir.Value:
    """The first right singular vector of each ``[P, C]``, as ``[N, 1, C]``, of length one."""
    turned = op.Transpose(rows, perm=[0, 2, 1])
    gram = op.MatMul(rows, turned) if by_places else op.MatMul(turned, rows)
    power = _scaled(op, gram, [1, 2])
    for _ in range(SQUARINGS):
        power = _scaled(op, op.MatMul(power, power), [1, 2])
    # The column with the largest diagonal element is the one that is surest to be no zero vector.
    diagonal = op.ReduceSum(op.Mul(power, power), [1], keepdims=0)
    largest = op.ArgMax(diagonal, axis=1, keepdims=1)
    size = op.Squeeze(op.Slice(op.Shape(diagonal), [1], [2]), [0])
    picked = op.OneHot(largest, size, op.constant([0.0, 1.0], rows.dtype), axis=-1)
    vector = op.Transpose(op.MatMul(picked, power), perm=[0, 2, 1])
    for _ in range(POLISH):
        vector = _scaled(op, op.MatMul(gram, vector), [1])
    right = op.MatMul(turned, vector) if by_places else vector
    right = op.Transpose(_scaled(op, right, [1]), perm=[0, 2, 1])
    projected = op.ReduceSum(op.Mul(rows, right), [2], keepdims=1)
    top, low = op.ReduceMax(projected, [1], keepdims=1), op.ReduceMin(projected, [1], keepdims=1)
    zero = op.constant(0, rows.dtype)
    positive = op.GreaterOrEqual(op.Add(top, low), zero)
    return op.Where(positive, right, op.Neg(right))


def _scaled(op: Builder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Over its norm, in two steps so that no square overflows; zero stays zero."""
    top = op.ReduceMax(op.Abs(value), list(axes), keepdims=1)
    near = op.Div(value, op.Where(op.Equal(top, 0.0), 1.0, top))
    size = op.ReduceL2(near, list(axes), keepdims=1)
    return op.Div(near, op.Where(op.Equal(size, 0.0), 1.0, size))
