"""Sensitivity-n: whether the attribution of n features sums to what their removal changes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.correlation import pearson, subsets, sums_and_drops
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least, check_fill

#: The grid ends at this share of the features, as in the paper.
LARGEST_SHARE = 0.8


@metric("sensitivity_n")
class SensitivityN(Metric):
    """Pearson correlation, over random subsets of n features, of attribution and fall of the score; mean over n.

    A feature is a place with all its channels. Scored is what the method explained, not its probability.
    The coefficient is not defined where sums or falls are constant over the subsets, as with all features
    (n = N): there the curve ``error`` still says how far the two are apart.

    Args:
        sizes: n; by default `points` sizes from 1 to 80 % of the features, evenly spaced in their logarithms.
        points: Sizes of the default grid.
        subsets: Random subsets per size.
        fill: What is put in the place of removed features.
    """

    summary: ClassVar[str] = "correlation of summed attributions with the fall of the score, over random subsets"
    source: ClassVar[str] = "Ancona et al. 2018, arXiv 1711.06104, section 4"
    better: ClassVar[Better] = "higher"
    usual: ClassVar[bool] = True

    sizes: tuple[int, ...] | None = None
    points: int = 8
    subsets: int = 100
    fill: Any = 0.0

    def __post_init__(self) -> None:
        at_least("subsets", self.subsets, 2)
        at_least("points", self.points, 1)
        check_fill(self.fill)
        if self.sizes is not None and (not self.sizes or min(self.sizes) < 1):
            raise OptionError(f"sizes={self.sizes} are not possible; give numbers of features from 1")

    def measure(self, case: Case) -> Measured:
        case = case.exact
        sizes = self._sizes(case.count)
        chosen = [members for n in sizes for members in subsets(case.seed, case.count, n, self.subsets)]
        sums, falls = sums_and_drops(case, chosen, self.fill)
        shape = (len(case), len(sizes), self.subsets)
        sums, falls = sums.reshape(shape), falls.reshape(shape)
        curve = np.stack([pearson(sums[:, i], falls[:, i], case.clean) for i in range(len(sizes))], axis=1)
        error = np.abs(sums - falls).mean(axis=2)
        at = np.asarray(sizes, dtype=np.float64)
        facts = {"sizes": sizes, "subsets": self.subsets, "scored": case.head, "of": case.ranked}
        return Measured(_known_mean(curve), {"correlation": (at, curve), "error": (at, error)}, facts)

    def _sizes(self, count: int) -> list[int]:
        if self.sizes is not None:
            if max(self.sizes) > count:
                raise OptionError(
                    f"sizes={self.sizes} are not possible: there are {count} features; give at most those"
                )
            return [int(n) for n in self.sizes]
        largest = max(1, int(LARGEST_SHARE * count))
        return sorted({round(n) for n in np.geomspace(1, largest, self.points)})


def _known_mean(curve: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean of each row over what is defined; NaN where nothing is."""
    known = np.isfinite(curve)
    total = np.where(known, curve, 0.0).sum(axis=1)
    return np.asarray(np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan))
