"""Gelu in its four spellings, biased forms, and TensorFlow's complementary error function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import add_all, splits
from onnxplain.engine.rules.node import Primal


def exact_gelu(op: Builder, x: ir.Value) -> ir.Value:
    """x Phi(x), by the error function."""
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Mul(x, 1 / math.sqrt(2.0))), 1.0))


def tanh_gelu(op: Builder, x: ir.Value) -> ir.Value:
    """The approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    cube = op.Mul(op.Mul(x, x), x)
    inner = op.Mul(op.Add(x, op.Mul(cube, 0.044715)), math.sqrt(2 / math.pi))
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(inner), 1.0))


@splits("Gelu")
def gelu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [exact_gelu(op, node.x())]


@splits("BiasGelu")
def bias_gelu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [exact_gelu(op, op.Add(node.x(), node.x(1)))]


@splits("FastGelu")
def fast_gelu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [tanh_gelu(op, add_all(op, node.x(), node.optional(1)))]


@splits("GemmFastGelu")
def gemm_fast_gelu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [tanh_gelu(op, add_all(op, op.MatMul(node.x(), node.x(1)), node.optional(2)))]


@splits("QuickGelu")
def quick_gelu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    x = node.x()
    return [op.Mul(x, op.Sigmoid(op.Mul(x, float(node.attribute("alpha", 1.702)))))]


@splits("BiasSplitGelu")
def bias_split_gelu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """The first half of the last axis times Gelu of the second one."""
    left, right = op.emit("Split", [op.Add(node.x(), node.x(1))], outputs=2, axis=-1, num_outputs=2)
    return [op.Mul(left, exact_gelu(op, right))]


@splits("BiasAdd")
def bias_add(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [add_all(op, node.x(), node.x(1), node.x(2))]


@splits("BiasDropout")
def bias_dropout(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Outside of training: x + bias (+ residual)."""
    mode = node.constant(4)
    if node.optional(4) is not None and (mode is None or mode.any()):
        raise node.unsupported("its training_mode is not constantly false", "export the model in inference (eval) mode")
    return [add_all(op, node.x(), node.x(1), node.optional(2))]


@splits("Erfc", domain="")
def erfc(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """tf2onnx writes this operator, which the standard does not have: 1 - Erf(x)."""
    return [op.Sub(1.0, op.Erf(node.x()))]
