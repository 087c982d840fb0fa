"""MuFidelity: rank correlation of the attribution of random cells of a grid with the fall of the score."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.correlation import spearman, subsets, sums_and_drops
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least, check_fill, check_shares
from onnxplain.engine.evaluation.tiles import grid


@metric("mu_fidelity")
class MuFidelity(Metric):
    """Spearman correlation over random subsets of a grid's cells, of summed attribution and fall of the score.

    Args:
        cells: Cells along each axis of places; 0 makes every place one.
        share: Size of a subset, as a share of the cells.
        runs: Number of subsets.
        fill: What is put in their place.
    """

    summary: ClassVar[str] = "rank correlation of summed attributions with the fall of the score, over grid cells"
    source: ClassVar[str] = "Bhatt et al. 2020; in this form Fel et al. 2021, arXiv 2111.04138"
    better: ClassVar[Better] = "higher"

    cells: int = 9
    share: float = 0.2
    runs: int = 200
    fill: Any = 0.0

    def __post_init__(self) -> None:
        at_least("cells", self.cells, 0)
        check_shares("share", (self.share,))
        at_least("runs", self.runs, 2)
        check_fill(self.fill)

    def measure(self, case: Case) -> Measured:
        sizes = [case.x.shape[a] for a in case.places]
        cell = grid(sizes, self.cells or max(sizes)).reshape(-1)
        count = int(cell.max()) + 1
        size = max(1, round(self.share * count))
        chosen = [np.flatnonzero(np.isin(cell, s)) for s in subsets(case.seed, count, size, self.runs)]
        facts = {"cells": count, "size": size, "subsets": self.runs, "scored": case.scorer.head, "of": case.ranked}
        return Measured(spearman(*sums_and_drops(case, chosen, self.fill), case.clean), facts=facts)
