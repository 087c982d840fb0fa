"""Normalisations: by stored statistics (BatchNormalization), by the sample's own, by neighbours, by a norm.

Those that centre and scale by the sample's own statistics share one gradient. With x̂ the normalised
value, r = 1/√(var + ε) and g the adjoint of x̂: ``dx = r · (g − mean(g) − x̂ · mean(g · x̂))``. x̂ and r are
taken from one LayerNormalization of x without scale, which every runtime has as one fast kernel.

Such an operator hardly depends on the size of its input, so nearly all of its result is node bias: the
added parameter (explicit), and ``scale · x̂ · (1 − ε r²)`` (implicit).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.broadcast import unbroadcast
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import cast_like, reshape_like, shape_of, size_of
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import ZERO, Bias, Contribution, bias, gradient
from onnxplain.engine.rules.windows import channelwise

# ----- what they share --------------------------------------------------------------------------------


def _standardised(op: Builder, x: ir.Value, axis: int, rank: int, epsilon: float) -> tuple[ir.Value, ir.Value]:
    """(x̂, r) over the axes from ``axis`` on; r keeps them with size 1."""
    if x.dtype == ir.DataType.DOUBLE or op.portable:
        # LayerNormalization keeps its statistics in float32; and not every runtime returns them.
        axes = list(range(axis, rank))
        centred = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
        variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
        r = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
        return op.Mul(centred, r), r
    known = dims(x)
    inner = known[axis:] if known is not None else (None,)
    static = all(isinstance(d, int) for d in inner)
    shape = op.constant(np.asarray(inner, np.int64)) if static else op.Shape(x, start=axis)
    ones = op.ConstantOfShape(shape, value=ir.tensor(np.ones(1, (x.dtype or ir.DataType.FLOAT).numpy()), dtype=x.dtype))
    normalised, _, r = op.emit("LayerNormalization", [x, ones], outputs=3, axis=axis, epsilon=epsilon)
    r.type = ir.TensorType(ir.DataType.FLOAT)
    return normalised, cast_like(op, r, x)


def _projected(op: Builder, g: ir.Value, normalised: ir.Value, r: ir.Value, axes: list[int]) -> ir.Value:
    """r · (g − mean(g) − x̂ · mean(g · x̂))."""
    along = op.ReduceMean(op.Mul(g, normalised), axes, keepdims=1)
    rest = op.Sub(op.Sub(g, op.Mul(normalised, along)), op.ReduceMean(g, axes, keepdims=1))
    return op.Mul(rest, r)


def _per_channel(op: Builder, value: ir.Value, rank: int) -> ir.Value:
    """``[C]`` as ``[C, 1, ...]``, so that it broadcasts over a tensor of that rank."""
    return channelwise(op, value, max(rank - 2, 0))


def _channel_term(op: Builder, node: Primal, value: ir.Value) -> ir.Value:
    """A bias ``[C]`` against the result, its sizes told: a bias known to be constant over space costs far less."""
    known = node.dims()
    count = known[1] if known is not None and isinstance(known[1], int) else None
    if value.shape is None:
        value.shape = ir.Shape([count])
    return _per_channel(op, value, node.rank())


def _channel_sum(op: Builder, value: ir.Value, rank: int) -> ir.Value:
    return op.ReduceSum(value, [a for a in range(rank) if a != 1], keepdims=0)


def _share(op: Builder, node: Primal, r: ir.Value, epsilon: float) -> ir.Value | None:
    """Factor k of scale · x̂ that is node bias: 1, less ε r² for an active x, less 1 for an active scale."""
    shrink = op.Mul(op.Mul(r, r), epsilon)
    if node.active(0):
        return op.Neg(shrink) if node.active(1) else op.Sub(1.0, shrink)
    return None if node.active(1) else op.constant(1, r.dtype)


# ----- BatchNormalization -----------------------------------------------------------------------------


def _batch_statistics(op: Builder, node: Primal) -> tuple[ir.Value, ir.Value]:
    """(r, scale · r) per channel, in the type of x; folded by the runtime when they are parameters."""
    if node.attribute("training_mode", 0):
        raise node.unsupported(
            "it runs in training mode, which mixes the samples of a batch", "export the model in inference (eval) mode"
        )
    r = op.Reciprocal(op.Sqrt(op.Add(node.x(4), float(node.attribute("epsilon", 1e-5)))))
    r = cast_like(op, r, node.x())
    return r, op.Mul(cast_like(op, node.x(1), node.x()), r)


@gradient("BatchNormalization")
def batch_normalization(op: Builder, node: Primal, dy: ir.Value, *_: ir.Value | None) -> Sequence[Contribution]:
    """dx = dy · s r; dscale = Σ dy x̂; dB = Σ dy; dmean = −s r Σ dy; dvar = −½ s r² Σ dy x̂ (Σ per channel)."""
    rank = node.rank()
    r, factor = _batch_statistics(op, node)

    @functools.cache
    def total() -> ir.Value:
        return _channel_sum(op, dy, rank)

    @functools.cache
    def along() -> ir.Value:
        centred = op.Sub(node.x(), _per_channel(op, cast_like(op, node.x(3), dy), rank))
        return op.Mul(_channel_sum(op, op.Mul(dy, centred), rank), r)

    return [
        lambda: op.Mul(dy, _per_channel(op, factor, rank)),
        lambda: cast_like(op, along(), node.x(1)),
        lambda: cast_like(op, total(), node.x(2)),
        lambda: cast_like(op, op.Neg(op.Mul(factor, total())), node.x(3)),
        lambda: cast_like(op, op.Mul(op.Mul(op.Mul(factor, r), along()), -0.5), node.x(4)),
    ]


@bias("BatchNormalization")
def batch_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """B − s r · mean per channel, where x alone (or B, or mean) is active; else what linearity leaves over."""
    rank = node.rank()
    r, factor = _batch_statistics(op, node)
    shift = op.Mul(factor, cast_like(op, node.x(3), node.x()))
    added = cast_like(op, node.x(2), node.x())
    name = node.x(2).name or ""
    if node.active(0) and not node.active(1) and not node.active(4):
        parts = [] if node.active(2) else [added]
        parts += [] if node.active(3) else [op.Neg(shift)]
        if not parts:
            return []
        value = parts[0] if len(parts) == 1 else op.Sub(added, shift)
        return [Bias(_channel_term(op, node, value), "explicit", name)]
    scaled = op.Sub(node.y, _per_channel(op, added, rank))
    shares: list[ir.Value] = []
    if node.active(0):
        shares.append(op.Mul(node.x(), _per_channel(op, factor, rank)))
    if node.active(1):
        shares.append(scaled)
    if node.active(3):
        shares.append(_per_channel(op, op.Neg(shift), rank))
    if node.active(4):
        ratio = op.Mul(op.Mul(op.Mul(r, r), cast_like(op, node.x(4), node.x())), -0.5)
        shares.append(op.Mul(scaled, _per_channel(op, ratio, rank)))
    rest = functools.reduce(op.Sub, shares, scaled)
    terms = [Bias(rest, "implicit")]
    if not node.active(2):
        terms.append(Bias(_channel_term(op, node, added), "explicit", name))
    return terms


# ----- LayerNormalization -----------------------------------------------------------------------------


@gradient("LayerNormalization")
def layer_normalization(op: Builder, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
    """dx = r (g − mean g − x̂ mean(g x̂)), g = dy · scale; dscale = Σ dy x̂; dB = Σ dy; + dmean/n − r² x̂ dr/n."""
    axis, rank = node.axis(), node.rank()
    axes = list(range(axis, rank))
    x, scale = node.x(0), node.x(1)
    seed, dmean, dr = (*dy, None, None)[:3]
    normalised, r = _standardised(op, x, axis, rank, float(node.attribute("epsilon", 1e-5)))

    def to_x() -> ir.Value:
        parts = []
        if seed is not None:
            parts.append(_projected(op, op.Mul(seed, scale), normalised, r, axes))
        if dr is not None:
            spread = op.Div(op.Mul(op.Mul(r, r), cast_like(op, dr, x)), _count(op, x, axis))
            parts.append(op.Neg(op.Mul(normalised, spread)))
        if dmean is not None:
            mean = op.Div(cast_like(op, dmean, x), _count(op, x, axis))
            parts.append(mean if parts else op.Expand(mean, shape_of(op, x)))
        return functools.reduce(op.Add, parts)

    # Mean and InvStdDev alone know nothing of scale and B.
    contributions: list[Contribution] = [to_x, *[ZERO] * (len(node.inputs) - 1)]
    if seed is not None:
        whole = seed
        contributions[1] = lambda: unbroadcast(op, op.Mul(whole, normalised), scale, node.y)
        if node.optional(2) is not None:
            contributions[2] = lambda: unbroadcast(op, whole, node.x(2), node.y)
    return contributions


def _count(op: Builder, x: ir.Value, axis: int) -> ir.Value:
    """The number of elements from ``axis`` on, as a scalar in the type of x."""
    known = dims(x)
    sizes = known[axis:] if known is not None else (None,)
    if all(isinstance(d, int) for d in sizes):
        return op.constant(float(np.prod([d for d in sizes if isinstance(d, int)])), x.dtype)
    return cast_like(op, op.ReduceProd(op.Shape(x, start=axis), keepdims=0), x)


@bias("LayerNormalization")
def layer_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """B; scale · x̂ times its share; r (2 − ε r²) for the output InvStdDev, nothing for Mean."""
    axis, rank, epsilon = node.axis(), node.rank(), float(node.attribute("epsilon", 1e-5))
    normalised, r = _standardised(op, node.x(), axis, rank, epsilon)
    terms = []
    added = node.optional(2)
    if added is not None and not node.active(2):
        terms.append(Bias(added, "explicit", added.name or ""))
    share = _share(op, node, r, epsilon)
    if share is not None:
        terms.append(Bias(op.Mul(op.Mul(normalised, share), node.x(1)), "implicit"))
    if not node.active(0):
        return terms + [Bias(y, "implicit", output=i) for i, y in enumerate(node.outputs) if i > 0 and y.name]
    if len(node.outputs) > 2:
        value = op.Mul(r, op.Sub(2.0, op.Mul(op.Mul(r, r), epsilon)))
        terms.append(Bias(value, "implicit", output=2))
    return terms


# ----- InstanceNormalization and GroupNormalization ---------------------------------------------------


class _Groups:
    """x as ``[N, groups, rest]``, and the scale where it belongs: per group, or per channel."""

    def __init__(self, op: Builder, node: Primal, *, per_group: bool) -> None:
        self.op, self.node = op, node
        self.rank = node.rank()
        self.groups = int(node.attribute("num_groups", 0))  # 0: each channel by itself
        self.per_group = per_group
        self.epsilon = float(node.attribute("epsilon", 1e-5))
        known = node.dims()
        x = self.fold(node.x())
        if known is not None and all(isinstance(d, int) for d in known[1:]):
            inner = int(np.prod([d for d in known[1:] if isinstance(d, int)]))
            groups = self.groups or int(known[1] or 1)
            x.shape = ir.Shape([known[0], groups, inner // groups])
        self.normalised, self.r = _standardised(op, x, 2, 3, self.epsilon)

    def fold(self, value: ir.Value) -> ir.Value:
        return self.op.Reshape(value, [0, self.groups, -1])

    def unfold(self, value: ir.Value) -> ir.Value:
        return reshape_like(self.op, value, self.node.x())

    def weighted(self, value: ir.Value) -> ir.Value:
        """A tensor of x's shape times the scale, folded."""
        if self.per_group:
            return self.op.Mul(self.fold(value), self.op.Reshape(self.node.x(1), [-1, 1]))
        return self.fold(self.op.Mul(value, _per_channel(self.op, self.node.x(1), self.rank)))

    def unfold_weighted(self, folded: ir.Value) -> ir.Value:
        """A folded tensor times the scale, in x's shape."""
        if self.per_group:
            return self.unfold(self.op.Mul(folded, self.op.Reshape(self.node.x(1), [-1, 1])))
        return self.op.Mul(self.unfold(folded), _per_channel(self.op, self.node.x(1), self.rank))

    def per_parameter(self, value: ir.Value) -> ir.Value:
        """Sum of a tensor of x's shape for each entry of the scale."""
        if self.per_group:
            return self.op.ReduceSum(self.fold(value), [0, 2], keepdims=0)
        return _channel_sum(self.op, value, self.rank)

    def added(self) -> ir.Value:
        """The added parameter, broadcastable to y."""
        op, value = self.op, self.node.x(2)
        if not self.per_group or not self.groups:
            return _channel_term(op, self.node, value)
        repeats = op.Div(size_of(op, self.node.x(), 1), [self.groups])
        wide = op.Expand(op.Reshape(value, [-1, 1]), op.Concat([1], repeats, axis=0))
        return _channel_term(op, self.node, op.Reshape(wide, [-1]))


