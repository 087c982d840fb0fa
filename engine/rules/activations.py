"""Relu, Gelu, Sigmoid and their like: the activation functions of networks.

Slopes are read from the result wherever it tells them: it is what the forward pass keeps anyway, and the
runtime goes on fusing the activation into the Conv before it. No form overflows or cancels at large |x|.
At a kink the slope is that of the left side for Relu, LeakyRelu, PRelu, Elu, Selu and Celu (torch's choice),
and that of the flat or outer side for HardSigmoid, HardSwish, ThresholdedRelu and Shrink.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, elementwise, gradient, homogeneous

# ----- gates ------------------------------------------------------------------------------------------


@gradient("Relu")
def relu(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy where y > 0, else 0."""
    return [op.Mul(dy, forms.step(op, node.y))]


@gradient("LeakyRelu")
def leaky_relu(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy where x > 0, else alpha · dy."""
    alpha = float(node.attribute("alpha", 0.01))
    gate = forms.step(op, node.y if alpha >= 0 else node.x())
    if 0 <= alpha <= 1:
        return [op.Mul(dy, op.Clip(gate, alpha))]
    return [op.Mul(dy, op.Add(op.Mul(gate, 1 - alpha), alpha))]


@gradient("PRelu", broadcasts=True)
def prelu(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy where x > 0, else slope · dy; dslope = dy · min(x, 0)."""
    x, slope = node.x(0), node.x(1)

    def to_x() -> ir.Value:
        known = node.constant(1)
        if known is not None and ((known >= 0) & (known <= 1)).all():
            return op.Mul(dy, op.Max(forms.step(op, node.y), slope))
        return op.Mul(dy, op.Add(op.Mul(forms.step(op, x), op.Sub(1.0, slope)), slope))

    return [to_x, lambda: op.Mul(dy, _negative_part(op, x))]


@bias("PRelu")
def prelu_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """Degree 2 below 0 when both are active; x above 0 when only the slope is."""
    if not node.active(1):
        return []
    above = op.Relu(node.x(0))
    return [Bias(op.Sub(above, node.y) if node.active(0) else above, "implicit")]


@gradient("ThresholdedRelu")
def thresholded_relu(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy where x > alpha, else 0."""
    alpha = float(node.attribute("alpha", 1.0))
    if alpha >= 0:
        return [op.Mul(dy, forms.step(op, node.y))]
    return [op.Mul(dy, forms.indicator(op, op.Greater(node.x(), alpha), dy))]


homogeneous(1, "Relu", "LeakyRelu", "ThresholdedRelu")


@elementwise("Shrink")
def shrink(op: Builder, node: Primal) -> ir.Value:
    """1 where |x| > lambd, else 0."""
    return forms.indicator(op, op.Greater(op.Abs(node.x()), float(node.attribute("lambd", 0.5))), node.x())


# ----- exponential tails ------------------------------------------------------------------------------


def _negative_part(op: Builder, x: ir.Value) -> ir.Value:
    return op.Clip(x, None, 0.0)


def _tail(op: Builder, node: Primal) -> tuple[ir.Value, ir.Value, float, float, float]:
    """What Elu, Selu and Celu have in common: ``s x`` above 0, ``t = D (exp(x / w) - 1)`` below.

    Returns t (0 above 0), the gate x > 0, s, D and w; the slope below 0 is ``(t + D) / w``.
    """
    alpha = float(node.attribute("alpha", 1.0))
    gain = float(node.attribute("gamma", 1.0)) if node.op_type == "Selu" else 1.0
    depth, width = alpha * gain, alpha if node.op_type == "Celu" else 1.0
    if gain > 0 and depth >= 0:  # the sign of y tells that of x
        return _negative_part(op, node.y), forms.step(op, node.y), gain, depth, width
    below = _negative_part(op, node.x())
    grown = op.Exp(below if width == 1 else op.Div(below, width))
    return op.Mul(op.Sub(grown, 1.0), depth), forms.step(op, node.x()), gain, depth, width


def _tail_slope(op: Builder, tail: ir.Value, depth: float, width: float) -> ir.Value:
    return op.Add(tail, depth) if width == 1 else op.Add(op.Div(tail, width), depth / width)


@gradient("Elu", "Selu", "Celu")
def exponential_linear(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · s where x > 0, else dy · (y + D) / w."""
    tail, gate, gain, depth, width = _tail(op, node)
    slope = _tail_slope(op, tail, depth, width)
    jump = gain - depth / width
    return [op.Mul(dy, slope if jump == 0 else op.Add(slope, op.Mul(gate, jump)))]


@bias("Elu", "Selu", "Celu")
def exponential_linear_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """t - x t' below 0, nothing above."""
    tail, _, _, depth, width = _tail(op, node)
    product = op.Mul(_negative_part(op, node.x()), _tail_slope(op, tail, depth, width))
    return [Bias(op.Sub(tail, product), "implicit")]


# ----- sigmoids ---------------------------------------------------------------------------------------


@elementwise("Sigmoid")
def sigmoid(op: Builder, node: Primal) -> ir.Value:
    """y (1 - y)."""
    return op.Mul(node.y, op.Sub(1.0, node.y))


@elementwise("Tanh")
def tanh(op: Builder, node: Primal) -> ir.Value:
    """1 - y²."""
    return op.Sub(1.0, op.Mul(node.y, node.y))


@elementwise("HardSigmoid")
def hard_sigmoid(op: Builder, node: Primal) -> ir.Value:
    """alpha where 0 < y < 1, else 0."""
    return op.Mul(forms.between(op, node.y, 0.0, 1.0), float(node.attribute("alpha", 0.2)))


@gradient("Softplus")
def softplus(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · sigmoid(x)."""
    return [op.Mul(dy, op.Sigmoid(node.x()))]


@bias("Softplus")
def softplus_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """softplus(a) - a sigmoid(a) at a = -|x|: the function is even, and on this side nothing cancels."""
    a = op.Neg(op.Abs(node.x()))
    return [Bias(op.Sub(op.Softplus(a), op.Mul(a, op.Sigmoid(a))), "implicit")]


@gradient("Softsign")
def softsign(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / (1 + |x|)²."""
    share = op.Reciprocal(op.Add(op.Abs(node.x()), 1.0))
    return [op.Mul(op.Mul(dy, share), share)]


@bias("Softsign")
def softsign_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y |y|."""
    return [Bias(op.Mul(node.y, op.Abs(node.y)), "implicit")]


# ----- gated units ------------------------------------------------------------------------------------
#
# y = x g(x) has the slope g + x g' and the bias -x² g'. Each unit gives g and x g'. The bias multiplies
# x g' by x last: g' is 0 where x² would overflow.

#: |x| beyond which the tanh of Gelu is ±1 in every float type, so that its slope is 0.
_GELU_REACH = 16.0


def _gate(op: Builder, node: Primal) -> tuple[ir.Value, ir.Value]:
    """g(x) and x g'(x)."""
    x = node.x()
    if node.op_type == "HardSwish":
        g = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
        return g, op.Mul(forms.between(op, g, 0.0, 1.0), op.Sub(g, 0.5))
    if node.op_type == "Mish":
        g = op.Tanh(op.Softplus(x))
        return g, op.Mul(x, op.Mul(op.Sub(1.0, op.Mul(g, g)), op.Sigmoid(x)))
    if node.op_type == "Swish":
        alpha = float(node.attribute("alpha", 1.0))
        scaled = x if alpha == 1 else op.Mul(x, alpha)
        g = op.Sigmoid(scaled)
        return g, op.Mul(scaled, op.Mul(g, op.Sub(1.0, g)))
    return _gelu_gate(op, node)


def _gelu_gate(op: Builder, node: Primal) -> tuple[ir.Value, ir.Value]:
    x, approximate = node.x(), node.attribute("approximate", "none")
    if approximate == "none":
        g = op.Mul(op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
        density = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return g, op.Mul(x, density)
    if approximate != "tanh":
        raise node.unsupported(f"its attribute approximate is '{approximate}'", "use 'none' or 'tanh'")
    near = op.Clip(x, -_GELU_REACH, _GELU_REACH)
    square, scale, cubic = op.Mul(near, near), math.sqrt(2 / math.pi), 0.044715
    t = op.Tanh(op.Mul(near, op.Add(op.Mul(square, scale * cubic), scale)))
    inner = op.Mul(near, op.Add(op.Mul(square, 1.5 * scale * cubic), 0.5 * scale))
    return op.Mul(op.Add(t, 1.0), 0.5), op.Mul(op.Sub(1.0, op.Mul(t, t)), inner)


@gradient("Gelu", "HardSwish", "Mish", "Swish")
def gated(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · (g + x g'): g is Phi, hard sigmoid, tanh(softplus) or sigmoid."""
    g, rise = _gate(op, node)
    return [op.Mul(dy, op.Add(g, rise))]


@bias("Gelu", "HardSwish", "Mish", "Swish")
def gated_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """-x² g'."""
    _, rise = _gate(op, node)
    return [Bias(op.Neg(op.Mul(node.x(), rise)), "implicit")]
