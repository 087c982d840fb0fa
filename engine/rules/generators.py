"""Operators that make tensors from sizes or chance: Shape, ConstantOfShape, Range, Random* and their like.

Most read nothing of their operand but its shape. Range is linear in its start and its step; its limit only
decides the size of what is made, so its derivative is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import cast_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import ZERO, Bias, Contribution, bias, gradient, no_gradient

no_gradient("Shape", "Size", "ConstantOfShape", "NonZero", "EyeLike", reported=False)
no_gradient("SequenceLength", "OptionalHasElement", reported=False)
no_gradient("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", reported=False)
no_gradient(
    *("Bernoulli", "Multinomial"),
    reported=True,
    remedy="a random draw has no derivative; explain the probabilities in front of it",
)


def _steps(op: Builder, node: Primal) -> ir.Value:
    """0, 1, 2, ... for each element of a Range, in its type."""
    return cast_like(op, op.Range(0, op.Squeeze(op.Shape(node.y)), 1), node.y)


@gradient("Range")
def counted(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """y_i = start + i · delta: dstart = sum dy_i, ddelta = sum i · dy_i; the limit only sets the length."""

    def total(value: ir.Value) -> ir.Value:
        return op.ReduceSum(value, [0], keepdims=0)

    return [lambda: total(dy), ZERO, lambda: total(op.Mul(dy, _steps(op, node)))]


@bias("Range")
def counted_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """What comes from a fixed start or a fixed step."""
    if not node.active(0) and not node.active(2):
        return [Bias(node.y, "implicit")]
    parts = [] if node.active(0) else [node.x(0)]
    parts += [] if node.active(2) else [op.Mul(_steps(op, node), node.x(2))]
    return [Bias(part, "implicit") for part in parts]
