"""Infidelity: squared distance between what an explanation predicts of a perturbation and what happens."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.correlation import membership
from onnxplain.engine.evaluation.fills import emptied
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import choose


@metric("infidelity")
class Infidelity(Metric):
    """``E[(predicted fall - (f(x) - f(x - I)))^2]`` over perturbations I, of the explained scalar.

    Attributions that are shares of the score (``squares``) predict the sum over the places that are set to zero;
    attributions that are slopes, like a gradient (``noise``), predict ``<I, R>``.

    Args:
        perturbation: ``squares``: squares of side 1 to 10, drawn at random, are set to zero (the authors' global
            setting; stretches on series). ``noise``: x is replaced by ``clip(N(0, spread^2), lowest, highest)``, so
            that I is x minus that (their local setting).
        samples: Perturbations.
        scaled: Predictions are multiplied by what fits them best, one number per sample, so that the measure does
            not depend on the attributions' scale. So do the authors.
        spread: Standard deviation of the noise, as a share of the data's range.
        largest: Side of the largest square.
    """

    summary: ClassVar[str] = "squared error of what the attributions predict of perturbations"
    source: ClassVar[str] = "Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations, arXiv 1901.09392"
    better: ClassVar[Better] = "lower"

    perturbation: str = "squares"
    samples: int = 200
    scaled: bool = True
    spread: float = 0.2
    largest: int = 10

    def __post_init__(self) -> None:
        choose("perturbation", self.perturbation, ("squares", "noise"))
        at_least("samples", self.samples, 2)
        at_least("spread", self.spread, 0)
        at_least("largest", self.largest, 1)

    def measure(self, case: Case) -> Measured:
        case = case.exact
        predicted, scores = self._squares(case) if self.perturbation == "squares" else self._noise(case)
        fall = case.clean[:, None] - scores
        factor = np.ones((len(case), 1))
        if self.scaled:
            square = (predicted**2).sum(axis=1, keepdims=True)
            factor = (predicted * fall).sum(axis=1, keepdims=True) / np.where(square > 0, square, 1.0)
        facts = {"perturbations": predicted.shape[1], "scaled": self.scaled, "scored": case.head, "of": case.ranked}
        return Measured(((factor * predicted - fall) ** 2).mean(axis=1), facts=facts)

    def _squares(self, case: Case) -> tuple[Array, Array]:
        """Predicted falls and scores, ``[N, K]``."""
        sizes = [case.x.shape[a] for a in case.places]
        places = np.arange(case.count).reshape(sizes)
        random = generator(case.seed, 3)
        chosen = []
        for _ in range(self.samples):
            # Smaller squares have more positions and come up as often as they would among all squares.
            sides = np.arange(1, self.largest + 1)
            counts = np.array([np.prod([max(1, n - s + 1) for n in sizes]) for s in sides], dtype=np.float64)
            side = int(random.choice(sides, p=counts / counts.sum()))
            starts = [int(random.integers(max(1, n - side + 1))) for n in sizes]
            chosen.append(places[tuple(slice(s, s + side) for s in starts)].reshape(-1))
        rows = membership(chosen, case.count)
        gone = rows.astype(bool)
        scores = case.evaluated(len(chosen), lambda samples, turns: emptied(case, samples, gone[turns], 0.0))
        return case.relevance @ rows.T, scores

    def _noise(self, case: Case) -> tuple[Array, Array]:
        low, high = float(case.x.min()), float(case.x.max())
        drawn = [
            np.clip(generator(case.seed, 4, k).normal(0.0, self.spread * (high - low), case.x.shape[1:]), low, high)
            for k in range(self.samples)
        ]
        noise = np.stack(drawn).astype(case.x.dtype)
        scores = case.evaluated(len(noise), lambda samples, turns: noise[turns])
        parts = case.parts.reshape(len(case), -1)
        kept = (parts * case.x.reshape(len(case), -1)).sum(axis=1, keepdims=True)
        return kept - parts @ noise.reshape(len(noise), -1).T.astype(np.float64), scores
