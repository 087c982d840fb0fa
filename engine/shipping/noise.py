"""Noisy copies inside a graph: the draws are stored, so that the file gives the same numbers everywhere.

A draw is the same for every sample and its width follows the sample's range, exactly as outside the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.method import Plan, Subject, deliver
from onnxplain.engine.noise import standard_noise
from onnxplain.engine.shipping.drawn import check_bytes, drawn, fixed_sizes
from onnxplain.engine.shipping.loop import Here, sum_over_points


def ship_noisy_gradient(
    plan: Plan,
    draws: int,
    spread: float,
    combine: Callable[[Builder, ir.Value, ir.Value], ir.Value],
    reduction: str,
) -> None:
    """Emit mean and variance of the gradient over noisy copies, and what a method makes of them.

    Args:
        plan: The graph.
        draws, spread: As for :func:`onnxplain.engine.noise.noisy_blocks`.
        combine: Emits the attribution from mean and (biased) variance.
        reduction: Of channels, for the map.

    Raises:
        OptionError: The input's sizes are open, or the draws would take more than a gigabyte.
    """
    op = plan.rewriter.op
    tables = {s.name: noise_table(plan, s, draws, i) for i, s in enumerate(plan.subjects)}
    widths = {s.name: noise_width(op, s.value, spread) for s in plan.subjects}
    clean = plan.gradients()

    def at(inner: Builder, turn: ir.Value) -> dict[str, ir.Value]:
        points = {}
        for subject in plan.subjects:
            noise = inner.Mul(inner.Gather(tables[subject.name], turn, axis=0), widths[subject.name])
            points[subject.name] = inner.Add(subject.value, noise)
            points[subject.name].shape = subject.value.shape
        return points

    def gather(here: Here) -> list[ir.Value]:
        # Deviations from the clean gradient, so that a variance is no difference of two large means.
        moved = [here.op.Sub(here.gradients[s.name], clean[s.name]) for s in plan.subjects]
        return [*moved, *(here.op.Mul(m, m) for m in moved)]

    zeros = [zeros_like(op, s.value) for s in plan.subjects] * 2
    for zero, subject in zip(zeros, [*plan.subjects] * 2, strict=True):
        zero.shape = subject.value.shape
    sums = [op.Mul(s, 1.0 / draws) for s in sum_over_points(plan, draws, at, gather, zeros)]
    count = len(plan.subjects)
    found = {}
    for subject, shift, square in zip(plan.subjects, sums[:count], sums[count:], strict=True):
        variance = op.Relu(op.Sub(square, op.Mul(shift, shift)))
        found[subject.name] = combine(op, op.Add(clean[subject.name], shift), variance)
    deliver(plan, found, reduction)


def noise_width(op: Builder, x: ir.Value, spread: float) -> ir.Value:
    """Standard deviation per sample, in x's number of axes."""
    axes = list(range(1, len(dims(x) or ())))
    return op.Mul(op.Sub(op.ReduceMax(x, axes, keepdims=1), op.ReduceMin(x, axes, keepdims=1)), spread)


def noise_table(plan: Plan, subject: Subject, draws: int, index: int) -> ir.Value:
    """Unit noise ``[draws, ...]`` for one subject, the ``index``-th.

    Raises:
        OptionError: The input's sizes are open, or the draws would take more than a gigabyte.
    """
    sizes, kind = fixed_sizes(subject), (subject.value.dtype or ir.DataType.FLOAT).numpy()
    check_bytes(draws * int(np.prod(sizes)) * kind.itemsize, f"noise of draws={draws}")

    def make(seed: int) -> Any:
        return np.stack([standard_noise(sizes, kind, seed, k, index) for k in range(draws)])

    return drawn(plan, make, subject.value.dtype, f"noise of draws={draws}")
