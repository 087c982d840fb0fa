"""Energy-based localisation: which share of the positive relevance lies on the object."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric, require_masks


@metric("energy_localisation")
class EnergyLocalisation(Metric):
    """Positive part of the map on the object over all of it; NaN where the map has no positive part."""

    summary: ClassVar[str] = "share of the map's positive part that lies on the object"
    source: ClassVar[str] = "Wang et al. 2020, Score-CAM, arXiv 1910.01279, section 4.3"
    better: ClassVar[Better] = "higher"
    needs_masks: ClassVar[bool] = True

    def measure(self, case: Case) -> Measured:
        masks = case.by_place(require_masks(case, self.name))
        energy = np.maximum(case.by_place(case.saliency).astype(np.float64), 0.0)
        total = energy.sum(axis=1)
        on = (energy * masks).sum(axis=1) / np.where(total > 0, total, np.nan)
        values = np.where(masks.sum(axis=1) > 0, on, np.nan)
        # What a uniform map would score: a method must lie above it to have found anything.
        return Measured(values, facts={"uniform": float(masks.mean())})
