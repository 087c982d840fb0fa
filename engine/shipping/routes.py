"""Ways from a baseline to the input inside a graph, step by step; what is gathered on them stands in `travel`.

The same ways as :mod:`onnxplain.engine.paths` and :mod:`onnxplain.engine.guided_path` take outside. Blurs are products
with matrices whose rows are stored; a guided path chooses its next step by the gradient, in a loop of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.gaussian import kernel
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import reshape_like
from onnxplain.engine.method import Plan, Subject
from onnxplain.engine.paths import BlurPath
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.shipping.products import along
from onnxplain.engine.shipping.turns import At, Points
from onnxplain.engine.subgraphs import control, formal, new_graph, returned

#: Share of the way below which two lengths are the same in float32: a little more than its rounding.
CLOSE = 1e-6


class Route(Protocol):
    """A way through points that are known, or found on the way.

    Attributes:
        count: Number of steps.
        start: Where it begins, per subject.
        states: What is known before the first step.
        ways: A factor that all moves have, per subject, which is multiplied by once; empty where they have none.
    """

    count: int
    start: Points
    states: Sequence[ir.Value]
    ways: Points

    def points(self, op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        """Where the model is evaluated."""
        ...

    def moves(
        self, op: Builder, turn: ir.Value, states: Sequence[ir.Value], gradients: Points
    ) -> tuple[Points, Sequence[ir.Value]]:
        """What the gradients there are multiplied by, per subject, and the states after the step."""
        ...


def line(plan: Plan, start: Points, alphas: Any) -> tuple[dict[str, ir.Value], At]:
    """Ways ``x - x'`` per subject, and the points ``x' + alpha (x - x')`` turn by turn."""
    op = plan.rewriter.op
    at_alpha = op.constant(np.asarray(alphas), plan.subjects[0].value.dtype)
    ways = {s.name: op.Sub(s.value, start[s.name]) for s in plan.subjects}

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        alpha = inner.Gather(at_alpha, turn, axis=0)
        return {n: inner.Add(start[n], inner.Mul(alpha, way)) for n, way in ways.items()}

    return ways, at


class StraightRoute:
    """``x' + alpha (x - x')``; the moves are weights, and their factor ``x - x'``.

    Args:
        plan: The graph.
        start: The baseline, per subject.
        alphas, weights: Of the quadrature.
    """

    def __init__(self, plan: Plan, start: dict[str, ir.Value], alphas: Any, weights: Any) -> None:
        self.count = len(alphas)
        self.start: Points = start
        self.states: Sequence[ir.Value] = ()
        self.weights = plan.rewriter.op.constant(np.asarray(weights), plan.subjects[0].value.dtype)
        self.ways: Points
        self.ways, self._at = line(plan, start, alphas)

    def points(self, op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return self._at(op, turn, states)

    def moves(
        self, op: Builder, turn: ir.Value, states: Sequence[ir.Value], gradients: Points
    ) -> tuple[Points, Sequence[ir.Value]]:
        weight = op.Gather(self.weights, turn, axis=0)
        return dict.fromkeys(self.ways, weight), ()


class BlurRoute:
    """From the blurred input to the input itself: see :class:`onnxplain.engine.paths.BlurPath`.

    The difference of two blurs that are nearly the same is taken of their kernels before they are stored, axis by
    axis, so that float32 loses nothing by it.

    Args:
        plan: The graph.
        sigma, steps, square_root, leading: As for :class:`onnxplain.engine.paths.BlurPath`.

    Raises:
        OptionError: A subject whose places are not of known number.
    """

    def __init__(self, plan: Plan, sigma: float, steps: int, square_root: bool = False, leading: bool = False) -> None:
        self.plan, self.count = plan, steps
        self.states: Sequence[ir.Value] = ()
        self.ways: Points = {}
        shares = np.arange(steps + 1) / steps
        sigmas = sigma * (np.sqrt(shares) if square_root else shares)
        ends = np.arange(steps)[::-1]
        self._at = sigmas[ends + leading]
        self._softer = self._at + BlurPath.DELTA
        self._scale = (sigmas[ends + 1] - sigmas[ends]) / BlurPath.DELTA
        self._tables: dict[int, list[ir.Value]] = {}
        self._apart: dict[int, ir.Value] = {}
        op = plan.rewriter.op
        most = {size: op.constant(kernel(size, float(sigmas[-1])), self._kind) for size in self._sizes()}
        matrices = {size: self._matrix(op, size, row) for size, row in most.items()}
        self.start: Points = {s.name: self._blurred(op, s, matrices) for s in plan.subjects}

    @property
    def _kind(self) -> ir.DataType:
        return self.plan.subjects[0].value.dtype or ir.DataType.FLOAT

    def _sizes(self) -> list[int]:
        return sorted({size for s in self.plan.subjects for size in _place_sizes(s).values()})

    def _matrix(self, op: Builder, size: int, row: ir.Value) -> ir.Value:
        """``[size, size]`` from what the kernel weighs at distance 0, 1, ...; it is symmetric."""
        if size not in self._apart:
            apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
            self._apart[size] = self.plan.rewriter.op.constant(apart, ir.DataType.INT64)
        return op.Gather(row, self._apart[size], axis=0)

    def _rows(self, op: Builder, turn: ir.Value, which: int) -> dict[int, ir.Value]:
        """Matrices per size: 0: of the point, 1: of the softer one, 2: their difference, over the step."""
        result = {}
        for size in self._sizes():
            if size not in self._tables:
                sharp = np.stack([kernel(size, s) for s in self._at])
                soft = np.stack([kernel(size, s) for s in self._softer])
                difference = (sharp - soft) * self._scale[:, None]
                constant = self.plan.rewriter.op.constant
                self._tables[size] = [constant(t, self._kind) for t in (sharp, soft, difference)]
            row = op.Gather(self._tables[size][which], turn, axis=0)
            result[size] = self._matrix(op, size, row)
        return result

    def _blurred(self, op: Builder, subject: Subject, matrices: Mapping[int, ir.Value]) -> ir.Value:
        value = subject.value
        for axis, size in _place_sizes(subject).items():
            value = along(op, value, axis, len(subject.labels), matrices[size])
        return value

    def points(self, op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        matrices = self._rows(op, turn, 0)
        return {s.name: self._blurred(op, s, matrices) for s in self.plan.subjects}

    def moves(
        self, op: Builder, turn: ir.Value, states: Sequence[ir.Value], gradients: Points
    ) -> tuple[Points, Sequence[ir.Value]]:
        sharp, soft, difference = (self._rows(op, turn, which) for which in range(3))
        result = {}
        for subject in self.plan.subjects:
            parts = []
            sizes = _place_sizes(subject)
            for this in sizes:
                # AB - A'B' = (A - A')B + A'(B - B'), for as many axes as there are.
                value = subject.value
                for axis, size in sizes.items():
                    chosen = difference if axis == this else soft if axis < this else sharp
                    value = along(op, value, axis, len(subject.labels), chosen[size])
                parts.append(value)
            result[subject.name] = parts[0] if len(parts) == 1 else op.Sum(*parts)
        return result, ()


def _place_sizes(subject: Subject) -> dict[int, int]:
    """Number of places per axis.

    Raises:
        OptionError: It is open.
    """
    known = dims(subject.value) or (None,) * len(subject.labels)
    found = {}
    for axis in sorted(spatial_axes(subject.labels).values()):
        size = known[axis]
        if not isinstance(size, int):
            raise OptionError(
                f"blurs are stored in the file, and the sizes of '{subject.name}' are open; give the model's input "
                "fixed sizes first (the batch may stay open)"
            )
        found[axis] = size
    return found


class GuidedRoute:
    """The features with the smallest gradients first: see :class:`onnxplain.engine.guided_path.GuidedPath`.

    Args:
        plan: The graph.
        start: The baseline, per subject.
        steps, fraction, max_dist: As there.
    """

    def __init__(self, plan: Plan, start: Points, steps: int, fraction: float, max_dist: float) -> None:
        op, self.plan = plan.rewriter.op, plan
        self.count, self.start, self.fraction = steps, start, fraction
        kind = plan.subjects[0].value.dtype
        self.high = self._join(op, {s.name: s.value for s in plan.subjects})
        self.low = self._join(op, start)
        self.way = op.Sub(self.high, self.low)
        self.length = op.ReduceSum(op.Abs(self.way), [1], keepdims=1)
        alphas = np.arange(1, steps + 1) / steps
        self.remaining = op.constant(1.0 - alphas, kind)
        self.hind = op.constant(np.maximum(alphas - max_dist, 0.0), kind)
        self.front = op.constant(np.minimum(alphas + max_dist, 1.0), kind)
        self.largest = op.constant(np.finfo((kind or ir.DataType.FLOAT).numpy()).max, kind)
        z = op.Add(self.low, 0.0)
        z.shape = ir.Shape([None, None])
        self.states: Sequence[ir.Value] = [z]
        self.ways: Points = {}

    def _join(self, op: Builder, points: Points) -> ir.Value:
        """``[N, D]``: all subjects' features compete with each other."""
        flat = [op.Flatten(points[s.name], axis=1) for s in self.plan.subjects]
        return flat[0] if len(flat) == 1 else op.Concat(*flat, axis=1)

    def _split(self, op: Builder, flat: ir.Value) -> dict[str, ir.Value]:
        subjects = self.plan.subjects
        if len(subjects) == 1:
            return {subjects[0].name: reshape_like(op, flat, subjects[0].value)}
        sizes = op.Concat(*(op.Shape(op.Flatten(s.value, axis=1), start=1) for s in subjects), axis=0)
        parts = op.emit("Split", [flat, sizes], outputs=len(subjects), axis=1)
        return {s.name: reshape_like(op, part, s.value) for s, part in zip(subjects, parts, strict=True)}

    def points(self, op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return self._split(op, states[0])

    def moves(
        self, op: Builder, turn: ir.Value, states: Sequence[ir.Value], gradients: Points
    ) -> tuple[Points, Sequence[ir.Value]]:
        (z,) = states
        size = op.Abs(self._join(op, gradients))
        after = self._step(op, turn, z, size)
        return self._split(op, op.Sub(after, z)), [after]

    def _step(self, op: Builder, turn: ir.Value, z: ir.Value, size: ir.Value) -> ir.Value:
        """Where the path goes from ``z``, given the gradient's magnitudes there."""
        hind, front, remaining = (op.Gather(t, turn, axis=0) for t in (self.hind, self.front, self.remaining))
        limit = op.Add(self.low, op.Mul(front, self.way))
        still = op.Equal(self.way, 0.0)
        progress = op.Div(op.Sub(z, self.low), op.Where(still, 1.0, self.way))
        behind = op.And(op.Less(progress, hind), op.Not(still))
        begin = op.Where(behind, op.Add(self.low, op.Mul(hind, self.way)), z)
        begin.shape = ir.Shape([None, None])
        wanted = op.Mul(self.length, remaining)
        graph, inner = new_graph(op, "advance")
        formal(inner, graph, op.constant(0, ir.DataType.INT64), "round")
        formal(inner, graph, op.constant(True, ir.DataType.BOOL), "going")
        here = formal(inner, graph, begin, "state")
        going, after = self._advance(inner, here, limit, size, wanted)
        yes = op.constant(True, ir.DataType.BOOL)
        returned(inner, graph, [going, after], [yes, begin])
        # Each round moves at least this share of the features as far as they may go.
        rounds = op.constant(math.ceil(1 / self.fraction) + 2, ir.DataType.INT64)
        (result,) = control(op, "Loop", [rounds, yes, begin], [begin], body=graph)
        return result

    def _advance(
        self, op: Builder, here: ir.Value, limit: ir.Value, size: ir.Value, wanted: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """Whether a row has further to go, and where all rows are after their least important features moved."""
        missing = op.Sub(op.ReduceSum(op.Abs(op.Sub(here, self.high)), [1], keepdims=1), wanted)
        open_rows = op.Greater(missing, op.Mul(self.length, CLOSE))
        magnitude = op.Where(op.Equal(here, limit), self.largest, size)
        count = op.Cast(op.Shape(size, start=1), to=ir.DataType.FLOAT.value)
        place = op.Floor(op.Mul(op.Sub(count, 1.0), self.fraction))
        rank = op.Add(op.Cast(place, to=ir.DataType.INT64.value), op.constant(1, ir.DataType.INT64))
        smallest = op.emit("TopK", [magnitude, rank], outputs=2, axis=1, largest=0)[0]
        threshold = op.ReduceMax(smallest, [1], keepdims=1)
        movable = op.Less(magnitude, self.largest)
        chosen = op.And(op.LessOrEqual(magnitude, threshold), op.And(movable, open_rows))
        left = op.Where(chosen, op.Sub(limit, here), 0.0)
        room = op.ReduceSum(op.Abs(left), [1], keepdims=1)
        has_room = op.Greater(room, 0.0)
        share = op.Div(missing, op.Where(has_room, room, 1.0))
        beyond = op.And(op.Or(op.Greater(share, 1.0), op.Not(has_room)), open_rows)
        part = op.Where(beyond, 1.0, op.Clip(share, 0.0, 1.0))
        moved = op.Where(op.GreaterOrEqual(part, 1.0), limit, op.Add(here, op.Mul(part, left)))
        after = op.Where(chosen, moved, here)
        any_left = op.Cast(op.And(beyond, chosen), to=ir.DataType.FLOAT.value)
        going = op.Squeeze(op.Greater(op.ReduceMax(any_left, [0, 1], keepdims=1), 0.0), [0, 1])
        return going, after
