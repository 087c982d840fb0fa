"""Whatever the graph has computed at the input, computed again at other points, inside the graph.

Points that are known beforehand lie side by side in the batch, or else one at a time in the body of an ONNX ``Loop``;
:mod:`onnxplain.engine.shipping.staging` says which. Either holds a copy of the nodes that lead from what is replaced to
what is wanted there: of the forward pass, and of the walk and the map behind it where those are wanted. So any method's
result can be had at other points. Where scores and plain gradients are all that is wanted, the walk goes over the copied
forward pass instead of being copied: its sizes then fit a batch that the model was exported without.

Weights are those of the graph, the target stays that of the clean input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.backward import backward
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import total_per_sample, zeros_like
from onnxplain.engine.method import Plan
from onnxplain.engine.shipping.enlarged import again, between, joined, staging_of, takes_any_batch
from onnxplain.engine.subgraphs import control, formal, new_graph, returned

#: The most turns that are written out one by one of a file's own accord: each takes some nodes. Those that take
#: gradients may be more: in a loop some would go the other way at a kink (see :mod:`.staging`).
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
        beside: Scores at the further points that were asked for, ``[N]`` each.
    """

    op: Builder
    number: ir.Value
    states: Sequence[ir.Value]
    points: Points
    twins: Mapping[ir.Value, ir.Value]
    beside: Sequence[ir.Value] = ()

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
    beside: Sequence[At] = (),
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
        beside: Emit further points of a turn, at which the score alone is wanted.

    Returns:
        The states after the last turn, and the lists, ``[count, ...]``.
    """
    copies = _Copies(plan, wanted, swap, [at, *beside])
    together = _together(copies, count, ahead)
    if together is None or not isinstance(count, int):
        return _looped(copies, count, step, starts, listed)
    op, states = plan.rewriter.op, list(starts)
    lists: list[list[ir.Value]] = [[] for _ in listed]
    for first in range(0, count, together):
        numbers = range(first, min(first + together, count))
        for turn in _side_by_side(copies, numbers, states):
            turn.states = states
            left, entries = step(turn)
            states = list(left)
            for entry, found in zip(entries, lists, strict=True):
                found.append(op.Unsqueeze(entry, [0]))
    for state, start in zip(states, starts, strict=True):
        state.type, state.shape = start.type, start.shape
    return [*states, *(op.Concat(*entries, axis=0) for entries in lists)]


# ----- what is copied -------------------------------------------------------------------------------------


class _Copies:
    """What is wanted of the graph, and how it is had at other points.

    Attributes:
        plan, wanted, swap: As for :func:`over_turns`.
        places: Emit the points of a turn; those of the first are where all is wanted, at the others the score is.
        slopes: Subject per wanted gradient, where gradients and the score are all that is wanted; else None.
        nodes: What is evaluated at a point, of the graph around.
    """

    def __init__(self, plan: Plan, wanted: Sequence[ir.Value], swap: Swap | None, places: Sequence[At]) -> None:
        self.plan, self.wanted, self.swap, self.places = plan, wanted, swap, places
        slopes = plan.slopes or {}
        plain = swap is None and all(v in slopes or v is plan.seed.score for v in wanted)
        self.slopes = {v: slopes[v] for v in wanted if v in slopes} if plain else None
        self.nodes = between(plan.rewriter.graph, wanted if self.slopes is None else [plan.seed.score])

    def points(self, op: Builder, number: ir.Value, states: Sequence[ir.Value]) -> list[Points]:
        """Emit the points of a turn, in their subjects' sizes."""
        return [_described(self.plan, at(op, number, states)) for at in self.places]

    def of(self, op: Builder, points: Points, number: ir.Value, times: int = 1) -> dict[ir.Value, ir.Value]:
        """Emit copies at points; ``times`` of them for each sample, behind each other."""
        plan, seed = self.plan, self.plan.seed
        if not self.slopes:
            more = {} if self.swap is None else self.swap(op, number)
            return again(plan, points, op, self.wanted, times, more=more)
        start = len(op.graph)
        twins = again(plan, points, op, [seed.explained, seed.cotangent, seed.score], times)
        explained, cotangent = (twins.get(v, v) for v in (seed.explained, seed.cotangent))
        places = {v: points[s.name] for v, s in self.slopes.items()}
        found = backward(op, list(op.graph)[start:], {explained: cotangent}, list(points.values())).of
        slopes = {v: found[p] if p in found else zeros_like(op, p) for v, p in places.items()}
        return {**slopes, seed.score: twins.get(seed.score, seed.score)}

    def scores(self, op: Builder, places: Sequence[Points], times: int = 1) -> list[ir.Value]:
        """Emit the scores at further points, as :meth:`of` does."""
        score = self.plan.seed.score
        return [again(self.plan, points, op, [score], times).get(score, score) for points in places]


# ----- in a loop ------------------------------------------------------------------------------------------


def _looped(
    copies: _Copies,
    count: int | ir.Value,
    step: Step,
    starts: Sequence[ir.Value],
    listed: Sequence[ir.Value],
) -> list[ir.Value]:
    op = copies.plan.rewriter.op
    graph, inner = new_graph(op, "turns")
    number = formal(inner, graph, op.constant(0, ir.DataType.INT64), "turn")
    going = formal(inner, graph, op.constant(True, ir.DataType.BOOL), "going")
    states = [formal(inner, graph, s, "state") for s in starts]
    points, *further = copies.points(inner, number, states)
    twins = copies.of(inner, points, number)
    left, entries = step(Turn(inner, number, states, points, twins, copies.scores(inner, further)))
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


