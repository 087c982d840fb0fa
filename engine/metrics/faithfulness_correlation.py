"""Faithfulness correlation: attributions of random subsets of one size against the fall of the score."""

from __future__ import annotations

from typing import Any, ClassVar

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.correlation import pearson, subsets, sums_and_drops
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least, check_fill, check_shares


@metric("faithfulness_correlation")
class FaithfulnessCorrelation(Metric):
    """Pearson correlation over random subsets of a fixed size, of summed attribution and fall of the score.

    Args:
        share: Size of a subset, as a share of the places.
        runs: Number of subsets.
        fill: What is put in their place.
    """

    summary: ClassVar[str] = "correlation of summed attributions with the fall of the score, at one subset size"
    source: ClassVar[str] = "Bhatt et al. 2020, Evaluating and Aggregating Feature-based Model Explanations"
    better: ClassVar[Better] = "higher"

    share: float = 0.2
    runs: int = 100
    fill: Any = "mean"

    def __post_init__(self) -> None:
        check_shares("share", (self.share,))
        at_least("runs", self.runs, 2)
        check_fill(self.fill)

    def measure(self, case: Case) -> Measured:
        size = max(1, round(self.share * case.count))
        chosen = list(subsets(case.seed, case.count, size, self.runs))
        facts = {"size": size, "subsets": self.runs, "scored": case.scorer.head, "of": case.ranked}
        return Measured(pearson(*sums_and_drops(case, chosen, self.fill), case.clean), facts=facts)
