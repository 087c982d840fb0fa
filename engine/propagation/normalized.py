"""Backward rules of normalisations whose denominator counts as a constant.

What is left is linear: centring, the constant factor, the scale. Each rule stands with its bias rule, which is the
added parameter and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import cast_like, reshape_like, size_of
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, BiasRule, Contribution, GradientRule, Table, only
from onnxplain.engine.rules.windows import channelwise

NORMALIZED: Table[GradientRule] = Table("gradient with a constant denominator")
NORMALIZED_BIASES: Table[BiasRule] = Table("bias with a constant denominator")

NORMALIZATIONS = frozenset(
    {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"}
    | {"MeanVarianceNormalization", "LpNormalization", "LRN"}
)


def centred(op: Builder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Emit the value without its mean."""
    return op.Sub(value, op.ReduceMean(value, list(axes), keepdims=1))


def deviation(op: Builder, x: ir.Value, axes: Sequence[int], epsilon: float) -> ir.Value:
    """Emit √(var + ε) over the axes, which are kept."""
    rest = centred(op, x, axes)
    return op.Sqrt(op.Add(op.ReduceMean(op.Mul(rest, rest), list(axes), keepdims=1), epsilon))


def _epsilon(node: Primal) -> float:
    return float(node.attribute("epsilon", 1e-5))


@NORMALIZED.register("LayerNormalization")
def layer(op: Builder, node: Primal, dy: ir.Value, *_: ir.Value | None) -> Sequence[Contribution]:
    """dx = (g − mean g) / √(var + ε), g = dy · scale."""
    axes = range(node.axis(), node.rank())
    g = op.Mul(dy, node.x(1))
    return only(node, op.Div(centred(op, g, axes), deviation(op, node.x(), axes, _epsilon(node))))


@NORMALIZED.register("RMSNormalization", since=23)
def root_mean_square(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · scale / √(mean x² + ε)."""
    x, axes = node.x(), list(range(node.axis(), node.rank()))
    size = op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), _epsilon(node)))
    return only(node, op.Div(op.Mul(dy, node.x(1)), size))


class _Groups:
    """Channels in groups: tensors as ``[N, groups, rest]``, parameters ``[C]`` per channel against x."""

    def __init__(self, op: Builder, node: Primal) -> None:
        self.op, self.node = op, node
        self.groups = int(node.attribute("num_groups", 0))  # 0: each channel by itself

    def parameter(self, index: int) -> ir.Value:
        op, value = self.op, self.node.x(index)
        if self.groups and self.node.version(op.opset) < 21:  # one number per group
            repeats = op.Div(size_of(op, self.node.x(), 1), [self.groups])
            wide = op.Expand(op.Reshape(value, [-1, 1]), op.Concat([1], repeats, axis=0))
            value = op.Reshape(wide, [-1])
        return channelwise(op, value, self.node.rank() - 2)

    def fold(self, value: ir.Value) -> ir.Value:
        return self.op.Reshape(value, [0, self.groups, -1])


@NORMALIZED.register("InstanceNormalization", "GroupNormalization")
def grouped(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = (g − mean g) / √(var + ε) over each group, g = dy · scale."""
    at = _Groups(op, node)
    g = at.fold(op.Mul(dy, at.parameter(1)))
    found = op.Div(centred(op, g, [2]), deviation(op, at.fold(node.x()), [2], _epsilon(node)))
    return only(node, reshape_like(op, found, node.x()))


@NORMALIZED.register("MeanVarianceNormalization")
def mean_variance(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = (dy − mean dy) / (σ + ε)."""
    axes = sorted({int(a) % node.rank() for a in node.attribute("axes", (0, 2, 3))})
    return only(node, op.Div(centred(op, dy, axes), op.Add(deviation(op, node.x(), axes, 0.0), 1e-9)))


@NORMALIZED.register("LpNormalization")
def unit_norm(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / |x|; zero where the norm is."""
    x, axis = node.x(), int(node.attribute("axis", -1))
    norm = (op.ReduceL2 if int(node.attribute("p", 2)) == 2 else op.ReduceL1)(x, [axis], keepdims=1)
    zero = op.Equal(norm, 0.0)
    return only(node, op.Mul(dy, op.Where(zero, 0.0, op.Reciprocal(op.Where(zero, 1.0, norm)))))


@NORMALIZED.register("LRN")
def local_response(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · y/x; where x is 0, what it would be among neighbours that are 0 as well."""
    x = node.x()
    zero = op.Equal(x, 0.0)
    alone = float(node.attribute("bias", 1.0)) ** -float(node.attribute("beta", 0.75))
    gate = op.Div(node.y, op.Where(zero, 1.0, x))
    return only(node, op.Mul(dy, op.Where(zero, op.constant(alone, x.dtype), gate)))


@NORMALIZED_BIASES.register("LayerNormalization", "InstanceNormalization", "GroupNormalization")
def added(op: Builder, node: Primal) -> Sequence[Bias]:
    """The added parameter."""
    parameter = node.optional(2)
    if parameter is None:
        return []
    value = parameter if node.op_type == "LayerNormalization" else _Groups(op, node).parameter(2)
    return [Bias(cast_like(op, value, node.x()), "explicit", parameter.name or "")]


@NORMALIZED_BIASES.register("RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN")
def nothing(op: Builder, node: Primal) -> Sequence[Bias]:
    """Nothing is added."""
    return []