def _grouped(op: Builder, node: Primal, dy: ir.Value, *, per_group: bool) -> Sequence[Contribution]:
    at = _Groups(op, node, per_group=per_group)

    def to_x() -> ir.Value:
        return at.unfold(_projected(op, at.weighted(dy), at.normalised, at.r, [2]))

    def to_scale() -> ir.Value:
        return at.per_parameter(op.Mul(dy, at.unfold(at.normalised)))

    return [to_x, to_scale, lambda: at.per_parameter(dy)]


def _grouped_bias(op: Builder, node: Primal, *, per_group: bool) -> Sequence[Bias]:
    at = _Groups(op, node, per_group=per_group)
    terms = [] if node.active(2) else [Bias(at.added(), "explicit", node.x(2).name or "")]
    share = _share(op, node, at.r, at.epsilon)
    if share is not None:
        terms.append(Bias(at.unfold_weighted(op.Mul(at.normalised, share)), "implicit"))
    return terms


@gradient("InstanceNormalization")
def instance_normalization(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = r (g − mean g − x̂ mean(g x̂)) over each channel, g = dy · scale."""
    return _grouped(op, node, dy, per_group=True)


@bias("InstanceNormalization")
def instance_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return _grouped_bias(op, node, per_group=True)


@gradient("GroupNormalization", since=18)
def group_normalization_18(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = r (g − mean g − x̂ mean(g x̂)) over each group, g = dy · scale of the group."""
    return _grouped(op, node, dy, per_group=True)


@bias("GroupNormalization", since=18)
def group_normalization_18_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return _grouped_bias(op, node, per_group=True)


@gradient("GroupNormalization", since=21)
def group_normalization(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = r (g − mean g − x̂ mean(g x̂)) over each group, g = dy · scale of the channel."""
    return _grouped(op, node, dy, per_group=False)


@bias("GroupNormalization", since=21)
def group_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return _grouped_bias(op, node, per_group=False)


# ----- MeanVarianceNormalization, RMSNormalization ----------------------------------------------------


def _deviation(op: Builder, node: Primal) -> tuple[list[int], ir.Value, ir.Value]:
    """(axes, σ, σ + ε) of MeanVarianceNormalization, which adds its ε to the deviation itself."""
    rank = node.rank()
    axes = sorted({int(a) % rank for a in node.attribute("axes", (0, 2, 3))})
    centred = op.Sub(node.x(), op.ReduceMean(node.x(), axes, keepdims=1))
    deviation = op.Sqrt(op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1))
    return axes, deviation, op.Add(deviation, 1e-9)


@gradient("MeanVarianceNormalization")
def mean_variance_normalization(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = (dy − mean dy)/(σ + ε) − y · mean(dy · y)/σ; zero where σ is."""
    axes, deviation, divisor = _deviation(op, node)
    along = op.ReduceMean(op.Mul(dy, node.y), axes, keepdims=1)
    safe = op.Where(op.Equal(deviation, 0.0), op.constant(1, dy.dtype), deviation)
    centred = op.Div(op.Sub(dy, op.ReduceMean(dy, axes, keepdims=1)), divisor)
    return [op.Sub(centred, op.Mul(node.y, op.Div(along, safe)))]


@bias("MeanVarianceNormalization")
def mean_variance_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y · σ/(σ + ε)."""
    _, deviation, divisor = _deviation(op, node)
    return [Bias(op.Mul(node.y, op.Div(deviation, divisor)), "implicit")]


def _root_mean_square(op: Builder, node: Primal) -> tuple[list[int], ir.Value, float]:
    """(axes, r, ε) with r = 1/√(mean x² + ε)."""
    x, epsilon = node.x(), float(node.attribute("epsilon", 1e-5))
    axes = list(range(node.axis(), node.rank()))
    return axes, op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), epsilon))), epsilon


@gradient("RMSNormalization", since=23)
def rms_normalization(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = r (g − x̂ mean(g x̂)), g = dy · scale, x̂ = r x; dscale = Σ dy x̂."""
    axes, r, _ = _root_mean_square(op, node)
    normalised = op.Mul(node.x(), r)

    def to_x() -> ir.Value:
        g = op.Mul(dy, node.x(1))
        along = op.ReduceMean(op.Mul(g, normalised), axes, keepdims=1)
        return op.Mul(op.Sub(g, op.Mul(normalised, along)), r)

    return [to_x, lambda: unbroadcast(op, op.Mul(dy, normalised), node.x(1), node.y)]


@bias("RMSNormalization", since=23)
def rms_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y (1 − ε r²): all of y but what ε leaves to the size of x."""
    _, r, epsilon = _root_mean_square(op, node)
    share = _share(op, node, r, epsilon)
    return [] if share is None else [Bias(op.Mul(node.y, share), "implicit")]


# ----- LRN and LpNormalization ------------------------------------------------------------------------


def _window(op: Builder, node: Primal) -> ir.Value:
    """``[C, C]``: α/size where channel j lies in the window of channel i, else 0."""
    size, alpha = int(node.attribute("size")), float(node.attribute("alpha", 1e-4))
    below, above = (size - 1) // 2, size // 2
    steps = op.Range(0, op.Reshape(size_of(op, node.x(), 1), []), 1)
    distance = op.Sub(steps, op.Unsqueeze(steps, [1]))
    near = op.And(op.GreaterOrEqual(distance, -below), op.LessOrEqual(distance, above))
    return op.Mul(op.Cast(near, to=(node.x().dtype or ir.DataType.FLOAT).value), alpha / size)


@gradient("LRN")
def lrn(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """y = x s^−β, s = k + W x²: dx = dy s^−β − 2 β x · Wᵀ(dy y / s)."""
    beta = float(node.attribute("beta", 0.75))
    window = _window(op, node)
    x, y, seed = (op.Reshape(v, [0, 0, -1]) for v in (node.x(), node.y, dy))
    s = _power_sum(op, node, x, window)
    spread = op.MatMul(op.Mul(op.Transpose(window, perm=[1, 0]), 2 * beta), op.Div(op.Mul(seed, y), s))
    return [reshape_like(op, op.Sub(op.Mul(seed, op.Pow(s, -beta)), op.Mul(x, spread)), node.x())]


def _power_sum(op: Builder, node: Primal, x: ir.Value, window: ir.Value) -> ir.Value:
    return op.Add(op.MatMul(window, op.Mul(x, x)), float(node.attribute("bias", 1.0)))


@bias("LRN")
def lrn_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y · 2 β (s − k)/s."""
    beta, k = float(node.attribute("beta", 0.75)), float(node.attribute("bias", 1.0))
    s = _power_sum(op, node, op.Reshape(node.x(), [0, 0, -1]), _window(op, node))
    share = op.Mul(op.Sub(1.0, op.Div(k, s)), 2 * beta)
    return [Bias(op.Mul(node.y, reshape_like(op, share, node.x())), "implicit")]


@gradient("LpNormalization")
def lp_normalization(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """y = x/n: dx = (dy − y · Σ dy y)/n for p = 2, (dy − sign(x) · Σ dy y)/n for p = 1; zero where n is."""
    axis, p = int(node.attribute("axis", -1)), int(node.attribute("p", 2))
    if p not in (1, 2):
        raise node.unsupported(f"its norm p={p} is not 1 or 2", "check the model with onnx.checker")
    x, y = node.x(), node.y
    norm = op.ReduceL2(x, [axis], keepdims=1) if p == 2 else op.ReduceL1(x, [axis], keepdims=1)
    zero = op.Equal(norm, 0.0)
    inverse = op.Where(zero, op.constant(0, x.dtype), op.Reciprocal(norm))
    along = op.ReduceSum(op.Mul(dy, y), [axis], keepdims=1)
    return [op.Mul(op.Sub(dy, op.Mul(y if p == 2 else op.Sign(x), along)), inverse)]


@bias("LpNormalization")
def lp_normalization_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """All of y: it does not depend on the size of x."""
    return [Bias(node.y, "implicit")]
