"""Pixel perturbation: how far the answer moves when the most, or the least, salient places are removed."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.fills import FILLS, filled
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.method import choose


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
    """

    summary: ClassVar[str] = "change of the score when the least (or most) salient places are removed"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780, section 5.1; Samek et al. 2017"
    better: ClassVar[Better] = "lower"
    usual: ClassVar[bool] = True

    fractions: tuple[float, ...] = (0.01, 0.03, 0.05, 0.07, 0.1)
    order: str = "least"
    fill: Any = 0.0
    absolute: bool = False

    def __post_init__(self) -> None:
        choose("order", self.order, ("least", "most"))
        if isinstance(self.fill, str):
            choose("fill", self.fill, FILLS)
        if not self.fractions or not all(0 <= f <= 1 for f in self.fractions):
            raise OptionError(f"fractions={self.fractions} are not possible; give shares from 0 to 1")

    def measure(self, case: Case) -> Measured:
        order = case.order(absolute=self.absolute)
        order = order[:, ::-1] if self.order == "least" else order
        counts = [round(f * case.count) for f in self.fractions]

        def alter(x: Any, n: int, turn: int) -> Any:
            return filled(case, x, n, order[n, : counts[turn]], self.fill)

        scores = case.scored(len(counts), alter)
        clean = case.clean[:, None]
        change = np.abs(clean - scores) / np.where(clean != 0, np.abs(clean), 1.0)
        facts = {"ranking": "absolute" if self.absolute or not case.signed else "signed", "first": self.order}
        return Measured(change.mean(axis=1), {"change": (np.asarray(self.fractions), change)}, facts)
