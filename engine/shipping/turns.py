"""Whatever the graph has computed at the input, computed again at other points, inside the graph.

The body of an ONNX ``Loop`` holds a copy of the nodes that lead from what is replaced to what is wanted there: of the
forward pass, and of the walk and the map behind it where those are wanted. So any method's result can be had at other
points. Weights are read from the graph around, the target stays that of the clean input, and memory is that of one
turn. Few points lie side by side in the batch instead, where they are known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import total_per_sample, zeros_like
from onnxplain.engine.method import Plan
from onnxplain.engine.shipping.enlarged import again, between, joined, staging_of
from onnxplain.engine.subgraphs import control, formal, new_graph, returned

#: The most turns that are written out one by one of a file's own accord: each takes some nodes.
MOST_WRITTEN = 64

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
    ahead: bool = True,
) -> list[ir.Value]:
    """Emit the evaluation of points, in a loop or side by side in the batch as :mod:`.staging` has it.

    Args:
        plan: The graph.
        count: Number of turns; an int64 scalar where it is known only at run time.
        at: Emits the points of one turn, each in its subject's shape.
        wanted: Values of the graph that a turn needs at its points.
        step: Emits what a turn leaves.
        starts: The states before the first turn; they give the shapes.
        listed: For each list that the turns fill, a value of the shape of one entry.
        swap: Emits what else is replaced in a turn.
        ahead: Whether the points are known before the first turn, and no turn needs more memory than it shows.

    Returns:
        The states after the last turn, and the lists, ``[count, ...]``.
    """
    together = _together(plan, count, wanted, ahead and swap is None)
    if together is None or not isinstance(count, int):
        return _looped(plan, count, at, wanted, step, starts, listed, swap)
    op, states = plan.rewriter.op, list(starts)
    lists: list[list[ir.Value]] = [[] for _ in listed]
    for first in range(0, count, together):
        numbers = range(first, min(first + together, count))
        for turn in _side_by_side(plan, numbers, at, wanted, states, swap):
            turn.states = states
            left, entries = step(turn)
            states = list(left)
            for entry, found in zip(entries, lists, strict=True):
                found.append(op.Unsqueeze(entry, [0]))
    for state, start in zip(states, starts, strict=True):
        state.type, state.shape = start.type, start.shape
    return [*states, *(op.Concat(*entries, axis=0) for entries in lists)]


# ----- in a loop ------------------------------------------------------------------------------------------


def _looped(
    plan: Plan,
    count: int | ir.Value,
    at: At,
    wanted: Sequence[ir.Value],
    step: Step,
    starts: Sequence[ir.Value],
    listed: Sequence[ir.Value],
    swap: Swap | None,
) -> list[ir.Value]:
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


def _list_of(entry: ir.Value, count: int | ir.Value) -> ir.Value:
    """What describes a list of such entries."""
    sizes = [count if isinstance(count, int) else None, *(entry.shape or ())]
    return ir.Value(name=None, type=entry.type, shape=None if entry.shape is None else ir.Shape(sizes))


# ----- side by side ---------------------------------------------------------------------------------------


def _together(plan: Plan, count: int | ir.Value, wanted: Sequence[ir.Value], ahead: bool) -> int | None:
    """How many turns lie side by side in the batch; None for a loop."""
    staging = staging_of(plan)
    if not isinstance(count, int) or count < 1:
        return None
    if staging.points == "auto" and count > MOST_WRITTEN and staging.has_loops:
        return None
    nodes = between(plan.rewriter.graph, wanted)
    return staging.at_once(count, nodes, ahead and _grows(plan, wanted, nodes))


def _grows(plan: Plan, wanted: Sequence[ir.Value], nodes: Sequence[ir.Node]) -> bool:
    """Whether what is wanted is known to have the batch in front, and the batch to be open.

    What the caller gives beside the model's inputs and the target (a baseline) has a batch of its own, which nobody
    knows here.
    """
    first = [known[0] if (known := dims(s.value)) else None for s in plan.subjects]
    if not first or not isinstance(first[0], str) or len(set(first)) > 1:
        return False
    added = set(plan.rewriter.added_inputs) - {plan.seed.feed}
    if any(x.name in added for node in nodes for x in operands(node) if x.is_graph_input()):
        return False
    sizes = [dims(v) for v in wanted if v is not plan.seed.score]
    return all(known is not None and len(known) > 0 and known[0] == first[0] for known in sizes)


def _side_by_side(
    plan: Plan,
    numbers: Sequence[int],
    at: At,
    wanted: Sequence[ir.Value],
    states: Sequence[ir.Value],
    swap: Swap | None,
) -> Iterator[Turn]:
    """Several points of every sample as one batch: the first of all samples, the second of all, and so on."""
    op, count = plan.rewriter.op, len(numbers)
    written = [op.constant(number, ir.DataType.INT64) for number in numbers]
    places = [at(op, number, states) for number in written]
    if count == 1:
        twins = _twins(plan, op, places[0], wanted, swap(op, written[0]) if swap is not None else {})
        yield Turn(op, written[0], states, places[0], twins)
        return
    for points in places:
        _describe(plan, points)
    found = again(plan, {n: joined(op, [p[n] for p in places]) for n in places[0]}, op, wanted, count)
    parts = {v: op.emit("Split", [found[v]], outputs=count, axis=0, num_outputs=count) for v in wanted if v in found}
    for value, some in parts.items():
        for part in some:
            part.shape = value.shape
    for turn, (number, points) in enumerate(zip(written, places, strict=True)):
        yield Turn(op, number, states, points, {v: some[turn] for v, some in parts.items()})


# ----- what both need -------------------------------------------------------------------------------------


def at_points(plan: Plan, points: Points, wanted: Sequence[ir.Value]) -> list[ir.Value]:
    """Emit values of the graph once more, at other points, with the clean input's target; no loop."""
    twins = _twins(plan, plan.rewriter.op, points, wanted, {})
    return [twins.get(v, v) for v in wanted]


def _twins(
    plan: Plan, op: Builder, points: Points, wanted: Sequence[ir.Value], more: Mapping[ir.Value, ir.Value]
) -> dict[ir.Value, ir.Value]:
    _describe(plan, points)
    replaced = {s.value: points[s.name] for s in plan.subjects}
    if plan.seed.index is not None:
        replaced[plan.seed.index] = plan.seed.index
    return replay(op, between(plan.rewriter.graph, wanted), {**replaced, **more})


def _describe(plan: Plan, points: Points) -> None:
    """Points have their subjects' sizes."""
    for subject in plan.subjects:
        if points[subject.name] is not subject.value:
            points[subject.name].shape = subject.value.shape


def summed(
    plan: Plan,
    count: int | ir.Value,
    at: At,
    wanted: Sequence[ir.Value],
    add: Callable[[Turn], Sequence[ir.Value]],
    likes: Sequence[ir.Value],
    swap: Swap | None = None,
    ahead: bool = True,
) -> list[ir.Value]:
    """Emit the evaluation of points that adds something up, turn by turn.

    Args:
        plan, count, at, wanted, swap, ahead: As for :func:`over_turns`.
        add: Emits what a turn adds to each sum.
        likes: Values of the sums' shapes.
    """

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        return [turn.op.Add(s, part) for s, part in zip(turn.states, add(turn), strict=True)], []

    return over_turns(plan, count, at, wanted, step, [zeros(plan, like) for like in likes], swap=swap, ahead=ahead)


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
