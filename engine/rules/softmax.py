"""Softmax and LogSoftmax, over one axis.

Attention masks put -inf into a Softmax. The result and its adjoint are finite there (0 times something
finite), so the gradient needs no guard; the node bias, which multiplies by x itself, has one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, no_gradient


def _sum(op: Builder, node: Primal, value: ir.Value) -> ir.Value:
    """Sum over the node's axis, which is kept."""
    return op.ReduceSum(value, [int(node.attribute("axis", -1))], keepdims=1)


def _finite_result(op: Builder, node: Primal) -> ir.Value:
    """The result, with 0 for NaN where the model replaces those (rows that are masked entirely)."""
    readers = [use.node for use in node.y.uses()]
    readers += [use.node for n in readers if n.op_type in ("Cast", "CastLike") for use in n.outputs[0].uses()]
    if not any(n.op_type in ("Where", "IsNaN") for n in readers):
        return node.y
    return op.Where(op.IsNaN(node.y), 0.0, node.y)


@gradient("Softmax")
def softmax(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = y · (dy - sum(y · dy))."""
    y = _finite_result(op, node)
    return [op.Mul(y, op.Sub(dy, _sum(op, node, op.Mul(y, dy))))]


@bias("Softmax")
def softmax_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y · (1 - x + sum(y · x)); elements of x that are infinite (masks) have y = 0 and count as 0."""
    x, y = forms.finite(op, node.x()), _finite_result(op, node)
    return [Bias(op.Mul(y, op.Add(op.Sub(1.0, x), _sum(op, node, op.Mul(y, x)))), "implicit")]


@gradient("LogSoftmax")
def log_softmax(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy - exp(y) · sum(dy)."""
    return [op.Sub(dy, op.Mul(op.Exp(node.y), _sum(op, node, dy)))]


@bias("LogSoftmax")
def log_softmax_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y - x + sum(p · x) with p = exp(y), which is sum(p · y), minus the entropy, for every element.

    Elements of -inf (masks) have p = 0 and count as 0.
    """
    y = node.y
    return [Bias(_sum(op, node, op.Mul(op.Exp(y), forms.finite(op, y))), "implicit")]


no_gradient(
    "Hardmax",
    reported=True,
    remedy="it gives 1 to the largest element, which changes in steps; explain what enters it, or use Softmax instead",
)
