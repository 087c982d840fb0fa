"""Exp, Log, Sin and their like: functions of one tensor, elementwise; and the rounding ones, which are flat.

Derivatives are written through the result where that saves a pass or cannot overflow. Biases
c = y - x h'(x) have closed forms where the difference would cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, elementwise, gradient, homogeneous, no_gradient

# ----- powers and logarithms --------------------------------------------------------------------------

#: exp of this is 0 in every float type, and 0 times it is 0, which 0 times -inf is not.
LOWEST_EXPONENT = -1e4


@gradient("Exp")
def exp(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · y."""
    return [op.Mul(dy, node.y)]


@bias("Exp")
def exp_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y (1 - x), and 0 at x = -inf: the place is masked."""
    return [Bias(op.Mul(node.y, op.Sub(1.0, op.Clip(node.x(), LOWEST_EXPONENT))), "implicit")]


@gradient("Log")
def log(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / x."""
    return [op.Div(dy, node.x())]


@bias("Log")
def log_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return [Bias(op.Sub(node.y, 1.0), "implicit")]


@gradient("Sqrt")
def sqrt(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy / (2 y); infinite at 0, as the slope is."""
    return [op.Div(op.Mul(dy, 0.5), node.y)]


@bias("Sqrt")
def sqrt_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """Degree 1/2: y / 2."""
    return [Bias(op.Mul(node.y, 0.5), "implicit")]


@gradient("Reciprocal")
def reciprocal(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = -dy · y²."""
    return [op.Neg(op.Mul(op.Mul(dy, node.y), node.y))]


homogeneous(-1, "Reciprocal")


@gradient("Abs")
def absolute(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · sign(x), 0 at 0."""
    return [op.Mul(dy, op.Sign(node.x()))]


homogeneous(1, "Abs")


@elementwise("Erf")
def erf(op: Builder, node: Primal) -> ir.Value:
    """2/√π · exp(-x²)."""
    x = node.x()
    return op.Mul(op.Exp(op.Neg(op.Mul(x, x))), 2 / math.sqrt(math.pi))


# ----- trigonometry -----------------------------------------------------------------------------------


@elementwise("Sin")
def sin(op: Builder, node: Primal) -> ir.Value:
    """cos(x)."""
    return op.Cos(node.x())


@elementwise("Cos")
def cos(op: Builder, node: Primal) -> ir.Value:
    """-sin(x)."""
    return op.Neg(op.Sin(node.x()))


@elementwise("Tan")
def tan(op: Builder, node: Primal) -> ir.Value:
    """1 + y²."""
    return op.Add(op.Mul(node.y, node.y), 1.0)


def _one_minus_square(op: Builder, x: ir.Value) -> ir.Value:
    """(1 - x)(1 + x), which keeps its digits near ±1."""
    return op.Mul(op.Sub(1.0, x), op.Add(x, 1.0))


@elementwise("Asin")
def asin(op: Builder, node: Primal) -> ir.Value:
    """1 / √(1 - x²)."""
    return op.Reciprocal(op.Sqrt(_one_minus_square(op, node.x())))


@elementwise("Acos")
def acos(op: Builder, node: Primal) -> ir.Value:
    """-1 / √(1 - x²)."""
    return op.Div(-1.0, op.Sqrt(_one_minus_square(op, node.x())))


@elementwise("Atan")
def atan(op: Builder, node: Primal) -> ir.Value:
    """1 / (1 + x²)."""
    x = node.x()
    return op.Reciprocal(op.Add(op.Mul(x, x), 1.0))


# ----- hyperbolic functions ---------------------------------------------------------------------------


@elementwise("Sinh")
def sinh(op: Builder, node: Primal) -> ir.Value:
    """cosh(x)."""
    return op.Cosh(node.x())


@elementwise("Cosh")
def cosh(op: Builder, node: Primal) -> ir.Value:
    """sinh(x)."""
    return op.Sinh(node.x())


@elementwise("Asinh")
def asinh(op: Builder, node: Primal) -> ir.Value:
    """1 / √(x² + 1)."""
    x = node.x()
    return op.Reciprocal(op.Sqrt(op.Add(op.Mul(x, x), 1.0)))


@elementwise("Acosh")
def acosh(op: Builder, node: Primal) -> ir.Value:
    """1 / (√(x - 1) √(x + 1))."""
    x = node.x()
    return op.Reciprocal(op.Mul(op.Sqrt(op.Sub(x, 1.0)), op.Sqrt(op.Add(x, 1.0))))


@elementwise("Atanh")
def atanh(op: Builder, node: Primal) -> ir.Value:
    """1 / (1 - x²)."""
    return op.Reciprocal(_one_minus_square(op, node.x()))


# ----- steps ------------------------------------------------------------------------------------------

no_gradient(
    *("Round", "Floor", "Ceil"),
    reported=True,
    remedy="rounding has derivative 0; export the model without it, or explain a tensor in front of it",
)
no_gradient(
    "Sign",
    reported=True,
    remedy="a sign has derivative 0; export the model without it, or explain a tensor in front of it",
)
