"""Rotary positions: pairs of elements of a head turned by an angle that grows with the position."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import refuse_attributes, splits
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.rules.node import Primal


def rotate(
    op: Builder, x: ir.Value, cos: ir.Value, sin: ir.Value, interleaved: bool, width: int | None = None
) -> ir.Value:
    """Turn the pairs of the last axis.

    Args:
        x: ``[batch, heads, length, head size]``.
        cos, sin: ``[batch or 1, 1, length, half of the turned width]``.
        interleaved: Pairs are neighbours; else element i goes with element i + half.
        width: Leading elements that are turned; all by default.
    """
    rest = None
    if width is not None:
        rest = op.Slice(x, [width], [2**62], [3])
        x = op.Slice(x, [0], [width], [3])
    if interleaved:
        first, second = op.Slice(x, [0], [2**62], [3], [2]), op.Slice(x, [1], [2**62], [3], [2])
    else:
        first, second = op.emit("Split", [x], outputs=2, axis=3, num_outputs=2)
    turned = [
        op.Sub(op.Mul(first, cos), op.Mul(second, sin)),
        op.Add(op.Mul(first, sin), op.Mul(second, cos)),
    ]
    if interleaved:
        y = op.Reshape(op.Concat(*[op.Unsqueeze(t, [4]) for t in turned], axis=4), op.Shape(x))
    else:
        y = op.Concat(*turned, axis=3)
    return y if rest is None else op.Concat(y, rest, axis=3)


def looked_up(op: Builder, cache: ir.Value, positions: ir.Value) -> ir.Value:
    """Rows of a cosine or sine table, ``[batch or 1, 1, length, half]``, for positions ``[batch or 1, length]``."""
    return op.Unsqueeze(op.Gather(cache, positions, axis=0), [1])


@splits("RotaryEmbedding")
def rotary_embedding(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    refuse_attributes(node, is_packed_batching=0, scale=1.0)
    x, positions, count = node.x(), node.x(1), node.rank()
    heads, width = int(node.attribute("num_heads", 0)), int(node.attribute("rotary_embedding_dim", 0)) or None
    table = dims(node.x(2))
    half = table[1] if table is not None and len(table) == 2 else None
    shape = op.Shape(x)
    if count == 3:
        if not heads:
            if width is not None or not isinstance(half, int):
                raise node.unsupported("num_heads is not given", "export the model with it")
            split = op.Reshape(x, [0, 0, -1, 2 * half])
        else:
            split = op.Reshape(x, [0, 0, heads, -1])
        split = op.Transpose(split, perm=[0, 2, 1, 3])
    else:
        split = x
    if node.rank(1) == 1:  # one offset: positions go on from there
        length = op.Gather(shape, op.constant(1 if count == 3 else 2, ir.DataType.INT64))
        zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
        positions = op.Unsqueeze(op.Add(op.Range(zero, length, one), positions), [0])
    cos, sin = (looked_up(op, node.x(i), positions) for i in (2, 3))
    y = rotate(op, split, cos, sin, bool(node.attribute("interleaved", 0)), width)
    return [op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), shape) if count == 3 else y]
