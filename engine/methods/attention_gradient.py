"""Gradient-weighted attention: attention that speaks for the target, added up over all blocks."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.attention import Attentions
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Plan, method
from onnxplain.engine.methods.attention_family import AttentionMethod


@method("attention_gradient")
class AttentionGradient(AttentionMethod):
    """``R <- R + mean_heads(relu(grad A * A)) R`` over the blocks, from ``R = I``, at the row that the answer reads.

    Args:
        align_corners: How the grid of tokens is upsampled.
    """

    summary: ClassVar[str] = "attention times its positive gradient, added up over all blocks"
    source: ClassVar[str] = "Chefer et al. 2021, arXiv 2103.15679, section 3.1"

    align_corners: bool = True

    def matrices(self, plan: Plan, found: Attentions) -> list[ir.Value]:
        op = plan.rewriter.op
        plan.adjoints = plan.rewriter.backward(plan.seed, list(found.values))
        matrices = []
        for i, value in enumerate(found.values):
            product = op.Relu(op.Mul(plan.adjoints.of[value], value))
            product.shape = value.shape
            matrices.append(op.ReduceMean(found.by_head(op, i, product), [1], keepdims=0))
        return matrices

    def step(self, op: Builder, matrix: ir.Value, product: ir.Value | None, identity: ir.Value) -> ir.Value:
        if product is None:
            return op.Add(identity, matrix)
        return op.Add(product, op.MatMul(matrix, product))
