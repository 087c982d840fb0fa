"""Brings a tensor to another tensor's shape, by numbers where sizes are known, by ``Shape`` where not.

A constant shape with one open size (the batch) is what every execution provider handles best, so it is
preferred; run-time shape arithmetic is emitted only where two sizes are open and cannot be copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dims, dims, same, static_dims

#: ``Slice`` cuts this end to the size of the axis.
END = int(np.iinfo(np.int64).max)


def shape_of(op: Builder, value: ir.Value) -> ir.Value:
    """The value's shape, ``int64[rank]``: a constant where all sizes are known."""
    known = static_dims(value)
    return op.constant(np.asarray(known, np.int64)) if known is not None else op.Shape(value)


def size_of(op: Builder, value: ir.Value, axis: int) -> ir.Value:
    """The value's size along an axis counted from the front, ``int64[1]``."""
    known = dims(value)
    size = known[axis] if known is not None else None
    return op.constant([size]) if isinstance(size, int) else op.Shape(value, start=axis, end=axis + 1)


def count_of(op: Builder, value: ir.Value) -> ir.Value:
    """The number of the value's elements, an ``int64`` scalar."""
    known = static_dims(value)
    return op.constant(np.asarray(int(np.prod(known)), np.int64)) if known is not None else op.Size(value)


def target_shape(source: Dims | None, target: Dims | None) -> list[int] | None:
    """Operand of a Reshape from ``source`` to ``target`` sizes, with 0 for a copied and -1 for one open size.

    None where that cannot express it (two open sizes, or a size that is 0).
    """
    if target is None or 0 in target:
        return None
    sizes: list[int] = []
    for i, size in enumerate(target):
        if isinstance(size, int):
            sizes.append(size)
        elif source is not None and i < len(source) and same(source[i], size):
            sizes.append(0)
        else:
            sizes.append(-1)
    return sizes if sizes.count(-1) <= 1 else None


def reshape_like(op: Builder, value: ir.Value, like: ir.Value, source: Dims | None = None) -> ir.Value:
    """``value`` with the shape of ``like``.

    Args:
        op: Where to emit.
        value: The tensor to reshape.
        like: The tensor whose shape it gets; it has as many elements.
        source: What is known of the sizes of ``value``, where more is known than the value tells.
    """
    sizes = target_shape(source if source is not None else dims(value), dims(like))
    if sizes is not None:
        return op.Reshape(value, sizes)
    return op.Reshape(value, op.Shape(like), allowzero=1)


def zeros_like(op: Builder, value: ir.Value, dtype: ir.DataType | None = None, fill: float = 0.0) -> ir.Value:
    """A tensor of the value's shape, filled with one number, in the value's type by default."""
    dtype = dtype or value.dtype or ir.DataType.FLOAT
    return op.ConstantOfShape(shape_of(op, value), value=ir.tensor(np.asarray([fill], dtype.numpy()), dtype=dtype))


def cast_like(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` in the type of ``like``; itself where it has it already."""
    if value.dtype is not None and value.dtype == like.dtype:
        return value
    result = op.CastLike(value, like) if like.dtype is None else op.Cast(value, to=like.dtype.value)
    result.shape = value.shape
    return result


def widened(op: Builder, value: ir.Value) -> ir.Value:
    """``value`` in float32 where its type is narrower: scatter-add is exact there, and has a kernel everywhere."""
    if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return op.Cast(value, to=ir.DataType.FLOAT.value)
    return value


def slice_axis(op: Builder, value: ir.Value, axis: int, start: int, end: int = END, step: int = 1) -> ir.Value:
    """``value[start:end:step]`` along one axis, by numbers."""
    return op.Slice(value, [start], [end], [axis], [step])


def pad_axis(op: Builder, value: ir.Value, axis: int, before: int, after: int) -> ir.Value:
    """Zeros in front of and behind one axis; negative amounts cut."""
    if before < 0 or after < 0:
        value = slice_axis(op, value, axis, max(-before, 0), after if after < 0 else END)
        before, after = max(before, 0), max(after, 0)
    if before == after == 0:
        return value
    return op.Pad(value, [before, after], None, [axis])


def total_per_sample(op: Builder, values: Sequence[ir.Value], like: ir.Value | None = None) -> ir.Value:
    """Sum over all elements of each sample, over all values: ``[N]``, in the type of ``like`` (the first one's)."""
    sums = [op.ReduceSum(op.Flatten(v, axis=1), [1], keepdims=0) for v in values]
    sums = [cast_like(op, v, like if like is not None else values[0]) for v in sums]
    return sums[0] if len(sums) == 1 else op.Sum(*sums)
