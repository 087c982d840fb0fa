"""DeformConv: a convolution that reads its picture at places moved by an operand.

Each cell of the kernel samples the picture bilinearly at ``grid place + offset`` (0 outside); the samples,
times the mask, are the columns of an ordinary convolution, which is one matrix product per group.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import reshape_like
from onnxplain.engine.rules.convolution import affine_bias
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.sampling import Taps, combined, length_of, linear_taps, per_channel, scattered, slope_by
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient
from onnxplain.engine.rules.windows import channelwise


class _Deformed:
    """Reads a node and emits what its gradients share. Samples stand as ``[N parts, C / parts, K P]``."""

    def __init__(self, op: Builder, node: Primal) -> None:
        self.op, self.node = op, node
        known = dims(node.x(1))
        sizes = node.attribute("kernel_shape") or (known[2:] if known is not None else ())
        kernel = tuple(int(k) for k in sizes if isinstance(k, int))
        if node.rank() != 4 or len(kernel) != 2:
            raise node.unsupported("it is not 2-D with a known kernel", "export it with kernel_shape set")
        self.kernel = kernel
        self.cells = math.prod(self.kernel)
        self.parts, self.groups = int(node.attribute("offset_group", 1)), int(node.attribute("group", 1))
        x = node.x(0)
        channels = op.Div(op.Shape(x, start=1, end=2), [self.parts])
        self.x = op.Reshape(x, op.Concat([-1], channels, op.Shape(x, start=2), axis=0))
        self.moves = op.Reshape(node.x(2), [0, self.parts * self.cells, 2, -1])

    @functools.cached_property
    def taps(self) -> list[Taps]:
        """Per axis, at all places."""
        return [linear_taps(self.op, self._places(k), length_of(self.op, self.node.x(0), 2 + k)) for k in (0, 1)]

    def move(self, axis: int) -> ir.Value:
        """The offsets along an axis, ``[N parts, 1, K P]``."""
        op = self.op
        one = op.Gather(self.moves, op.constant(axis), axis=2)
        return op.Reshape(one, op.Concat([-1, 1], op.Mul(op.Shape(one, start=2), [self.cells]), axis=0))

    def _places(self, axis: int) -> ir.Value:
        op, node = self.op, self.node
        strides, dilations = node.attribute("strides") or (1, 1), node.attribute("dilations") or (1, 1)
        pads = node.attribute("pads") or (0, 0, 0, 0)
        dtype = (self.x.dtype or ir.DataType.FLOAT).value
        count = op.Squeeze(op.Shape(node.x(2), start=2 + axis, end=3 + axis), [0])
        line = op.Sub(op.Mul(op.Cast(op.Range(0, count, 1), to=dtype), float(strides[axis])), float(pads[axis]))
        within = np.indices(self.kernel)[axis].reshape(-1, 1, 1) * float(dilations[axis])
        start = op.Add(op.Unsqueeze(line, [1]) if axis == 0 else line, op.constant(within, self.x.dtype))
        grid = op.Expand(start, op.Concat([1], op.Shape(node.x(2), start=2), axis=0))
        return op.Add(self.move(axis), op.Reshape(grid, [1, 1, -1]))

    @functools.cached_property
    def samples(self) -> ir.Value:
        """What every cell reads."""
        op = self.op
        index, weight = combined(op, self.x, self.taps)
        read = op.GatherElements(op.Reshape(self.x, [0, 0, -1]), per_channel(op, self.x, index), axis=2)
        count = op.Shape(self.taps[0].coordinate, start=2)
        return op.ReduceSum(op.Reshape(op.Mul(read, weight), op.Concat([0, 0, -1], count, axis=0)), [2], keepdims=0)

    def masked(self, samples: ir.Value) -> ir.Value:
        """Samples times the mask, where there is one."""
        mask = self.node.optional(4)
        if mask is None:
            return samples
        shape = self.op.Concat([-1, 1], self.op.Shape(samples, start=2), axis=0)
        return self.op.Mul(samples, self.op.Reshape(mask, shape))

    def columns(self, samples: ir.Value) -> ir.Value:
        """``[N, groups, C / groups K, P]``."""
        sizes = self.op.Shape(self.node.x(2))
        places = self.op.ReduceProd(self.op.Slice(sizes, [2], [4]), keepdims=1)
        batch = self.op.Slice(sizes, [0], [1])
        return self.op.Reshape(samples, self.op.Concat(batch, [self.groups, -1], places, axis=0))

    @functools.cached_property
    def weights(self) -> ir.Value:
        """``[groups, outputs / groups, C / groups K]``."""
        op, w = self.op, self.node.x(1)
        inner = op.Mul(op.Shape(w, start=1, end=2), [self.cells])
        return op.Reshape(w, op.Concat([self.groups, -1], inner, axis=0))

    def rows(self, dy: ir.Value) -> ir.Value:
        """``[N, groups, outputs / groups, P]``."""
        op = self.op
        each = op.Div(op.Shape(dy, start=1, end=2), [self.groups])
        return op.Reshape(dy, op.Concat([0, self.groups], each, [-1], axis=0))


@gradient("DeformConv")
def deform_conv(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """With s the samples, m the mask: d(s m) = W^T dy; dx scatters, doffset takes slopes, dm = s d(s m), dW = dy (s m)^T."""
    at = _Deformed(op, node)

    @functools.cache
    def d_columns() -> ir.Value:
        back = op.MatMul(op.Transpose(at.weights, perm=[0, 2, 1]), at.rows(dy))
        return op.Reshape(back, op.Concat(op.Shape(at.x, start=0, end=2), [-1], axis=0))

    def to_weights() -> ir.Value:
        columns = op.Transpose(at.columns(at.masked(at.samples)), perm=[0, 1, 3, 2])
        return reshape_like(op, op.ReduceSum(op.MatMul(at.rows(dy), columns), [0], keepdims=0), node.x(1))

    def to_offset() -> ir.Value:
        inner = at.masked(d_columns())
        parts = []
        for axis in (0, 1):
            along = op.ReduceSum(op.Mul(inner, slope_by(op, at.x, at.taps, axis)), [1], keepdims=0)
            places = op.Shape(at.moves, start=3)
            parts.append(op.Reshape(along, op.Concat([-1, at.parts * at.cells, 1], places, axis=0)))
        return reshape_like(op, op.Concat(*parts, axis=2), node.x(2))

    def to_mask() -> ir.Value:
        return reshape_like(op, op.ReduceSum(op.Mul(d_columns(), at.samples), [1], keepdims=0), node.x(4))

    return [
        lambda: reshape_like(op, scattered(op, at.x, at.masked(d_columns()), at.taps), node.x(0)),
        to_weights,
        to_offset,
        lambda: op.ReduceSum(dy, [0, 2, 3], keepdims=0),
        to_mask,
    ][: len(node.inputs)]


@bias("DeformConv")
def deform_conv_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """Linear in x, W and the mask; without what the offsets' own change would do where they are active."""
    at = _Deformed(op, node)
    b = node.optional(3)
    column = None if b is None else channelwise(op, b, 2)
    terms = affine_bias(op, node, column, node.active(0) + node.active(1) + node.active(4), position=3)
    if not node.active(2):
        return terms
    moved = [op.Mul(slope_by(op, at.x, at.taps, k), at.move(k)) for k in (0, 1)]
    change = op.MatMul(at.weights, at.columns(at.masked(op.Add(*moved))))
    terms.append(Bias(op.Neg(reshape_like(op, change, node.y)), "implicit"))
    return terms
