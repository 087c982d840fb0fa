"""RISE: random smooth masks, each weighed by the score that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.coarse_masks import CoarseMasks
from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.masks import score_blocks
from onnxplain.engine.method import Parts, Plan, Run, deliver, method
from onnxplain.engine.methods.perturbation import Perturbation
from onnxplain.engine.paths import baseline_sets
from onnxplain.engine.shipping.drawn import fixed_sizes
from onnxplain.engine.shipping.variants import one_baseline, ship_masks


@method("rise")
class RISE(Perturbation):
    """Mean over random masks of score times mask, over the share that masks keep.

    A mask is a coarse grid of zeros and ones, enlarged linearly and shifted at random; axes of at most
    ``cells`` places, features of tables and tokens of texts are drawn one by one. What a place gets is the expected score
    where that place is seen, so that values are large everywhere and only their differences tell. All
    channels of a place share its mask, and its value in equal parts. The paper explains a probability:
    ``head="probability"``. Standard errors are those of the mean over masks.

    Args:
        draws: Masks per sample.
        cells: Of the coarse grid, along each axis.
        keep: Probability that a cell is kept.
        baseline: What hidden places fade to: see :mod:`onnxplain.engine.baselines`.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "expected score where a place is seen, over random masks; forward passes alone"
    source: ClassVar[str] = "Petsiuk et al. 2018, arXiv 1806.07421, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"implementation_invariance", "linearity"})
    quick: ClassVar[Mapping[str, Any]] = {"draws": 300}

    draws: int = 6000
    cells: int = 8
    keep: float = 0.1
    baseline: Any = "zero"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.cells < 1:
            raise OptionError(f"draws={self.draws} and cells={self.cells} must be at least 1")
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep={self.keep} is no probability above 0; give for example 0.5")

    def ship(self, plan: Plan) -> None:
        start = one_baseline(plan, self.baseline)
        masks = {s.name: CoarseMasks(fixed_sizes(s), s.labels, self.cells, self.keep) for s in plan.subjects}
        deliver(plan, ship_masks(plan, start, self.draws, masks), self.reduction)

    def reduce(self, run: Run) -> Parts:
        sets = baseline_sets(self.baseline, run)
        if len(sets) != 1:
            raise OptionError(f"baseline={self.baseline!r} stands for {len(sets)} baselines; give one")
        sums = {n: np.zeros((2, len(run.score), *self._mask(run, n, 0).shape)) for n in run.x}
        waiting: dict[tuple[str, int, int], Array] = {}  # the masks of the block that is being scored

        def change(point: dict[str, Array], sample: int, turn: int) -> None:
            for name, array in point.items():
                low = sets[0][name][sample]
                mask = waiting[name, sample, turn] = self._mask(run, name, turn)
                array[...] = low + mask * (array - low)

        for samples, turns, scores in score_blocks(run, self.draws, change):
            for sample, turn, score in zip(samples.tolist(), turns.tolist(), scores.tolist(), strict=True):
                for name in run.x:
                    gain = waiting.pop((name, sample, turn)).astype(np.float64) * (score / self.keep)
                    sums[name][0][sample] += gain
                    sums[name][1][sample] += gain**2
        return self._parts(run, sums)

    def _parts(self, run: Run, sums: dict[str, Array]) -> Parts:
        attributions, errors = {}, {}
        for name, (total, squares) in sums.items():
            x = run.x[name]
            share = total[0].size / x[0].size  # a place's value in equal parts over its channels
            mean = total / self.draws
            spread = np.sqrt(np.maximum(squares / self.draws - mean**2, 0.0) / max(self.draws - 1, 1))
            attributions[name] = np.broadcast_to(mean * share, x.shape)
            errors[name] = np.broadcast_to(spread * share, x.shape)
        return self.parts(
            run, attributions, errors if self.draws > 1 else None, signed=False, notes=[f"{self.draws} masks"]
        )

    def _mask(self, run: Run, name: str, turn: int) -> Array:
        rng = generator(run.seed, turn, list(run.x).index(name))
        return CoarseMasks(run.x[name].shape[1:], run.labels[name], self.cells, self.keep).mask(rng)
