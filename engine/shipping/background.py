"""Expected Gradients inside a graph: draws are stored, and background samples, so that the file repeats itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.background import SYNTHETIC, Numbers, draw_numbers, read_background
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import Plan, Subject, deliver
from onnxplain.engine.shipping.baselines import of_sample, shipped_baselines
from onnxplain.engine.shipping.copies import noise_width
from onnxplain.engine.shipping.drawn import check_bytes, drawn, fixed_sizes
from onnxplain.engine.shipping.turns import At, Points, Turn, gradients_of, left_over, per_sample, summed


def ship_expected(plan: Plan, background: Any, draws: int, spread: float, reduction: str) -> None:
    """Emit the mean over draws of ``(x + e - r) grad f(r + alpha (x + e - r))``, and what its sum leaves over.

    Args:
        plan: The graph.
        background: See :class:`onnxplain.engine.background.Draws`.
        draws: Number of draws.
        spread: Width of the noise e, as a share of the sample's range.
        reduction: Of channels, for the map.

    Raises:
        OptionError: A background that does not fit.
    """
    op, subjects = plan.rewriter.op, plan.subjects
    references = _References(plan, background, draws, noisy=spread > 0)
    at_alpha, noise = references.alphas, references.noise
    widths = {s.name: noise_width(op, s.value, spread) for s in subjects} if spread > 0 else {}

    def ends(inner: Builder, turn: ir.Value) -> tuple[dict[str, ir.Value], dict[str, ir.Value]]:
        low, high = {}, {}
        for s in subjects:
            x = s.value
            if spread > 0:
                x = inner.Add(x, inner.Mul(inner.Gather(noise[s.name], turn, axis=0), widths[s.name]))
            low[s.name] = references.at(inner, turn, s)
            high[s.name] = x
        return low, high

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        low, high = ends(inner, turn)
        alpha = inner.Gather(at_alpha, turn, axis=0)
        return {n: inner.Add(low[n], inner.Mul(alpha, inner.Sub(high[n], low[n]))) for n in low}

    def end(which: int) -> At:
        return lambda inner, turn, states: ends(inner, turn)[which]

    clean = gradients_of(plan)

    def add(turn: Turn) -> list[ir.Value]:
        low, high = ends(turn.op, turn.number)
        moved = [turn.op.Mul(turn.of(clean[n]), turn.op.Sub(high[n], low[n])) for n in low]
        bottom, top = [*turn.beside, plan.seed.score][:2]
        return [*moved, turn.op.Sub(top, bottom)]

    beside = [end(0), end(1)] if spread > 0 else [end(0)]
    likes = [*(s.value for s in subjects), per_sample(plan)]
    totals = summed(plan, draws, at, list(clean.values()), add, likes, beside=beside)
    *found, change = (op.Mul(total, 1.0 / draws) for total in totals)
    left_over(plan, change, found)
    deliver(plan, {s.name: total for s, total in zip(subjects, found, strict=True)}, reduction)


class _References:
    """Where the draws' references come from: stored samples, baselines, or strengths of the sample's own."""

    def __init__(self, plan: Plan, background: Any, draws: int, *, noisy: bool) -> None:
        self.plan, self.kind = plan, background if isinstance(background, str) and background in SYNTHETIC else ""
        op, subjects = plan.rewriter.op, plan.subjects
        dtype = subjects[0].value.dtype
        self.rows: dict[str, ir.Value] = {}
        count = self._store(plan, background) if not self.kind else 0
        shapes = {s.name: fixed_sizes(s) if self.kind or noisy else () for s in subjects}
        tables = (bool(self.kind) + noisy) * draws * sum(math.prod(shape) for shape in shapes.values())
        check_bytes(tables * (dtype or ir.DataType.FLOAT).numpy().itemsize, f"draws={draws}")

        @functools.lru_cache(maxsize=1)
        def numbers(seed: int) -> Numbers:
            return draw_numbers(seed, draws, count, shapes, noisy=noisy, kind=self.kind)

        self.alphas = drawn(plan, lambda seed: numbers(seed).alphas, dtype)
        self.chosen = drawn(plan, lambda seed: numbers(seed).rows, ir.DataType.INT64) if self.rows else None

        def tables_of(which: str) -> dict[str, ir.Value]:
            def make(name: str) -> Callable[[int], Any]:
                return lambda seed: getattr(numbers(seed), which)[name]

            return {name: drawn(plan, make(name), dtype) for name in shapes}

        self.noise = tables_of("noise") if noisy else {}
        self.drawn = tables_of("references") if self.kind else {}
        if self.kind == "noise":
            self.strength = {s.name: _strength(op, s) for s in subjects}
        if self.kind == "uniform":
            self.ends = {s.name: tuple(of_sample(plan, s, end) for end in ("minimum", "maximum")) for s in subjects}

    def _store(self, plan: Plan, background: Any) -> int:
        """Keep the rows to choose from; says how many there are."""
        names = [s.name for s in plan.subjects]
        if isinstance(background, str) and Path(background).suffix.lower() in (".npy", ".npz"):
            background = read_background(Path(background), names)
        given = background if isinstance(background, Mapping) else dict.fromkeys(names, background)
        op = plan.rewriter.op
        if all(isinstance(given.get(n), np.ndarray) for n in names):
            rows = {s.name: _rows(s, given[s.name]) for s in plan.subjects}
            self.rows = {
                n: op.constant(array, s.value.dtype) for s, (n, array) in zip(plan.subjects, rows.items(), strict=True)
            }
            return len(next(iter(rows.values())))
        sets = shipped_baselines(plan, background)
        self.rows = {n: op.Concat(*(op.Unsqueeze(one[n], [0]) for one in sets), axis=0) for n in names}
        return len(sets)

    def at(self, op: Builder, turn: ir.Value, subject: Subject) -> ir.Value:
        """One draw's reference, in the subject's shape."""
        name = subject.name
        if self.chosen is not None:
            row = op.Gather(self.rows[name], op.Gather(self.chosen, turn, axis=0), axis=0)
            return op.Expand(row, op.Shape(subject.value))
        drawn_here = op.Gather(self.drawn[name], turn, axis=0)
        if self.kind == "noise":
            return op.Mul(self.strength[name], drawn_here)
        low, high = self.ends[name]
        return op.Add(low, op.Mul(drawn_here, op.Sub(high, low)))


def _strength(op: Builder, subject: Subject) -> ir.Value:
    """Root of the mean square of each sample."""
    axes = list(range(1, len(subject.labels)))
    return op.Sqrt(op.ReduceMean(op.Mul(subject.value, subject.value), axes, keepdims=1))


def _rows(subject: Subject, array: Any) -> Any:
    """Samples, one a row, that fit the subject."""
    rows = array[None] if array.ndim == len(subject.labels) - 1 else array
    known = dims(subject.value)
    wanted = list((known or ())[1:])
    fits = rows.ndim == len(subject.labels) and len(rows) > 0
    fits = fits and all(a == d or not isinstance(d, int) for a, d in zip(rows.shape[1:], wanted, strict=False))
    if not fits:
        raise OptionError(f"background of shape {array.shape} does not fit '{subject.name}'; give samples, one a row")
    return rows
