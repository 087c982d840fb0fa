"""Insertion: how fast the answer comes back as a blurred input regains its most salient places."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import area, at_least, pasted, ranking, stepped
from onnxplain.engine.gaussian import blurred


@metric("insertion")
class Insertion(Metric):
    """Area under the curve of the score as places are pasted into a blurred input, the most salient first.

    Args:
        steps: Into how many steps the way is cut; the authors' 28 for batches of pictures.
        sigma: Standard deviation of the blur, in places.
        radius: Where its kernel ends, in places: 5 is the authors' kernel of 11 by 11. Beyond the border is zero.
        absolute: Rank by magnitude.
    """

    summary: ClassVar[str] = "area under the score as a blurred input regains its most salient places"
    source: ClassVar[str] = "Petsiuk et al. 2018, RISE, arXiv 1806.07421"
    better: ClassVar[Better] = "higher"
    usual: ClassVar[bool] = True

    steps: int = 28
    sigma: float = 5.0
    radius: int = 5
    absolute: bool = False

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("sigma", self.sigma, 0)
        at_least("radius", self.radius, 1)

    def measure(self, case: Case) -> Measured:
        counts = stepped(case.count, self.steps)
        cut = self.radius / self.sigma if self.sigma else 1.0
        start = blurred(case.x, case.places, self.sigma, border="zero", truncate=cut)
        curve = pasted(case, case.order(absolute=self.absolute), counts, start, case.x)
        facts = {"ranking": ranking(case, self.absolute)}
        return Measured(area(curve), {"score": (np.asarray(counts) / case.count, curve)}, facts)
