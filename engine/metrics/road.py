"""ROAD: removal and debiasing, with imputation by neighbours so that the shape of what is removed tells nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import check_fill, check_shares, ranking, removed


@metric("road")
class Road(Metric):
    """``(score without the least salient - score without the most salient) / 2``, mean over the shares removed.

    Args:
        shares: Of the places that are removed.
        fill: What is put in their place; the authors' is ``noisy_linear``.
        absolute: Rank by magnitude.
    """

    summary: ClassVar[str] = "least against most salient places removed, imputed from their neighbours"
    source: ClassVar[str] = "Rong et al. 2022, A Consistent and Efficient Evaluation Strategy, arXiv 2202.00449"
    better: ClassVar[Better] = "higher"

    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    fill: Any = "noisy_linear"
    absolute: bool = False

    def __post_init__(self) -> None:
        check_shares("shares", self.shares)
        check_fill(self.fill)

    def measure(self, case: Case) -> Measured:
        order = case.order(absolute=self.absolute)
        counts = [round(s * case.count) for s in self.shares]
        most = removed(case, order, counts, self.fill)
        least = removed(case, order[:, ::-1], counts, self.fill)
        at = np.asarray(self.shares)
        facts = {"ranking": ranking(case, self.absolute)}
        return Measured((least - most).mean(axis=1) / 2, {"most": (at, most), "least": (at, least)}, facts)
