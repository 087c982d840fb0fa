"""Attention rollout: how much each token's content is passed on, over all blocks, by attention alone."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.attention import Attentions
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Parts, Plan, Run, choose, method
from onnxplain.engine.methods.attention_family import AttentionMethod

HEADS = ("mean", "max", "min")


@method("attention_rollout")
class AttentionRollout(AttentionMethod):
    """Product over blocks of ``(A + I) / 2``, rows summing to one, at the row that the answer reads.

    Half of each block is taken to be its skip connection. No class is looked at: the map is the same for all.

    Args:
        heads: How the heads of a block become one matrix: ``mean``, ``max`` or ``min``.
        align_corners: How the grid of tokens is upsampled.
    """

    summary: ClassVar[str] = "attention multiplied up over all blocks; the same for all classes"
    source: ClassVar[str] = "Abnar and Zuidema 2020, arXiv 2005.00928, section 3"

    heads: str = "mean"
    align_corners: bool = True

    def __post_init__(self) -> None:
        choose("heads", self.heads, HEADS)

    def matrices(self, plan: Plan, found: Attentions) -> list[ir.Value]:
        op = plan.rewriter.op
        fuse = {"mean": op.ReduceMean, "max": op.ReduceMax, "min": op.ReduceMin}[self.heads]
        return [fuse(found.by_head(op, i, v), [1], keepdims=0) for i, v in enumerate(found.values)]

    def step(self, op: Builder, matrix: ir.Value, product: ir.Value | None, identity: ir.Value) -> ir.Value:
        mixed = op.Add(matrix, identity)
        mixed = op.Div(mixed, op.ReduceSum(mixed, [2], keepdims=1))
        return mixed if product is None else op.MatMul(mixed, product)

    def reduce(self, run: Run) -> Parts:
        parts = super().reduce(run)
        parts.notes.append("the map does not depend on the target: it shows what is passed on, for whatever answer")
        return parts
