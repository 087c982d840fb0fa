"""Pixel perturbation: how far the answer moves when the most, or the least, salient places are removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.fills import filled
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import check_fill, check_shares, ranking, without
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import choose

#: Altered inputs from samples' numbers and turns: see :meth:`Case.evaluated`.
Make = Callable[[Array, Array], Array]


@metric("pixel_perturbation")
class PixelPerturbation(Metric):
    """Mean over fractions of ``|f(x) - f(x without the places)| / |f(x)|``.

    The least salient first is the protocol of FullGrad: removing the most salient ones makes artefacts that are
    mistaken for importance. A good map then moves little. With ``order="most"`` a good map moves much.

    Args:
        fractions: Shares of the places that are removed.
        order: ``least`` or ``most`` salient first.
        fill: What is put in their place: see :mod:`onnxplain.engine.evaluation.fills`.
        absolute: Rank by magnitude; signed maps are ranked as they are otherwise.
        incremental: Go from fraction to fraction: each removes its places from what the one before left, and the
            change is that of this step alone. Otherwise each removes all of its places from the clean input.
        distance: ``relative`` change of the score, or ``kl``: how far the distribution over all classes moves,
            ``KL(p(x) || p(x without the places))``.
    """

    summary: ClassVar[str] = "change of the score when the least (or most) salient places are removed"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780, section 5.1; Samek et al. 2017"
    better: ClassVar[Better] = "lower"
    usual: ClassVar[bool] = True

    fractions: tuple[float, ...] = (0.01, 0.03, 0.05, 0.07, 0.1)
    order: str = "least"
    fill: Any = 0.0
    absolute: bool = False
    incremental: bool = False
    distance: str = "relative"

    def __post_init__(self) -> None:
        choose("order", self.order, ("least", "most"))
        choose("distance", self.distance, ("relative", "kl"))
        check_fill(self.fill)
        check_shares("fractions", self.fractions)

    def measure(self, case: Case) -> Measured:
        order = case.order(absolute=self.absolute)
        order = order[:, ::-1] if self.order == "least" else order
        fractions = sorted(self.fractions)
        counts = [round(f * case.count) for f in fractions]

        make = self._stepwise(case, order, counts) if self.incremental else without(case, order, counts, self.fill)
        change = (self._relative if self.distance == "relative" else _kl)(case, len(counts), make)
        facts = {"ranking": ranking(case, self.absolute), "first": self.order}
        return Measured(change.mean(axis=1), {"change": (np.asarray(fractions), change)}, facts)

    def _stepwise(self, case: Case, order: Array, counts: list[int]) -> Make:
        """Each fraction removes its places from what the one before left."""

        def alter(n: int, turn: int) -> Array:
            x: Array = case.x[n]
            for first, last in zip([0, *counts[:turn]], counts[: turn + 1], strict=True):
                x = filled(case, x, order[n, first:last], self.fill)
            return x

        return lambda samples, turns: np.stack([alter(int(n), int(t)) for n, t in zip(samples, turns, strict=True)])

    def _relative(self, case: Case, turns: int, make: Make) -> Array:
        scores, clean = case.evaluated(turns, make), case.clean[:, None]
        before = np.concatenate([clean, scores[:, :-1]], axis=1) if self.incremental else clean
        return np.asarray(np.abs(before - scores) / np.where(clean != 0, np.abs(clean), 1.0))


def _kl(case: Case, turns: int, make: Make) -> Array:
    """``KL(p(x) || p(altered))`` in nats, over all classes, from the log-probabilities."""
    scorer = case.scorer.of("log_probability")
    clean = scorer.outputs(case.x)

    def divergence(points: Array, samples: Array) -> Array:
        was, now = clean[samples], scorer.outputs(points)
        return np.asarray((np.exp(was) * (was - now)).reshape(len(points), -1).sum(axis=1))

    return case.evaluated(turns, make, divergence)
