"""Agreement: how alike a method's map is to that of another method."""

from __future__ import annotations

from typing import ClassVar

from onnxplain.engine.evaluation.agreement import MEASURES, likeness
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.data import Dataset
from onnxplain.engine.evaluation.evaluate import explained
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import check_shares
from onnxplain.engine.method import choose


@metric("agreement")
class Agreement(Metric):
    """Likeness of the map to that of another method on the same samples, under the same seed.

    For every pair of a list of methods see :func:`onnxplain.engine.evaluation.agreement.agreement`.

    Args:
        other: The other method, with its default options; ``random`` and ``edges`` know nothing of the model.
        by: ``spearman``, ``spearman_absolute``, ``cosine``, ``ssim``, ``hog``, or ``top_k``: share of the most salient
            places in common.
        top: Share of the places that count as most salient.
    """

    summary: ClassVar[str] = "likeness of the map to another method's: ranks, structure or most salient places"
    source: ClassVar[str] = "rank correlation; Wang et al. 2004 (SSIM); Krishna et al. 2022, arXiv 2202.01602 (top-k)"
    better: ClassVar[Better] = "none"

    other: str = "gradient"
    by: str = "spearman"
    top: float = 0.1

    def __post_init__(self) -> None:
        choose("by", self.by, MEASURES)
        check_shares("top", (self.top,))

    def measure(self, case: Case) -> Measured:
        samples = Dataset(case.x, None, None, [str(n) for n in range(len(case))], [None] * len(case))
        scorer = case.scorer
        other = explained(
            scorer.model,
            scorer,
            samples,
            case.target,
            self.other,
            {},
            case.seed,
            scorer.output,
            case.head,
            scorer.layout,
        )
        values = likeness(case.saliency, other.saliency, self.by, top=self.top, seed=case.seed)
        return Measured(values, facts={"other": self.other, "by": self.by})
