"""Layer normalisations that runtimes fuse with what stands before them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import CONTRIB, add_all, splits
from onnxplain.engine.rules.node import Primal


def root_mean_square(
    op: Builder, x: ir.Value, epsilon: float, axes: Sequence[int] = (-1,)
) -> tuple[ir.Value, ir.Value]:
    """x over its root mean square, and one over that root."""
    inverse = op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), list(axes), keepdims=1), epsilon)))
    return op.Mul(x, inverse), inverse


def _epsilon(node: Primal, default: float = 1e-5) -> float:
    return float(node.attribute("epsilon", default))


def layer_normalization(
    op: Builder, x: ir.Value, gamma: ir.Value, beta: ir.Value | None, epsilon: float, axis: int = -1
) -> ir.Value:
    """The standard operator over the axes from ``axis`` on."""
    return op.LayerNormalization(x, gamma, beta, axis=axis, epsilon=epsilon)


@splits("LayerNormalization")
def contrib_layer_normalization(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """The same operator in another domain."""
    inputs = [node.x(), node.x(1), node.optional(2)]
    axis = int(node.attribute("axis", -1))
    return op.emit("LayerNormalization", inputs, outputs=len(node.outputs), axis=axis, epsilon=_epsilon(node))


@splits("SimplifiedLayerNormalization", domain="")
@splits("SimplifiedLayerNormalization", domain=CONTRIB)
def simplified(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """RMS normalisation; onnxruntime keeps it in the default domain, without its being in the standard."""
    axis = int(node.attribute("axis", -1))
    axes = range(axis, 0) if axis < 0 else range(axis - node.rank(), 0)
    normal, inverse = root_mean_square(op, node.x(), _epsilon(node), list(axes))
    return [op.Mul(normal, node.x(1)), inverse]


@splits("SkipLayerNormalization")
def skip(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    total = add_all(op, node.x(), node.x(1), node.optional(4))
    y = layer_normalization(op, total, node.x(2), node.optional(3), _epsilon(node, 1e-12))
    return [y, None, None, total]


@splits("SkipSimplifiedLayerNormalization")
def skip_simplified(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    total = add_all(op, node.x(), node.x(1), node.optional(3))
    normal, _ = root_mean_square(op, total, _epsilon(node, 1e-12))
    return [op.Mul(normal, node.x(2)), None, None, total]


@splits("EmbedLayerNormalization")
def embed(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Look-ups of word, position and segment, summed and normalised; the sum has a name to attribute to."""
    ids, segments, mask, positions = node.x(), node.optional(1), node.optional(7), node.optional(8)
    parts = [op.Gather(node.x(2), ids, axis=0)]
    if positions is not None:
        parts.append(op.Gather(node.x(3), positions, axis=0))
    else:
        length = op.Slice(op.Shape(ids), [1], [2])
        parts.append(op.Unsqueeze(op.Slice(node.x(3), [0], length, [0]), [0]))
    if segments is not None:
        parts.append(op.Gather(node.x(4), segments, axis=0))
    total = add_all(op, *parts)
    y = layer_normalization(op, total, node.x(5), node.x(6), _epsilon(node, 1e-12))
    index = None
    if len(node.outputs) > 1 and mask is not None and not node.attribute("mask_index_type", 0):
        index = op.Cast(op.ReduceSum(mask, [1], keepdims=0), to=ir.DataType.INT32.value)
    elif len(node.outputs) > 1 and mask is None:
        batch = op.Slice(op.Shape(ids), [0], [1])
        index = op.ConstantOfShape(batch, value=ir.tensor([0], ir.DataType.INT32))
    return [y, index, total]
