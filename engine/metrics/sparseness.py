"""Sparseness: the Gini index of the attributions' magnitudes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric


@metric("sparseness")
class Sparseness(Metric):
    """Gini index of the map's magnitudes: 0 for a uniform map, ``1 - 1/P`` for one place; NaN for a map of zeros."""

    summary: ClassVar[str] = "Gini index of the map: few places that matter, or all alike"
    source: ClassVar[str] = "Chalasani et al. 2020, Concise Explanations of Neural Networks, arXiv 1810.06583"
    better: ClassVar[Better] = "none"

    def measure(self, case: Case) -> Measured:
        rows = np.sort(np.abs(case.by_place(case.saliency).astype(np.float64)), axis=1)
        count = rows.shape[1]
        total = rows.sum(axis=1)
        weighted = ((2 * np.arange(1, count + 1) - count - 1) * rows).sum(axis=1)
        return Measured(weighted / (count * np.where(total > 0, total, np.nan)))
