"""Integrals along the straight line from a baseline, inside a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.layout import total_per_sample, zeros_like
from onnxplain.engine.method import Plan, deliver
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.loop import Here, between, sum_over_points


def ship_straight(plan: Plan, alphas: Any, weights: Any, baseline: Any, reduction: str) -> None:
    """Emit ``(x - x') sum_k w_k grad f(x' + alpha_k (x - x'))``, averaged over baselines, and the residual.

    Args:
        plan: The graph.
        alphas, weights: The quadrature.
        baseline: See :func:`onnxplain.engine.shipping.baselines.shipped_baselines`.
        reduction: Of channels, for the map.
    """
    op = plan.rewriter.op
    starts = shipped_baselines(plan, baseline)
    found = [_integral(plan, start, np.asarray(alphas), np.asarray(weights)) for start in starts]
    scores = [score_at(plan, start) for start in starts]
    attributions = {s.name: mean(op, [f[s.name] for f in found]) for s in plan.subjects}
    plan.output(
        "residual",
        op.Sub(op.Sub(plan.seed.score, mean(op, scores)), total_per_sample(op, list(attributions.values()))),
        ("N",),
    )
    deliver(plan, attributions, reduction)


def _integral(plan: Plan, start: dict[str, ir.Value], alphas: Any, weights: Any) -> dict[str, ir.Value]:
    op = plan.rewriter.op
    kind = plan.subjects[0].value.dtype
    at_alpha, by_weight = op.constant(alphas, kind), op.constant(weights, kind)
    ways = {s.name: op.Sub(s.value, start[s.name]) for s in plan.subjects}

    def at(inner: Builder, turn: ir.Value) -> dict[str, ir.Value]:
        alpha = inner.Gather(at_alpha, turn, axis=0)
        points = {}
        for subject in plan.subjects:
            point = inner.Add(start[subject.name], inner.Mul(alpha, ways[subject.name]))
            point.shape = subject.value.shape
            points[subject.name] = point
        return points

    def gather(here: Here) -> list[ir.Value]:
        weight = here.pick(by_weight)
        return [here.op.Mul(here.gradients[s.name], weight) for s in plan.subjects]

    zeros = [zeros_like(op, s.value) for s in plan.subjects]
    for zero, subject in zip(zeros, plan.subjects, strict=True):
        zero.shape = subject.value.shape
    sums = sum_over_points(plan, len(alphas), at, gather, zeros)
    return {s.name: op.Mul(ways[s.name], part) for s, part in zip(plan.subjects, sums, strict=True)}


def score_at(plan: Plan, points: dict[str, ir.Value]) -> ir.Value:
    """The score at other points, ``[N]``, with the target of the clean input."""
    seed = plan.seed
    substitutes = {s.value: points[s.name] for s in plan.subjects}
    if seed.index is not None:
        substitutes[seed.index] = seed.index
    return replay(plan.rewriter.op, between(plan.rewriter.graph, [seed.score]), substitutes).get(seed.score, seed.score)


def mean(op: Builder, values: list[ir.Value]) -> ir.Value:
    """The mean of several values of one shape; the value itself where there is one."""
    if len(values) == 1:
        return values[0]
    result = op.Mul(op.Sum(*values), 1.0 / len(values))
    result.shape = values[0].shape
    return result
