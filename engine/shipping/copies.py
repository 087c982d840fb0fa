"""Any method's result over noisy copies of the input, inside a graph: its mean, its square, its variance.

The inner method is written once, for the clean input; what it wrote is repeated at each noisy copy. The draws are stored,
so that the file gives the same numbers everywhere. A draw is the same for every sample and its width follows the
sample's range, exactly as outside the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.draws import seed_of
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import Method, Plan, Subject, deliver
from onnxplain.engine.noise import standard_noise
from onnxplain.engine.shipping.drawn import DRAWN, Drawn, check_bytes, drawn, fixed_sizes
from onnxplain.engine.shipping.turns import At, Points, Swap, Turn, summed

#: From mean and (biased) variance to the result.
Combine = Callable[[Builder, ir.Value, ir.Value], ir.Value]

_ATTRIBUTION, _MAP = "attribution/", "saliency"


def noisy_points(plan: Plan, draws: int, spread: float) -> At:
    """The points of :func:`onnxplain.engine.noise.noisy_copies`, turn by turn; the draws are stored.

    Raises:
        OptionError: The input's sizes are open, or the draws would take more than a gigabyte.
    """
    op = plan.rewriter.op
    tables = {s.name: _noise_table(plan, s, draws, i) for i, s in enumerate(plan.subjects)}
    widths = {s.name: noise_width(op, s.value, spread) for s in plan.subjects}

    def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return {
            s.name: inner.Add(s.value, inner.Mul(inner.Gather(tables[s.name], turn, axis=0), widths[s.name]))
            for s in plan.subjects
        }

    return at


def noise_width(op: Builder, x: ir.Value, spread: float) -> ir.Value:
    """Standard deviation per sample, in x's number of axes."""
    axes = list(range(1, len(dims(x) or ())))
    return op.Mul(op.Sub(op.ReduceMax(x, axes, keepdims=1), op.ReduceMin(x, axes, keepdims=1)), spread)


def _noise_table(plan: Plan, subject: Subject, draws: int, index: int) -> ir.Value:
    """Unit noise ``[draws, ...]`` for one subject, the ``index``-th.

    Raises:
        OptionError: The input's sizes are open, or the draws would take more than a gigabyte.
    """
    sizes, kind = fixed_sizes(subject), (subject.value.dtype or ir.DataType.FLOAT).numpy()
    check_bytes(draws * int(np.prod(sizes)) * kind.itemsize, f"noise of draws={draws}")

    def make(seed: int) -> Any:
        return np.stack([standard_noise(sizes, kind, seed, k, index) for k in range(draws)])

    return drawn(plan, make, subject.value.dtype, f"noise of draws={draws}")


def ship_copies(plan: Plan, inner: Method, draws: int, spread: float, combine: Combine | None) -> None:
    """Emit what is made of an inner method's attributions and map over noisy copies.

    A map that is the reduction of the attributions is that of the combined ones; another is combined itself.

    Args:
        plan: The graph.
        inner: The method.
        draws, spread: As for :func:`onnxplain.engine.noise.noisy_copies`.
        combine: Emits the result from mean and variance; None: the mean.
    """
    at = noisy_points(plan, draws, spread)
    written = dataclasses.replace(
        plan, adjoints=None, slopes=None, names={}, values={}, memo=dict(plan.memo) | {DRAWN: []}
    )
    inner.ship(written)
    clean = {k: v for k, v in written.values.items() if k.startswith(_ATTRIBUTION) or k == _MAP}
    reduction = getattr(inner, "reduction", None)
    reduces = reduction is not None and {f"{_ATTRIBUTION}{s.name}" for s in plan.subjects} == clean.keys() - {_MAP}
    if reduces:
        clean.pop(_MAP, None)
    swap = _drawn_anew(plan, written.memo[DRAWN], draws) if written.memo[DRAWN] else None
    # What walks itself has points side by side already, or a loop.
    loop = _Over(written, draws, at, list(clean.values()), swap, ahead=not inner.walks)
    found = _means(clean, loop) if combine is None else _moments(clean, loop, combine)
    for key, value in found.items():
        value.shape = clean[key].shape
    if reduces:
        deliver(plan, {k.removeprefix(_ATTRIBUTION): v for k, v in found.items()}, str(reduction))
        return
    for key, value in found.items():
        plan.output(key, value, value.shape)


def _drawn_anew(plan: Plan, tables: Sequence[Drawn], draws: int) -> Swap:
    """Each copy's own draws in the place of the clean input's."""

    def stacked(one: Drawn) -> Callable[[int], Any]:
        return lambda seed: _stack([one.make(seed_of(seed, k)) for k in range(draws)])

    stored = {one.value: drawn(plan, stacked(one), one.value.dtype, "draws within draws") for one in tables}
    return lambda op, turn: {value: op.Gather(table, turn, axis=0) for value, table in stored.items()}


def _stack(tables: Sequence[Any]) -> Any:
    if len({np.shape(t) for t in tables}) > 1:
        raise OptionError(
            "the inner method draws another number of things at each noisy copy, which no table can hold; "
            "use one that draws none"
        )
    return np.stack(tables)


@dataclass(frozen=True)
class _Over:
    """The noisy copies, and what is wanted at each."""

    plan: Plan
    draws: int
    at: At
    wanted: list[ir.Value]
    swap: Swap | None
    ahead: bool

    def means(self, add: Callable[[Turn], list[ir.Value]], times: int = 1) -> list[ir.Value]:
        """Means over copies of what they add, ``times`` as many as is wanted, in the same shapes."""
        likes = self.wanted * times
        sums = summed(self.plan, self.draws, self.at, self.wanted, add, likes, self.swap, self.ahead)
        return [self.plan.rewriter.op.Mul(total, 1.0 / self.draws) for total in sums]


def _means(clean: Mapping[str, ir.Value], over: _Over) -> dict[str, ir.Value]:
    return dict(zip(clean, over.means(lambda turn: [turn.of(v) for v in over.wanted]), strict=True))


def _moments(clean: Mapping[str, ir.Value], over: _Over, combine: Combine) -> dict[str, ir.Value]:
    op, wanted = over.plan.rewriter.op, over.wanted

    def add(turn: Turn) -> list[ir.Value]:
        # Deviations from the clean result, so that a variance is no difference of two large means.
        moved = [turn.op.Sub(turn.of(v), v) for v in wanted]
        return [*moved, *(turn.op.Mul(m, m) for m in moved)]

    means = over.means(add, 2)
    found = {}
    for key, shift, square in zip(clean, means[: len(wanted)], means[len(wanted) :], strict=True):
        variance = op.Relu(op.Sub(square, op.Mul(shift, shift)))
        found[key] = combine(op, op.Add(clean[key], shift), variance)
    return found
