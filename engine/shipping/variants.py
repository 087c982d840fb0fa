"""Scores of altered inputs inside a graph: what methods need that run the model and never differentiate it.

One loop evaluates variant after variant; which parts of the input are altered is stored, as windows, coarse masks or
coalitions of players, and what the scores make is a sum in the loop or a product with a stored matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.coarse_masks import CoarseMasks
from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Plan, Subject
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.drawn import drawn, fixed_sizes
from onnxplain.engine.shipping.products import along
from onnxplain.engine.shipping.turns import At, Points, Turn, over_turns, per_sample, summed
from onnxplain.engine.upsample import linear_matrix

Array = np.ndarray[Any, Any]


def one_baseline(plan: Plan, spec: Any, option: str = "baseline") -> dict[str, ir.Value]:
    """The single baseline per subject.

    Raises:
        OptionError: There are several.
    """
    sets = shipped_baselines(plan, spec)
    if len(sets) != 1:
        raise OptionError(f"{option}={spec!r} stands for {len(sets)} baselines; give one")
    return sets[0]


def scores_of(plan: Plan, count: int | ir.Value, at: At) -> ir.Value:
    """Scores of variants, ``[count, N]``, each with the target of its clean input."""
    score = plan.seed.score

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        return [], [turn.of(score)]

    (scores,) = over_turns(plan, count, at, [score], step, listed=[per_sample(plan)])
    return scores


# ----- windows ----------------------------------------------------------------------------------------


def ship_windows(
    plan: Plan, subject: Subject, filled: Mapping[str, ir.Value], windows: Sequence[tuple[slice, ...]], average: bool
) -> ir.Value:
    """Sum of the drops of the windows over each element; over the sum of their sizes with ``average``.

    Args:
        plan: The graph.
        subject: What is altered.
        filled: What stands in a window, per subject.
        windows: Index of each in one sample.
        average: Whether to divide.
    """
    op, score = plan.rewriter.op, plan.seed.score
    sizes = [dict(enumerate(w)) for w in windows]
    shape = _extent(subject)
    axes = [a for a in range(len(shape)) if any(w[a] != slice(None) for w in sizes)]
    ends = {
        a: [op.constant([w[a].indices(shape[a])[e] for w in sizes], ir.DataType.INT64) for e in (0, 1)] for a in axes
    }
    places = {a: op.constant(_over(np.arange(shape[a]), a, len(shape)), ir.DataType.INT64) for a in axes}

    def mask(inner: Builder, turn: ir.Value) -> ir.Value:
        parts = []
        for a in axes:
            first, end = (inner.Gather(table, turn, axis=0) for table in ends[a])
            parts.append(inner.And(inner.GreaterOrEqual(places[a], first), inner.Less(places[a], end)))
        result = parts[0]
        for part in parts[1:]:
            result = inner.And(result, part)
        return result

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        points = {s.name: s.value for s in plan.subjects}
        points[subject.name] = inner.Where(mask(inner, turn), filled[subject.name], subject.value)
        return points

    def add(turn: Turn) -> list[ir.Value]:
        drop = turn.op.Reshape(turn.op.Sub(score, turn.of(score)), [-1] + [1] * len(shape))
        return [turn.op.Where(mask(turn.op, turn.number), drop, 0.0)]

    (total,) = summed(plan, len(windows), at, [score], add, [subject.value])
    if not average:
        return total
    covered = np.zeros([shape[a] if a in axes else 1 for a in range(len(shape))])
    for window in windows:
        size = math.prod(len(range(*w.indices(n))) for w, n in zip(window, shape, strict=True))
        covered[tuple(w if a in axes else slice(None) for a, w in enumerate(window))] += size
    return op.Mul(total, op.constant(1.0 / np.where(covered > 0, covered, 1.0), subject.value.dtype))


def _extent(subject: Subject) -> tuple[int, ...]:
    return fixed_sizes(subject, "which parts are altered is stored in the file")


def _over(array: Array, axis: int, rank: int) -> Array:
    shape = [1] * (rank + 1)
    shape[axis + 1] = len(array)
    return array.reshape(shape)


# ----- players ----------------------------------------------------------------------------------------


def scores_of_coalitions(
    plan: Plan, owner: Mapping[str, Array], present: Callable[[int], Array], baselines: Sequence[Mapping[str, ir.Value]]
) -> ir.Value:
    """Scores with some of the players present, ``[N, M]``, averaged over baselines.

    Args:
        plan: The graph.
        owner: Per subject, the number of the player that each element belongs to.
        present: From a seed to bool ``[M, players]``.
        baselines: What absent players are replaced by.
    """
    op = plan.rewriter.op
    table = drawn(plan, present, ir.DataType.BOOL, "coalitions")
    count = len(present(0))
    owners = {n: op.constant(o[:1], ir.DataType.INT64) for n, o in owner.items()}
    several = op.constant(len(baselines), ir.DataType.INT64)
    stacked = {n: op.Concat(*(op.Unsqueeze(b[n], [0]) for b in baselines), axis=0) for n in owners}

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        row = inner.Gather(table, inner.Div(turn, several), axis=0)
        which = inner.Mod(turn, several)
        points = {}
        for s in plan.subjects:
            there = inner.Gather(row, owners[s.name], axis=0)
            away = inner.Gather(stacked[s.name], which, axis=0)
            points[s.name] = inner.Where(there, s.value, away)
        return points

    scores = op.Transpose(scores_of(plan, count * len(baselines), at), perm=[1, 0])
    if len(baselines) > 1:
        scores = op.ReduceMean(op.Reshape(scores, [0, count, len(baselines)]), [2], keepdims=0)
    return scores


def spread(plan: Plan, values: ir.Value, owner: Mapping[str, Array]) -> dict[str, ir.Value]:
    """Values ``[N, players]`` in equal parts over each player's elements, per subject."""
    op, result = plan.rewriter.op, {}
    for subject in plan.subjects:
        shape = _extent(subject)
        mine = np.broadcast_to(owner[subject.name][0], shape)
        sizes = np.bincount(mine.reshape(-1), minlength=1)
        share = (1.0 / np.maximum(sizes, 1))[owner[subject.name][:1]]
        found = op.Gather(values, op.constant(owner[subject.name][0], ir.DataType.INT64), axis=1)
        found = op.Mul(found, op.constant(share, subject.value.dtype))
        result[subject.name] = op.Expand(found, op.Shape(subject.value))
        result[subject.name].shape = subject.value.shape
    return result


