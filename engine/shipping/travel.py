"""What is gathered along a way from a baseline to the input, inside a graph: gradient times move, or shares of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import total_per_sample
from onnxplain.engine.method import Plan, Subject, deliver
from onnxplain.engine.shipping.routes import Route
from onnxplain.engine.shipping.turns import Points, Turn, gradients_of, left_over, over_turns, score_at, zeros

#: Attributions along one way; the score at its beginning is given.
Gather = Callable[[Plan, Route, ir.Value], dict[str, ir.Value]]


def ship_along(plan: Plan, routes: Sequence[Route], gather: Gather, reduction: str, complete: bool = True) -> None:
    """Emit attributions, averaged over several ways, and what their sum leaves of the change of the score.

    Args:
        plan: The graph, which has the gradients at the input.
        routes: The ways.
        gather: :func:`integral` or :func:`shared_changes`.
        reduction: Of channels, for the map.
        complete: Whether the attributions sum to the change, so that there is a residual.
    """
    op = plan.rewriter.op
    scores = [score_at(plan, route.start) for route in routes]
    found = [gather(plan, route, score) for route, score in zip(routes, scores, strict=True)]
    attributions = {s.name: mean(op, [f[s.name] for f in found]) for s in plan.subjects}
    if complete:
        left_over(plan, op.Sub(plan.seed.score, mean(op, scores)), list(attributions.values()))
    deliver(plan, attributions, reduction)


def mean(op: Builder, values: Sequence[ir.Value]) -> ir.Value:
    """The mean of values of one shape; the value itself where there is one."""
    if len(values) == 1:
        return values[0]
    result = op.Mul(op.Sum(*values), 1.0 / len(values))
    result.shape = values[0].shape
    return result


def integral(plan: Plan, route: Route, score: ir.Value) -> dict[str, ir.Value]:
    """Sum of gradient times move."""
    clean, count = gradients_of(plan), len(plan.subjects)

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        gradients = {s.name: turn.of(clean[s.name]) for s in plan.subjects}
        moves, after = route.moves(turn.op, turn.number, turn.states[count:], gradients)
        products = [turn.op.Mul(gradients[s.name], moves[s.name]) for s in plan.subjects]
        return [*(turn.op.Add(t, p) for t, p in zip(turn.states, products, strict=False)), *after], []

    starts = [*(zeros(plan, s.value) for s in plan.subjects), *route.states]

    def at(op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return route.points(op, turn, states[count:])

    sums = over_turns(plan, route.count, at, list(clean.values()), step, starts, ahead=not route.states)
    found = {s.name: total for s, total in zip(plan.subjects, sums, strict=False)}
    return {n: plan.rewriter.op.Mul(route.ways[n], total) if route.ways else total for n, total in found.items()}


def shared_changes(plan: Plan, route: Route, score: ir.Value) -> dict[str, ir.Value]:
    """IDGI: each step's change of the score, shared out by the squared gradient at its beginning.

    A step that begins where the gradient is zero is shared out by the gradient at its end.
    """
    op, clean, count = plan.rewriter.op, gradients_of(plan), len(plan.subjects)

    def finish(where: Builder, states: Sequence[ir.Value], after: Sequence[ir.Value], now: ir.Value) -> list[ir.Value]:
        totals, before, last = states[:count], states[count : 2 * count], states[2 * count]
        change = where.Sub(now, last)
        flat = where.Equal(total_per_sample(where, before), 0.0)
        results = []
        for total, old, new, subject in zip(totals, before, after, plan.subjects, strict=True):
            part = where.Where(_over(where, flat, subject), new, old)
            results.append(where.Add(total, where.Mul(part, _over(where, change, subject))))
        return results

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        gradients = {s.name: turn.of(clean[s.name]) for s in plan.subjects}
        now, here = _shares(turn.op, plan, gradients), turn.of(plan.seed.score)
        _, after = route.moves(turn.op, turn.number, turn.states[2 * count + 1 :], gradients)
        return [*finish(turn.op, turn.states, now, here), *now, here, *after], []

    begin = _shares(op, plan, clean)
    score.shape = ir.Shape([None])
    starts = [*(zeros(plan, s.value) for s in plan.subjects), *begin, score, *route.states]

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return route.points(inner, turn, states[2 * count + 1 :])

    wanted = [*clean.values(), plan.seed.score]
    left = over_turns(plan, route.count, at, wanted, step, starts, ahead=not route.states)
    totals = finish(op, left, begin, plan.seed.score)
    return {s.name: total for s, total in zip(plan.subjects, totals, strict=True)}


def _shares(op: Builder, plan: Plan, gradients: Mapping[str, ir.Value]) -> list[ir.Value]:
    """Each element's part of the squared gradient per subject; zero where the gradient is zero."""
    squares = [op.Mul(gradients[s.name], gradients[s.name]) for s in plan.subjects]
    norm = total_per_sample(op, squares)
    safe = op.Where(op.Greater(norm, 0.0), norm, 1.0)
    found = [op.Div(q, _over(op, safe, s)) for q, s in zip(squares, plan.subjects, strict=True)]
    for value, subject in zip(found, plan.subjects, strict=True):
        value.shape = subject.value.shape
    return found


def _over(op: Builder, values: ir.Value, subject: Subject) -> ir.Value:
    """``[N]`` with one axis per axis of the subject."""
    return op.Reshape(values, [-1] + [1] * (len(subject.labels) - 1))
