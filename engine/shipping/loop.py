"""Points inside the graph: the reverse pass at each, added up, side by side in the batch or in a loop.

Either holds a second copy of what lies between the attributed tensors and the explained one, and the walk over it.
Weights are those of the graph, the target stays that of the clean input. A method says what the points are and what
it makes of each; :mod:`onnxplain.engine.shipping.staging` says which of the two it becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.backward import Lookup, backward, gradients
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.method import Plan
from onnxplain.engine.shipping.enlarged import again, between, joined, staging_of, takes_any_batch
from onnxplain.engine.subgraphs import control, formal, new_graph, returned

__all__ = ["At", "Gather", "Here", "Update", "between", "over_points", "score_at", "sum_over_points"]


@dataclass
class Here:
    """One point of every sample.

    Attributes:
        plan: The graph around.
        op: Builder of the loop's body, or of the graph.
        turn: Number of the point, an int64 scalar.
        points: Where the model is evaluated, per subject.
        gradients: Of the score there, per subject.
        score: ``[N]``.
        others: Scores at the further points that were asked for, ``[N]`` each.
    """

    plan: Plan
    op: Builder
    turn: ir.Value
    points: dict[str, ir.Value]
    gradients: dict[str, ir.Value]
    score: ir.Value
    others: tuple[ir.Value, ...] = ()

    def pick(self, table: ir.Value) -> ir.Value:
        """This turn's row of a table whose first axis counts turns."""
        return self.op.Gather(table, self.turn, axis=0)


#: The points of a turn, from the body's builder and the turn's number.
At = Callable[[Builder, ir.Value], dict[str, ir.Value]]
#: What a turn adds to each sum.
Gather = Callable[[Here], Sequence[ir.Value]]


#: From a turn and what the turns before have left to what it leaves itself.
Update = Callable[[Here, Sequence[ir.Value]], Sequence[ir.Value]]


def sum_over_points(
    plan: Plan,
    count: int,
    at: At,
    gather: Gather,
    starts: Sequence[ir.Value],
    lookup: Lookup = gradients,
    others: Sequence[At] = (),
) -> list[ir.Value]:
    """Emit the evaluation of points, and give the sums.

    Args:
        plan: The graph; its seed is what is explained.
        count: Number of turns.
        at: Emits the points of one turn, each in its subject's shape.
        gather: Emits what a turn adds.
        starts: What the sums begin with; they give the shapes.
        lookup: The rules of the walk.
        others: Emit further points of a turn, at which the score alone is wanted.

    Returns:
        One sum per start.
    """

    def add(here: Here, sums: Sequence[ir.Value]) -> list[ir.Value]:
        return [here.op.Add(total, part) for total, part in zip(sums, gather(here), strict=True)]

    return over_points(plan, count, at, add, starts, lookup, others)


def over_points(
    plan: Plan,
    count: int,
    at: At,
    update: Update,
    starts: Sequence[ir.Value],
    lookup: Lookup = gradients,
    others: Sequence[At] = (),
) -> list[ir.Value]:
    """Emit the evaluation of points that carries states from one to the next, and give what it leaves.

    Args:
        plan, count, at, lookup, others: As for :func:`sum_over_points`.
        update: Emits the states after a turn.
        starts: The states before the first.
    """
    nodes = between(plan.rewriter.graph, [plan.seed.score])
    together = staging_of(plan).at_once(count, nodes, takes_any_batch(plan))
    if together is None:
        return _looped(plan, count, at, update, starts, lookup, others)
    states = list(starts)
    for first in range(0, count, together):
        turns = range(first, min(first + together, count))
        for here in _side_by_side(plan, turns, at, lookup, others):
            states = list(update(here, states))
    for state, start in zip(states, starts, strict=True):
        state.type, state.shape = start.type, start.shape
    return states


# ----- in a loop -----------------------------------------------------------------------------------


def _looped(
    plan: Plan, count: int, at: At, update: Update, starts: Sequence[ir.Value], lookup: Lookup, others: Sequence[At]
) -> list[ir.Value]:
    op = plan.rewriter.op
    graph, inner = new_graph(op, "points")
    turn = formal(inner, graph, op.constant(0, ir.DataType.INT64), "turn")
    going = formal(inner, graph, op.constant(True, ir.DataType.BOOL), "going")
    states = [formal(inner, graph, s, "state") for s in starts]
    here = _evaluate(plan, inner, turn, at(inner, turn), lookup)
    here.others = tuple(score_at(plan, other(inner, turn), inner) for other in others)
    returned(inner, graph, [going, *update(here, states)], [going, *starts])
    return control(op, "Loop", [op.constant(count, ir.DataType.INT64), None, *starts], starts, body=graph)


# ----- side by side ---------------------------------------------------------------------------------


def _side_by_side(plan: Plan, turns: Sequence[int], at: At, lookup: Lookup, others: Sequence[At]) -> Iterator[Here]:
    """Several points of every sample as one batch: the first of all samples, the second of all, and so on."""
    op, count = plan.rewriter.op, len(turns)
    numbers = [op.constant(turn, ir.DataType.INT64) for turn in turns]
    places = [at(op, number) for number in numbers]
    whole = _evaluate(plan, op, numbers[0], _joined(op, places), lookup, count)
    further = [_joined(op, [other(op, number) for number in numbers]) for other in others]
    scores = [_parts(op, value, count) for value in (whole.score, *(score_at(plan, p, op, count) for p in further))]
    found = {name: _parts(op, value, count) for name, value in whole.gradients.items()}
    for turn, (number, points) in enumerate(zip(numbers, places, strict=True)):
        gradients = {name: parts[turn] for name, parts in found.items()}
        for name, value in gradients.items():
            value.shape = points[name].shape
        score, *rest = (parts[turn] for parts in scores)
        yield Here(plan, op, number, points, gradients, score, tuple(rest))


def _joined(op: Builder, places: Sequence[Mapping[str, ir.Value]]) -> dict[str, ir.Value]:
    """Points behind each other along the batch, per subject."""
    return {name: joined(op, [place[name] for place in places]) for name in places[0]}


def _parts(op: Builder, value: ir.Value, count: int) -> list[ir.Value]:
    return [value] if count == 1 else op.emit("Split", [value], outputs=count, axis=0, num_outputs=count)


# ----- what both need --------------------------------------------------------------------------------


def _evaluate(
    plan: Plan, op: Builder, turn: ir.Value, points: dict[str, ir.Value], lookup: Lookup, times: int = 1
) -> Here:
    """The model and its reverse pass at the points."""
    seed, start = plan.seed, len(op.graph)
    twins = again(plan, points, op, [seed.explained, seed.cotangent, seed.score], times)
    explained = twins.get(seed.explained, seed.explained)
    cotangent = twins.get(seed.cotangent, seed.cotangent)
    wanted = list(points.values())
    found = backward(op, list(op.graph)[start:], {explained: cotangent}, wanted, lookup).of
    adjoints = {n: found[p] if p in found else zeros_like(op, p) for n, p in points.items()}
    return Here(plan, op, turn, points, adjoints, twins.get(seed.score, seed.score))


def score_at(plan: Plan, points: Mapping[str, ir.Value], op: Builder | None = None, times: int = 1) -> ir.Value:
    """Emit the score at other points, ``[N]``, with the target of the clean input.

    Args:
        plan: The graph.
        points: Per subject.
        op: Where to emit; the end of the graph by default.
        times: How many points of each sample lie behind each other: see :func:`again`.
    """
    score = plan.seed.score
    return again(plan, points, op or plan.rewriter.op, [score], times).get(score, score)
