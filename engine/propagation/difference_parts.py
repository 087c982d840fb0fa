"""Operators that DeepLIFT takes apart into sums, products and functions of one number.

Each has its definition here. It is emitted for the input's pass, copied for the baseline's, and the walk
goes on inside with the rules of the parts, so that an operator gets what the same formula gets where a
model is exported as single steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxplain.engine.backward import backward
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import cast_like, reshape_like
from onnxplain.engine.propagation.difference import Differences, active_operands, by_position, moving_values
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution
from onnxplain.engine.rules.windows import channelwise

Definition = Callable[[Builder, Primal], ir.Value]


def taken_apart(
    at: Differences, op: Builder, node: Primal, dy: ir.Value, *, definition: Definition
) -> Sequence[Contribution]:
    """Multipliers through the operator's definition."""
    before = len(op.graph)
    result = definition(op, node)
    result.shape = node.y.shape
    emitted = list(op.graph)[before:]
    wanted = active_operands(node)
    for value, twin in replay(op, emitted, {x: at.twin(x) for x in wanted}).items():
        at.twins.setdefault(value, twin)
    at.moving |= moving_values(emitted, wanted)
    return by_position(node, backward(op, emitted, {result: dy}, wanted, at).of)


def _like(value: ir.Value, other: ir.Value) -> ir.Value:
    value.shape = other.shape
    return value


def _reduced(value: ir.Value, x: ir.Value, axes: Sequence[int]) -> ir.Value:
    """``value`` is x with the axes reduced to size 1."""
    known = dims(x)
    value.shape = None if known is None else ir.Shape([1 if i in axes else d for i, d in enumerate(known)])
    return value


# ----- activations and quotients ----------------------------------------------------------------------


def quotient(op: Builder, node: Primal) -> ir.Value:
    """a · (1 / b)."""
    b = node.x(1)
    return op.Mul(node.x(0), _like(op.Reciprocal(b), b))


def leaky_relu(op: Builder, node: Primal) -> ir.Value:
    """alpha x + (1 - alpha) relu(x)."""
    x, alpha = node.x(0), float(node.attribute("alpha", 0.01))
    return op.Add(_like(op.Mul(x, alpha), x), _like(op.Mul(_like(op.Relu(x), x), 1 - alpha), x))


def prelu(op: Builder, node: Primal) -> ir.Value:
    """relu(x) - slope · relu(-x)."""
    x = node.x(0)
    below = _like(op.Relu(_like(op.Neg(x), x)), x)
    return op.Sub(_like(op.Relu(x), x), _like(op.Mul(below, node.x(1)), x))


def hard_sigmoid(op: Builder, node: Primal) -> ir.Value:
    """clip(alpha x + beta, 0, 1)."""
    x = node.x(0)
    scaled = _like(op.Mul(x, float(node.attribute("alpha", 0.2))), x)
    return op.Clip(_like(op.Add(scaled, float(node.attribute("beta", 0.5))), x), 0.0, 1.0)


def clip(op: Builder, node: Primal) -> ir.Value:
    """min(max(x, low), high)."""
    value = node.x(0)
    for index, name in ((1, "Max"), (2, "Min")):
        bound = node.optional(index)
        if bound is not None:
            value = _like(op.emit(name, [value, bound])[0], node.x(0))
    return value


def quantised(op: Builder, node: Primal) -> ir.Value:
    """clip(x / scale + zero, lowest, highest): saturation is part of the function, rounding is left over."""
    x, dtype = node.x(0), node.y.dtype
    if node.attribute("block_size", 0) or dtype is None or not dtype.name.strip("U").startswith("INT"):
        raise node.unsupported("its scales lie in blocks, or it gives no integers", "use quantisation='float_shadow'")
    axis = int(node.attribute("axis", 1)) % max(1, node.rank())

    def spread(value: ir.Value) -> ir.Value:
        flat = dims(value) == ()
        return value if flat else op.Reshape(value, [-1 if i == axis else 1 for i in range(node.rank())])

    level = _like(op.Div(x, cast_like(op, spread(node.x(1)), x)), x)
    if node.optional(2) is not None:
        level = _like(op.Add(level, cast_like(op, spread(node.x(2)), x)), x)
    lowest = 0 if dtype.name.startswith("U") else -(2 ** (dtype.bitwidth - 1))
    return op.Clip(level, float(lowest), float(lowest + 2**dtype.bitwidth - 1))


# ----- norms ------------------------------------------------------------------------------------------


def _reduce(op: Builder, node: Primal, op_type: str, value: ir.Value) -> ir.Value:
    attributes: dict[str, Any] = {
        name: node.attribute(name) for name in ("keepdims", "noop_with_empty_axes") if node.attribute(name) is not None
    }
    return _like(op.emit(op_type, [value, node.optional(1)], **attributes)[0], node.y)


def sum_of_magnitudes(op: Builder, node: Primal) -> ir.Value:
    """Σ |x|."""
    return _reduce(op, node, "ReduceSum", _like(op.Abs(node.x()), node.x()))


def length(op: Builder, node: Primal) -> ir.Value:
    """√ Σ x²."""
    return op.Sqrt(_reduce(op, node, "ReduceSum", _like(op.Mul(node.x(), node.x()), node.x())))


def log_of_sum(op: Builder, node: Primal) -> ir.Value:
    """log Σ x."""
    return op.Log(_reduce(op, node, "ReduceSum", node.x()))


