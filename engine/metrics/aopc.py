"""AOPC: area over the perturbation curve, region by region or pixel by pixel."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.fills import emptied
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least, check_fill, ranking
from onnxplain.engine.evaluation.tiles import tile_means, tiles
from onnxplain.engine.explanation import Array


@metric("aopc")
class Aopc(Metric):
    """Mean over steps of how far the score has fallen, ``sum_k (f(x) - f(x_k)) / (L + 1)``, k = 0..L.

    Regions are squares that tile the input; they go in the order of their mean relevance, the most relevant first.

    Args:
        steps: L: how many regions go, one after the other; at most all of them.
        region: Side of a region in places; 1 is pixel flipping, 0 the authors' share of the longest axis (9 of 227).
        fill: What is put in their place; the authors' is ``noise``.
        absolute: Rank by magnitude.
    """

    summary: ClassVar[str] = "area over the perturbation curve: mean fall of the score, most relevant regions first"
    source: ClassVar[str] = (
        "Samek et al. 2017, Evaluating the Visualization of What a DNN Has Learned, arXiv 1509.06321"
    )
    better: ClassVar[Better] = "higher"

    steps: int = 100
    region: int = 0
    fill: Any = "noise"
    absolute: bool = False

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("region", self.region, 0)
        check_fill(self.fill)

    def measure(self, case: Case) -> Measured:
        sizes = [case.x.shape[a] for a in case.places]
        side = self.region or max(1, round(max(sizes) * 9 / 227))
        tile = tiles(sizes, side).reshape(-1)
        steps = min(self.steps, int(tile.max()) + 1)
        turn_of = self._turns(case, tile)
        scores = case.evaluated(
            steps + 1, lambda samples, turns: emptied(case, samples, turn_of[samples] < turns[:, None], self.fill)
        )
        fall = case.clean[:, None] - scores
        facts = {"ranking": ranking(case, self.absolute), "region": side, "steps": steps}
        return Measured(fall.mean(axis=1), {"fall": (np.arange(steps + 1.0), fall)}, facts)

    def _turns(self, case: Case, tile: Array) -> Array:
        """At which turn each place goes, ``[N, P]``; ties between regions in an order that the seed draws."""
        rows = case.by_place(np.abs(case.saliency) if self.absolute else case.saliency)
        means = tile_means(rows, tile)
        order = [np.lexsort((generator(case.seed, n).random(means.shape[1]), -row)) for n, row in enumerate(means)]
        return np.asarray(np.argsort(order, axis=1)[:, tile])
