"""Integrals along the straight line from a baseline, inside a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import total_per_sample, zeros_like
from onnxplain.engine.method import Plan, Subject, deliver
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.loop import At, Here, over_points, score_at, sum_over_points


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


def line(plan: Plan, start: Mapping[str, ir.Value], alphas: Any) -> tuple[dict[str, ir.Value], At]:
    """Ways ``x - x'`` per subject, and the points on them."""
    op = plan.rewriter.op
    at_alpha = op.constant(np.asarray(alphas), plan.subjects[0].value.dtype)
    ways = {s.name: op.Sub(s.value, start[s.name]) for s in plan.subjects}

    def at(inner: Builder, turn: ir.Value) -> dict[str, ir.Value]:
        alpha = inner.Gather(at_alpha, turn, axis=0)
        points = {}
        for subject in plan.subjects:
            point = inner.Add(start[subject.name], inner.Mul(alpha, ways[subject.name]))
            point.shape = subject.value.shape
            points[subject.name] = point
        return points

    return ways, at


def zeros(plan: Plan) -> list[ir.Value]:
    """Zeros in the shape of each subject: what sums begin with."""
    made = []
    for subject in plan.subjects:
        made.append(zeros_like(plan.rewriter.op, subject.value))
        made[-1].shape = subject.value.shape
    return made


def _integral(plan: Plan, start: dict[str, ir.Value], alphas: Any, weights: Any) -> dict[str, ir.Value]:
    op = plan.rewriter.op
    by_weight = op.constant(weights, plan.subjects[0].value.dtype)
    ways, at = line(plan, start, alphas)

    def gather(here: Here) -> list[ir.Value]:
        weight = here.pick(by_weight)
        return [here.op.Mul(here.gradients[s.name], weight) for s in plan.subjects]

    sums = sum_over_points(plan, len(alphas), at, gather, zeros(plan))
    return {s.name: op.Mul(ways[s.name], part) for s, part in zip(plan.subjects, sums, strict=True)}


def ship_shared_changes(plan: Plan, alphas: Any, baseline: Any, reduction: str) -> None:
    """Emit IDGI on the straight line: each step's change of the score, shared out by the squared gradient.

    A step that begins where the gradient is zero is shared out by the gradient at its end.

    Args:
        plan: The graph.
        alphas: Where the steps begin.
        baseline, reduction: As for :func:`ship_straight`.
    """
    op = plan.rewriter.op
    clean = shares(op, plan, plan.gradients())
    starts = shipped_baselines(plan, baseline)
    scores = [score_at(plan, start) for start in starts]
    found = [_shared(plan, start, score, clean, alphas) for start, score in zip(starts, scores, strict=True)]
    attributions = {s.name: mean(op, [f[s.name] for f in found]) for s in plan.subjects}
    change = op.Sub(plan.seed.score, mean(op, scores))
    plan.output("residual", op.Sub(change, total_per_sample(op, list(attributions.values()))), ("N",))
    deliver(plan, attributions, reduction)


def shares(op: Builder, plan: Plan, gradients: Mapping[str, ir.Value]) -> list[ir.Value]:
    """Each element's part of the squared gradient per subject; zero where the gradient is zero."""
    squares = [op.Mul(gradients[s.name], gradients[s.name]) for s in plan.subjects]
    norm = total_per_sample(op, squares)
    safe = op.Where(op.Greater(norm, 0.0), norm, 1.0)
    return [op.Div(q, _over(op, safe, s)) for q, s in zip(squares, plan.subjects, strict=True)]


def _over(op: Builder, per_sample: ir.Value, subject: Subject) -> ir.Value:
    """``[N]`` with one axis per axis of the subject."""
    return op.Reshape(per_sample, [-1] + [1] * (len(subject.labels) - 1))


def _shared(
    plan: Plan, start: dict[str, ir.Value], score: ir.Value, clean: list[ir.Value], alphas: Any
) -> dict[str, ir.Value]:
    op, count = plan.rewriter.op, len(plan.subjects)
    _, at = line(plan, start, alphas)

    def finish(where: Builder, totals: Any, before: Any, last: ir.Value, after: Any, now: ir.Value) -> list[ir.Value]:
        change = where.Sub(now, last)
        flat = where.Equal(total_per_sample(where, before), 0.0)
        results = []
        for total, old, new, subject in zip(totals, before, after, plan.subjects, strict=True):
            part = where.Where(_over(where, flat, subject), new, old)
            results.append(where.Add(total, where.Mul(part, _over(where, change, subject))))
        return results

    def update(here: Here, states: Any) -> list[ir.Value]:
        now = shares(here.op, plan, here.gradients)
        totals = finish(here.op, states[:count], states[count:-1], states[-1], now, here.score)
        return [*totals, *now, here.score]

    begin = [op.Add(v, 0.0) for v in clean]
    for value, subject in zip(begin, plan.subjects, strict=True):
        value.shape = subject.value.shape
    score.shape = score.shape or ir.Shape([None])
    left = over_points(plan, len(alphas), at, update, [*zeros(plan), *begin, score])
    totals = finish(op, left[:count], left[count:-1], left[-1], clean, plan.seed.score)
    return {s.name: t for s, t in zip(plan.subjects, totals, strict=True)}


def mean(op: Builder, values: list[ir.Value]) -> ir.Value:
    """The mean of several values of one shape; the value itself where there is one."""
    if len(values) == 1:
        return values[0]
    result = op.Mul(op.Sum(*values), 1.0 / len(values))
    result.shape = values[0].shape
    return result