def _power_and_root(op: Builder, node: Primal) -> tuple[ir.Value, Callable[[ir.Value], ir.Value]]:
    """|x|^p, and what takes the p-th root of sums of it."""
    x, p = node.x(0), int(node.attribute("p", 2))
    if p == 2:
        return _like(op.Mul(x, x), x), op.Sqrt
    magnitude = _like(op.Abs(x), x)
    if p == 1:
        return magnitude, op.Identity
    powers = [op.constant(float(e), x.dtype) for e in (p, 1 / p)]
    return _like(op.Pow(magnitude, powers[0]), x), lambda total: op.Pow(total, powers[1])


def pooled_length(op: Builder, node: Primal) -> ir.Value:
    """The p-th root of the sum of |x|^p over each window."""
    value, root = _power_and_root(op, node)
    attributes = {name: node.attribute(name) for name in ("kernel_shape", "strides", "pads", "ceil_mode")}
    if attributes["ceil_mode"] or any(d != 1 for d in node.attribute("dilations") or ()):
        raise node.unsupported("ceil_mode or dilations", "explain a tensor behind it")
    mean = _like(op.AveragePool(value, count_include_pad=1, **attributes), node.y)
    return root(_like(op.Mul(mean, float(math.prod(node.attribute("kernel_shape")))), node.y))


def global_length(op: Builder, node: Primal) -> ir.Value:
    """The same over all places."""
    value, root = _power_and_root(op, node)
    return root(_like(op.ReduceSum(value, list(range(2, node.rank())), keepdims=1), node.y))


# ----- normalisations ---------------------------------------------------------------------------------


def _scaled(op: Builder, x: ir.Value, axes: Sequence[int], epsilon: float) -> ir.Value:
    """x / √(mean x² + ε) over the axes."""
    square = _like(op.Mul(x, x), x)
    mean = _reduced(op.ReduceMean(square, axes, keepdims=1), x, axes)
    root = _like(op.Sqrt(_like(op.Add(mean, epsilon), mean)), mean)
    return _like(op.Mul(x, _like(op.Reciprocal(root), mean)), x)


def _centred(op: Builder, x: ir.Value, axes: Sequence[int]) -> ir.Value:
    return _like(op.Sub(x, _reduced(op.ReduceMean(x, axes, keepdims=1), x, axes)), x)


def _epsilon(node: Primal) -> float:
    return float(node.attribute("epsilon", 1e-5))


def layer_normalization(op: Builder, node: Primal) -> ir.Value:
    """(x - mean) / √(var + ε) · scale + B over the last axes."""
    x, axes = node.x(0), list(range(node.axis(), node.rank()))
    value = _like(op.Mul(_scaled(op, _centred(op, x, axes), axes, _epsilon(node)), node.x(1)), x)
    return value if node.optional(2) is None else op.Add(value, node.x(2))


def rms_normalization(op: Builder, node: Primal) -> ir.Value:
    """x / √(mean x² + ε) · scale over the last axes."""
    return op.Mul(_scaled(op, node.x(0), list(range(node.axis(), node.rank())), _epsilon(node)), node.x(1))


def instance_normalization(op: Builder, node: Primal) -> ir.Value:
    """The same for each channel over its places."""
    x, rank = node.x(0), node.rank()
    axes = list(range(2, rank))
    scale, shift = (channelwise(op, node.x(i), rank - 2) for i in (1, 2))
    return op.Add(_like(op.Mul(_scaled(op, _centred(op, x, axes), axes, _epsilon(node)), scale), x), shift)


def group_normalization(op: Builder, node: Primal) -> ir.Value:
    """The same for each group of channels; scale and B per channel, or (before opset 21) per group."""
    x, groups = node.x(0), int(node.attribute("num_groups"))
    folded = op.Reshape(x, [0, groups, -1])
    known = node.dims()
    inner = 1
    for d in (known or (None,))[1:]:
        inner = inner * d if isinstance(d, int) else 0
    folded.shape = ir.Shape([known[0] if known else None, groups, inner // groups if inner else None])
    value = _scaled(op, _centred(op, folded, [2]), [2], _epsilon(node))
    if node.version(op.opset) < 21:
        scale, shift = (op.Reshape(node.x(i), [-1, 1]) for i in (1, 2))
        value = _like(op.Add(_like(op.Mul(value, scale), folded), shift), folded)
        return reshape_like(op, value, x)
    scale, shift = (channelwise(op, node.x(i), node.rank() - 2) for i in (1, 2))
    return op.Add(_like(op.Mul(_like(reshape_like(op, value, x), x), scale), x), shift)


def mean_variance_normalization(op: Builder, node: Primal) -> ir.Value:
    """(x - mean) / (σ + 1e-9) over the axes."""
    x = node.x(0)
    axes = sorted({int(a) % node.rank() for a in node.attribute("axes", (0, 2, 3))})
    centred = _centred(op, x, axes)
    mean = _reduced(op.ReduceMean(_like(op.Mul(centred, centred), x), axes, keepdims=1), x, axes)
    divisor = _like(op.Add(_like(op.Sqrt(mean), mean), 1e-9), mean)
    return op.Mul(centred, _like(op.Reciprocal(divisor), mean))


DEFINITIONS: dict[str, Definition] = {
    "LeakyRelu": leaky_relu,
    "HardSigmoid": hard_sigmoid,
    "QuantizeLinear": quantised,
    "ReduceL1": sum_of_magnitudes,
    "ReduceL2": length,
    "ReduceLogSum": log_of_sum,
    "LpPool": pooled_length,
    "GlobalLpPool": global_length,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