def _together(copies: _Copies, count: int | ir.Value, ahead: bool) -> int | None:
    """How many turns lie side by side in the batch; None for a loop."""
    plan = copies.plan
    staging = staging_of(plan)
    if not isinstance(count, int) or count < 1:
        return None
    if staging.points == "auto" and count > MOST_WRITTEN and staging.has_loops and not copies.slopes:
        return None
    plain = copies.slopes is not None
    free = ahead and copies.swap is None and (takes_any_batch(plan) if plain else _grows(copies))
    return staging.at_once(count, copies.nodes, free)


def _grows(copies: _Copies) -> bool:
    """Whether what is wanted is known to have the batch in front, and the batch to be open.

    What the caller gives beside the model's inputs and the target (a baseline) has a batch of its own, which nobody
    knows here.
    """
    plan = copies.plan
    first = [known[0] if (known := dims(s.value)) else None for s in plan.subjects]
    if not first or not isinstance(first[0], str) or len(set(first)) > 1:
        return False
    added = set(plan.rewriter.added_inputs) - {plan.seed.feed}
    if any(x.name in added for node in copies.nodes for x in operands(node) if x.is_graph_input()):
        return False
    sizes = [dims(v) for v in copies.wanted if v is not plan.seed.score]
    return all(known is not None and len(known) > 0 and known[0] == first[0] for known in sizes)


def _side_by_side(copies: _Copies, numbers: Sequence[int], states: Sequence[ir.Value]) -> Iterator[Turn]:
    """Several points of every sample as one batch: the first of all samples, the second of all, and so on."""
    op, count = copies.plan.rewriter.op, len(numbers)
    written = [op.constant(number, ir.DataType.INT64) for number in numbers]
    places = [copies.points(op, number, states) for number in written]
    whole, *further = (_joined(op, some) for some in zip(*places, strict=True))
    found = copies.of(op, whole, written[0], count)
    parts = {v: _parts(op, found[v], v, count) for v in copies.wanted if found.get(v, v) is not v}
    beside = [_parts(op, score, copies.plan.seed.score, count) for score in copies.scores(op, further, count)]
    for turn, (number, (points, *_)) in enumerate(zip(written, places, strict=True)):
        twins = {v: some[turn] for v, some in parts.items()}
        yield Turn(op, number, states, points, twins, [some[turn] for some in beside])


def _joined(op: Builder, places: Sequence[Points]) -> Points:
    """Points behind each other along the batch, per subject."""
    return {name: joined(op, [place[name] for place in places]) for name in places[0]}


def _parts(op: Builder, value: ir.Value, like: ir.Value, count: int) -> list[ir.Value]:
    """The turns' own parts of what was computed for all of them, each in the shape of ``like``."""
    if count == 1:
        return [value]
    parts = op.emit("Split", [value], outputs=count, axis=0, num_outputs=count)
    for part in parts:
        part.shape = like.shape
    return list(parts)


# ----- what both need -------------------------------------------------------------------------------------


def at_points(plan: Plan, points: Points, wanted: Sequence[ir.Value]) -> list[ir.Value]:
    """Emit values of the graph once more, at other points, with the clean input's target; no loop."""
    twins = again(plan, _described(plan, points), plan.rewriter.op, wanted)
    return [twins.get(v, v) for v in wanted]


def score_at(plan: Plan, points: Points) -> ir.Value:
    """Emit the score at other points, ``[N]``, with the clean input's target."""
    (score,) = at_points(plan, points, [plan.seed.score])
    return score


def _described(plan: Plan, points: Points) -> Points:
    """The points, which have their subjects' sizes."""
    for subject in plan.subjects:
        if points[subject.name] is not subject.value:
            points[subject.name].shape = subject.value.shape
    return points


def summed(
    plan: Plan,
    count: int | ir.Value,
    at: At,
    wanted: Sequence[ir.Value],
    add: Callable[[Turn], Sequence[ir.Value]],
    likes: Sequence[ir.Value],
    swap: Swap | None = None,
    ahead: bool = True,
    beside: Sequence[At] = (),
) -> list[ir.Value]:
    """Emit the evaluation of points that adds something up, turn by turn.

    Args:
        plan, count, at, wanted, swap, ahead, beside: As for :func:`over_turns`.
        add: Emits what a turn adds to each sum.
        likes: Values of the sums' shapes.
    """

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        return [turn.op.Add(s, part) for s, part in zip(turn.states, add(turn), strict=True)], []

    begin = {like: zeros(plan, like) for like in likes}
    starts = [begin[like] for like in likes]
    return over_turns(plan, count, at, wanted, step, starts, swap=swap, ahead=ahead, beside=beside)


def zeros(plan: Plan, like: ir.Value) -> ir.Value:
    """Zeros in a value's shape: what a sum begins with."""
    made = zeros_like(plan.rewriter.op, like)
    made.shape = like.shape
    return made


def gradients_of(plan: Plan) -> dict[str, ir.Value]:
    """Gradients at the input per subject, in its sizes."""
    found = plan.gradients()
    for subject in plan.subjects:
        found[subject.name].shape = found[subject.name].shape or subject.value.shape
    return found


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
