"""Complexity: the entropy of the attributions' magnitudes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric


@metric("complexity")
class Complexity(Metric):
    """Entropy in nats of the map's magnitudes as shares: 0 for one place, ``log P`` for all alike; NaN for zeros."""

    summary: ClassVar[str] = "entropy of the map: how many places one would have to look at"
    source: ClassVar[str] = "Bhatt et al. 2020, Evaluating and Aggregating Feature-based Model Explanations"
    better: ClassVar[Better] = "none"

    def measure(self, case: Case) -> Measured:
        rows = np.abs(case.by_place(case.saliency).astype(np.float64))
        total = rows.sum(axis=1, keepdims=True)
        share = rows / np.where(total > 0, total, np.nan)
        return Measured(-(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1))
