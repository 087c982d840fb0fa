"""Completeness error: how far the attributions' sum is from the score that they are to explain."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.fills import emptied
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import check_fill


@metric("completeness_error")
class CompletenessError(Metric):
    """``|f(x) - f(x') - sum of the attributions|`` of the explained scalar.

    Args:
        baseline: What x' is: a number or a fill put in every place; None leaves f(x') out, as for
            decompositions of the score itself.
        relative: Divide by ``|f(x) - f(x')|``.
    """

    summary: ClassVar[str] = "distance of the attributions' sum from the score that they explain"
    source: ClassVar[str] = "Sundararajan et al. 2017, arXiv 1703.01365, axiom of completeness"
    better: ClassVar[Better] = "lower"

    baseline: Any = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        if self.baseline is not None:
            check_fill(self.baseline)

    def measure(self, case: Case) -> Measured:
        case = case.exact
        change = case.clean
        if self.baseline is not None:
            every = np.ones((1, case.count), dtype=bool)
            bare = case.evaluated(
                1, lambda samples, turns: emptied(case, samples, every.repeat(len(samples), 0), self.baseline)
            )
            change = change - bare[:, 0]
        error = np.abs(change - case.relevance.sum(axis=1))
        if self.relative:
            error = error / np.where(change != 0, np.abs(change), 1.0)
        facts: dict[str, Any] = {"scored": case.head, "of": case.ranked}
        if case.complete is not None:
            facts["own_residual"] = float(np.max(case.complete))  # of the method's own identity, terms included
        return Measured(error, facts=facts)
