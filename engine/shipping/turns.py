"""Whatever the graph has computed at the input, computed again at other points, in a loop inside the graph.

The body of an ONNX ``Loop`` holds a copy of the nodes that lead from what is replaced to what is wanted there: of the
forward pass, and of the walk and the map behind it where those are wanted. So any method's result can be had at other
points. Weights are read from the graph around, the target stays that of the clean input, and memory is that of one
turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.layout import total_per_sample, zeros_like
from onnxplain.engine.method import Plan
from onnxplain.engine.shipping.enlarged import between
from onnxplain.engine.subgraphs import control, formal, new_graph, returned

#: Points per subject.
Points = Mapping[str, ir.Value]


@dataclass
class Turn:
    """One turn, inside the body.

    Attributes:
        op: Builder of the body.
        number: Of the turn, an int64 scalar.
        states: What the turns before have left.
        points: Where the model is evaluated, per subject.
        twins: What stands here in the place of a value of the graph around.
    """

    op: Builder
    number: ir.Value
    states: Sequence[ir.Value]
    points: Points
    twins: Mapping[ir.Value, ir.Value]

    def of(self, value: ir.Value) -> ir.Value:
        """A value of the graph around, as it is at this turn's points."""
        return self.twins.get(value, value)

    def pick(self, table: ir.Value) -> ir.Value:
        """This turn's row of a table whose first axis counts turns."""
        return self.op.Gather(table, self.number, axis=0)


#: The points of a turn, from the body's builder, its number and the states before it.
At = Callable[[Builder, ir.Value, Sequence[ir.Value]], Points]
#: What a turn leaves to the next one, and what it adds to the lists.
Step = Callable[[Turn], tuple[Sequence[ir.Value], Sequence[ir.Value]]]
#: Further values that a turn replaces, from the body's builder and its number.
Swap = Callable[[Builder, ir.Value], Mapping[ir.Value, ir.Value]]


def over_turns(
    plan: Plan,
    count: int | ir.Value,
    at: At,
    wanted: Sequence[ir.Value],
    step: Step,
    starts: Sequence[ir.Value] = (),
    listed: Sequence[ir.Value] = (),
    swap: Swap | None = None,
) -> list[ir.Value]:
    """Emit a loop over points.

    Args:
        plan: The graph.
        count: Number of turns; an int64 scalar where it is known only at run time.
        at: Emits the points of one turn, each in its subject's shape.
        wanted: Values of the graph that a turn needs at its points.
        step: Emits what a turn leaves.
        starts: The states before the first turn; they give the shapes.
        listed: For each list that the turns fill, a value of the shape of one entry.
        swap: Emits what else is replaced in a turn.

    Returns:
        The states after the last turn, and the lists, ``[count, ...]``.
    """
    op = plan.rewriter.op
    graph, inner = new_graph(op, "turns")
    number = formal(inner, graph, op.constant(0, ir.DataType.INT64), "turn")
    going = formal(inner, graph, op.constant(True, ir.DataType.BOOL), "going")
    states = [formal(inner, graph, s, "state") for s in starts]
    points = at(inner, number, states)
    twins = _twins(plan, inner, points, wanted, swap(inner, number) if swap is not None else {})
    left, entries = step(Turn(inner, number, states, points, twins))
    returned(inner, graph, [going, *left, *entries], [going, *starts, *listed])
    likes = [*starts, *(_list_of(like, count) for like in listed)]
    trips = op.constant(count, ir.DataType.INT64) if isinstance(count, int) else count
    # A loop has two operands at least: without states, the condition stands there in words.
    go = None if starts else op.constant(True, ir.DataType.BOOL)
    return control(op, "Loop", [trips, go, *starts], likes, body=graph)


def at_points(plan: Plan, points: Points, wanted: Sequence[ir.Value]) -> list[ir.Value]:
    """Emit values of the graph once more, at other points, with the clean input's target; no loop."""
    twins = _twins(plan, plan.rewriter.op, points, wanted, {})
    return [twins.get(v, v) for v in wanted]


def _twins(
    plan: Plan, op: Builder, points: Points, wanted: Sequence[ir.Value], more: Mapping[ir.Value, ir.Value]
) -> dict[ir.Value, ir.Value]:
    replaced = {s.value: points[s.name] for s in plan.subjects if s.name in points}
    for subject in plan.subjects:
        if subject.name in points:
            points[subject.name].shape = subject.value.shape
    if plan.seed.index is not None:
        replaced[plan.seed.index] = plan.seed.index
    return replay(op, between(plan.rewriter.graph, wanted), {**replaced, **more})


def _list_of(entry: ir.Value, count: int | ir.Value) -> ir.Value:
    """What describes a list of such entries."""
    sizes = [count if isinstance(count, int) else None, *(entry.shape or ())]
    return ir.Value(name=None, type=entry.type, shape=None if entry.shape is None else ir.Shape(sizes))


def summed(
    plan: Plan,
    count: int | ir.Value,
    at: At,
    wanted: Sequence[ir.Value],
    add: Callable[[Turn], Sequence[ir.Value]],
    likes: Sequence[ir.Value],
    swap: Swap | None = None,
) -> list[ir.Value]:
    """Emit a loop over points that adds something up, turn by turn.

    Args:
        plan, count, at, wanted, swap: As for :func:`over_turns`.
        add: Emits what a turn adds to each sum.
        likes: Values of the sums' shapes.
    """

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        return [turn.op.Add(s, part) for s, part in zip(turn.states, add(turn), strict=True)], []

    return over_turns(plan, count, at, wanted, step, [zeros(plan, like) for like in likes], swap=swap)


def zeros(plan: Plan, like: ir.Value) -> ir.Value:
    """Zeros in a value's shape: what a sum begins with."""
    made = zeros_like(plan.rewriter.op, like)
    made.shape = like.shape
    return made


def per_sample(plan: Plan) -> ir.Value:
    """A zero per sample, ``[N]``."""
    op = plan.rewriter.op
    made = op.Mul(plan.seed.score, 0.0)
    made.shape = ir.Shape([None])
    return made


def left_over(plan: Plan, change: ir.Value, parts: Sequence[ir.Value]) -> None:
    """Return as residual what the attributions leave over of a change of the score."""
    op = plan.rewriter.op
    plan.output("residual", op.Sub(change, total_per_sample(op, list(parts))), ("N",))
