"""Deletion: how fast the answer goes as the most salient places are deleted."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import area, at_least, check_fill, ranking, removed, stepped


@metric("deletion")
class Deletion(Metric):
    """Area under the curve of the score as places are deleted, the most salient first.

    Args:
        steps: Into how many steps the way is cut; the authors' 28 for batches of pictures.
        fill: What is put in their place; the authors' zero is the mean colour where inputs are normalised.
        absolute: Rank by magnitude.
    """

    summary: ClassVar[str] = "area under the score as the most salient places are deleted"
    source: ClassVar[str] = "Petsiuk et al. 2018, RISE, arXiv 1806.07421"
    better: ClassVar[Better] = "lower"
    usual: ClassVar[bool] = True

    steps: int = 28
    fill: Any = 0.0
    absolute: bool = False

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        check_fill(self.fill)

    def measure(self, case: Case) -> Measured:
        counts = stepped(case.count, self.steps)
        curve = removed(case, case.order(absolute=self.absolute), counts, self.fill)
        facts = {"ranking": ranking(case, self.absolute)}
        return Measured(area(curve), {"score": (np.asarray(counts) / case.count, curve)}, facts)
