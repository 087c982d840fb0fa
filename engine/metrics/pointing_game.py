"""Pointing game: whether the most salient place lies on the object."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric, require_masks
from onnxplain.engine.evaluation.removal import at_least, ranking


@metric("pointing_game")
class PointingGame(Metric):
    """1 where the most salient place is on the object or near it, else 0; among equals the seed chooses.

    Args:
        tolerance: How far beside the object still counts, in places; the authors' is 15 on pictures of 224.
        absolute: Rank by magnitude.
    """

    summary: ClassVar[str] = "whether the most salient place lies on the object"
    source: ClassVar[str] = "Zhang et al. 2018, Top-down Neural Attention by Excitation Backprop, arXiv 1608.00507"
    better: ClassVar[Better] = "higher"
    needs_masks: ClassVar[bool] = True

    tolerance: float = 0.0
    absolute: bool = False

    def __post_init__(self) -> None:
        at_least("tolerance", self.tolerance, 0)

    def measure(self, case: Case) -> Measured:
        masks = require_masks(case, self.name)
        tops = case.order(absolute=self.absolute)[:, 0]
        values = np.full(len(case), np.nan)
        for n, (top, mask) in enumerate(zip(tops, masks, strict=True)):
            inside = np.argwhere(mask > 0.5)
            if len(inside):  # without an object there is nothing to point at
                place = np.array(np.unravel_index(top, mask.shape))
                values[n] = float(np.sqrt(((inside - place) ** 2).sum(axis=1)).min() <= self.tolerance)
        return Measured(values, facts={"ranking": ranking(case, self.absolute)})
