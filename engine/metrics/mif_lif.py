"""MIF and LIF: most and least influential places removed first, and the gain of one over the other."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import area, at_least, check_fill, ranking, removed, stepped


@metric("mif_lif")
class MifLif(Metric):
    """Symmetric relevance gain: area under the score with the least influential first, less that with the most.

    The difference cancels much of what the fill itself does to the score. Where all is removed both curves meet.

    Args:
        steps: Into how many steps the way is cut.
        fill: What is put in their place.
        absolute: Rank by magnitude.
    """

    summary: ClassVar[str] = "symmetric relevance gain: least minus most influential places removed first"
    source: ClassVar[str] = "Blücher et al. 2024, Decoupling Pixel Flipping and Occlusion Strategy, arXiv 2401.06654"
    better: ClassVar[Better] = "higher"

    steps: int = 20
    fill: Any = "mean"
    absolute: bool = False

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        check_fill(self.fill)

    def measure(self, case: Case) -> Measured:
        order = case.order(absolute=self.absolute)
        counts = stepped(case.count, self.steps)
        most = removed(case, order, counts, self.fill)
        least = removed(case, order[:, ::-1], counts, self.fill)
        at = np.asarray(counts) / case.count
        facts = {
            "ranking": ranking(case, self.absolute),
            "mif": float(area(most).mean()),
            "lif": float(area(least).mean()),
        }
        return Measured(area(least) - area(most), {"mif": (at, most), "lif": (at, least)}, facts)
