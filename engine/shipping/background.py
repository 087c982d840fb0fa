"""Expected Gradients inside a graph: background samples and draws are stored, so that the file repeats itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.background import draw_numbers, read_background
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import total_per_sample
from onnxplain.engine.method import Plan, Subject, deliver
from onnxplain.engine.shipping.loop import At, Here, sum_over_points
from onnxplain.engine.shipping.noise import noise_width
from onnxplain.engine.shipping.straight import zeros


def ship_expected(plan: Plan, background: Any, draws: int, spread: float, reduction: str, seed: int = 0) -> None:
    """Emit the mean over draws of ``(x + e - r) grad f(r + alpha (x + e - r))``, and what its sum leaves over.

    Args:
        plan: The graph.
        background: An array of samples, a file of them, or a dictionary by subject.
        draws: Number of draws.
        spread: Width of the noise e, as a share of the sample's range.
        reduction: Of channels, for the map.
        seed: Of the draws.

    Raises:
        OptionError: A background that is made from the sample itself, or that does not fit.
    """
    op, subjects = plan.rewriter.op, plan.subjects
    rows = {s.name: _rows(s, b) for s, b in zip(subjects, _by_subject(plan, background), strict=True)}
    count = len(next(iter(rows.values())))
    shapes = {s.name: rows[s.name].shape[1:] for s in subjects}
    alphas, chosen, noise = draw_numbers(seed, draws, count, shapes, noisy=spread > 0)
    kind = subjects[0].value.dtype
    at_alpha, which = op.constant(alphas, kind), op.constant(chosen, ir.DataType.INT64)
    stored = {n: op.constant(a, kind) for n, a in rows.items()}
    drawn = {n: op.constant(a, kind) for n, a in noise.items()}
    widths = {s.name: noise_width(op, s.value, spread) for s in subjects} if spread > 0 else {}

    def ends(inner: Builder, turn: ir.Value) -> tuple[dict[str, ir.Value], dict[str, ir.Value]]:
        row = inner.Gather(which, turn, axis=0)
        low, high = {}, {}
        for s in subjects:
            x = s.value
            if spread > 0:
                x = inner.Add(x, inner.Mul(inner.Gather(drawn[s.name], turn, axis=0), widths[s.name]))
            low[s.name] = inner.Expand(inner.Gather(stored[s.name], row, axis=0), inner.Shape(s.value))
            high[s.name] = x
        return low, high

    def at(inner: Builder, turn: ir.Value) -> dict[str, ir.Value]:
        low, high = ends(inner, turn)
        alpha = inner.Gather(at_alpha, turn, axis=0)
        points = {n: inner.Add(low[n], inner.Mul(alpha, inner.Sub(high[n], low[n]))) for n in low}
        for s in subjects:
            points[s.name].shape = s.value.shape
        return points

    def end(which: int) -> At:
        def emit(inner: Builder, turn: ir.Value) -> dict[str, ir.Value]:
            points = ends(inner, turn)[which]
            for s in subjects:
                points[s.name].shape = s.value.shape
            return points

        return emit

    def gather(here: Here) -> list[ir.Value]:
        low, high = ends(here.op, here.turn)
        for s in subjects:
            low[s.name].shape = high[s.name].shape = s.value.shape
        moved = [here.op.Mul(here.gradients[n], here.op.Sub(high[n], low[n])) for n in low]
        bottom, top = here.others if spread > 0 else (here.others[0], plan.seed.score)
        return [*moved, here.op.Sub(top, bottom)]

    others = [end(0), end(1)] if spread > 0 else [end(0)]
    start = op.Mul(plan.seed.score, 0.0)
    start.shape = plan.seed.score.shape or ir.Shape([None])
    totals = sum_over_points(plan, draws, at, gather, [*zeros(plan), start], others=others)
    sums = [op.Mul(total, 1.0 / draws) for total in totals]
    found = {s.name: total for s, total in zip(subjects, sums, strict=False)}
    plan.output("residual", op.Sub(sums[-1], total_per_sample(op, list(found.values()))), ("N",))
    deliver(plan, found, reduction)


def _by_subject(plan: Plan, background: Any) -> list[Any]:
    names = [s.name for s in plan.subjects]
    if isinstance(background, str) and Path(background).suffix.lower() in (".npy", ".npz"):
        background = read_background(Path(background), names)
    given = background if isinstance(background, Mapping) else dict.fromkeys(names, background)
    if not all(isinstance(given.get(n), np.ndarray) for n in names):
        raise OptionError(
            f"the background {background!r} is made from each sample outside the graph; give an array of samples, or "
            "a file of them, to store in the file"
        )
    return [given[n] for n in names]


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
