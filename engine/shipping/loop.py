"""Points in a loop inside the graph: the reverse pass at each, added up.

The body of an ONNX ``Loop`` holds a second copy of what lies between the attributed tensors and the
explained one, and the walk over it. Weights are read from the graph around, the target stays that of the
clean input, and memory is that of one point per sample whatever the number of points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.backward import Lookup, backward, gradients
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.method import Plan
from onnxplain.engine.subgraphs import control, formal, new_graph, returned


@dataclass
class Here:
    """One turn of the loop, inside its body.

    Attributes:
        plan: The graph around.
        op: Builder of the body.
        turn: Number of the turn, an int64 scalar.
        points: Where the model is evaluated, per subject.
        gradients: Of the score there, per subject.
        score: ``[N]``.
    """

    plan: Plan
    op: Builder
    turn: ir.Value
    points: dict[str, ir.Value]
    gradients: dict[str, ir.Value]
    score: ir.Value

    def score_at(self, points: Mapping[str, ir.Value]) -> ir.Value:
        """The score at further points, ``[N]``: one more forward pass."""
        return score_at(self.plan, points, self.op)

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
    plan: Plan, count: int, at: At, gather: Gather, starts: Sequence[ir.Value], lookup: Lookup = gradients
) -> list[ir.Value]:
    """Emit a loop over points, and give the sums.

    Args:
        plan: The graph; its seed is what is explained.
        count: Number of turns.
        at: Emits the points of one turn, each in its subject's shape.
        gather: Emits what a turn adds.
        starts: What the sums begin with; they give the shapes.
        lookup: The rules of the walk.

    Returns:
        One sum per start.
    """

    def add(here: Here, sums: Sequence[ir.Value]) -> list[ir.Value]:
        return [here.op.Add(total, part) for total, part in zip(sums, gather(here), strict=True)]

    return over_points(plan, count, at, add, starts, lookup)


def over_points(
    plan: Plan, count: int, at: At, update: Update, starts: Sequence[ir.Value], lookup: Lookup = gradients
) -> list[ir.Value]:
    """Emit a loop over points that carries states, and give what it leaves.

    Args:
        plan, count, at, lookup: As for :func:`sum_over_points`.
        update: Emits the states after a turn.
        starts: The states before the first.
    """
    op = plan.rewriter.op
    graph, inner = new_graph(op, "points")
    turn = formal(inner, graph, op.constant(0, ir.DataType.INT64), "turn")
    going = formal(inner, graph, op.constant(True, ir.DataType.BOOL), "going")
    states = [formal(inner, graph, s, "state") for s in starts]
    here = _evaluate(plan, inner, turn, at(inner, turn), lookup)
    returned(inner, graph, [going, *update(here, states)], [going, *starts])
    return control(op, "Loop", [op.constant(count, ir.DataType.INT64), None, *starts], starts, body=graph)


def _evaluate(plan: Plan, op: Builder, turn: ir.Value, points: dict[str, ir.Value], lookup: Lookup) -> Here:
    """The model and its reverse pass at the points."""
    seed = plan.seed
    twins = _again(plan, points, op, [seed.explained, seed.cotangent, seed.score])
    explained = twins.get(seed.explained, seed.explained)
    cotangent = twins.get(seed.cotangent, seed.cotangent)
    wanted = list(points.values())
    found = backward(op, list(op.graph), {explained: cotangent}, wanted, lookup).of
    adjoints = {n: found[p] if p in found else zeros_like(op, p) for n, p in points.items()}
    return Here(plan, op, turn, points, adjoints, twins.get(seed.score, seed.score))


def score_at(plan: Plan, points: Mapping[str, ir.Value], op: Builder | None = None) -> ir.Value:
    """Emit the score at other points, ``[N]``, with the target of the clean input.

    Args:
        plan: The graph.
        points: Per subject.
        op: Where to emit; the end of the graph by default.
    """
    score = plan.seed.score
    return _again(plan, points, op or plan.rewriter.op, [score]).get(score, score)


def _again(
    plan: Plan, points: Mapping[str, ir.Value], op: Builder, ends: Sequence[ir.Value]
) -> dict[ir.Value, ir.Value]:
    """Copies of what leads from the subjects to the ends; the class stays the one chosen on the clean input."""
    substitutes = {s.value: points[s.name] for s in plan.subjects}
    if plan.seed.index is not None:
        substitutes[plan.seed.index] = plan.seed.index
    return replay(op, between(plan.rewriter.graph, ends), substitutes)


def between(graph: ir.Graph, ends: Sequence[ir.Value]) -> list[ir.Node]:
    """The graph's nodes on which the ends depend, in order."""
    needed = set(ends)
    found = []
    for node in reversed(graph):
        if any(y in needed for y in node.outputs):
            needed.update(operands(node))
            found.append(node)
    return found[::-1]