# ----- masks ------------------------------------------------------------------------------------------


def ship_masks(
    plan: Plan, start: Mapping[str, ir.Value], draws: int, masks: Mapping[str, CoarseMasks]
) -> dict[str, ir.Value]:
    """RISE: mean of score times mask, over the share kept, per subject.

    Args:
        plan: The graph.
        start: What hidden places fade to, per subject.
        draws: How many masks.
        masks: How they are drawn, per subject.
    """
    score = plan.seed.score
    made = {s.name: _Masks(plan, s, draws, masks[s.name], i) for i, s in enumerate(plan.subjects)}

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        points = {}
        for s in plan.subjects:
            low = start[s.name]
            points[s.name] = inner.Add(low, inner.Mul(made[s.name].of(inner, turn), inner.Sub(s.value, low)))
        return points

    def add(turn: Turn) -> list[ir.Value]:
        parts = []
        for s in plan.subjects:
            scores = turn.op.Reshape(turn.of(score), [-1] + [1] * (len(s.labels) - 1))
            parts.append(
                turn.op.Mul(made[s.name].of(turn.op, turn.number), turn.op.Mul(scores, 1.0 / masks[s.name].keep))
            )
        return parts

    likes = []
    for s in plan.subjects:
        size = masks[s.name].size
        like = plan.rewriter.op.Expand(
            plan.rewriter.op.Reshape(per_sample(plan), [-1] + [1] * len(size)),
            plan.rewriter.op.constant([1, *size], ir.DataType.INT64),
        )
        like.shape = ir.Shape([None, *size])
        likes.append(like)
    sums = summed(plan, draws, at, [score], add, likes)
    result = {}
    for s, total in zip(plan.subjects, sums, strict=True):
        op, share = plan.rewriter.op, math.prod(masks[s.name].size) / math.prod(_extent(s))
        result[s.name] = op.Expand(op.Mul(total, share / draws), op.Shape(s.value))
    return result


class _Masks:
    """The masks over one subject, turn by turn: stored are the coarse grids and where each mask begins."""

    def __init__(self, plan: Plan, subject: Subject, draws: int, masks: CoarseMasks, index: int) -> None:
        self.masks, kind = masks, subject.value.dtype
        constant = plan.rewriter.op.constant

        def draw(seed: int) -> list[tuple[Array, dict[int, int]]]:
            return [masks.draw(generator(seed, k, index)) for k in range(draws)]

        def starts(axis: int) -> Callable[[int], Array]:
            return lambda seed: np.array([begin[axis] for _, begin in draw(seed)])

        self.grids = drawn(plan, lambda seed: np.stack([grid for grid, _ in draw(seed)]), ir.DataType.BOOL, "masks")
        self.starts = {a: drawn(plan, starts(a), ir.DataType.INT64, "masks") for a in masks.steps}
        self.matrices = {a: constant(linear_matrix(masks.cells, masks.enlarged(a), False), kind) for a in masks.steps}
        self.places = {a: constant(np.arange(masks.shape[a]), ir.DataType.INT64) for a in masks.steps}
        self.kind = kind or ir.DataType.FLOAT

    def of(self, op: Builder, turn: ir.Value) -> ir.Value:
        """One mask, with a batch of one in front."""
        grid = op.Cast(op.Gather(self.grids, turn, axis=0), to=self.kind.value)
        value = op.Unsqueeze(grid, [0])
        for axis, matrix in self.matrices.items():
            rows = op.Gather(matrix, op.Add(self.places[axis], op.Gather(self.starts[axis], turn, axis=0)), axis=0)
            value = along(op, value, axis + 1, len(self.masks.shape) + 1, rows)
        return value
