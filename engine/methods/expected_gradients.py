"""Expected Gradients and GradientSHAP: Integrated Gradients averaged over a background, by drawing at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.background import Draws, between
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual
from onnxplain.engine.method import REDUCTIONS, Method, Parts, Plan, Run, choose, method, reduce_channels
from onnxplain.engine.paths import convergence, visit
from onnxplain.engine.shipping.background import ship_expected

#: A sum is accepted within so many of its standard errors, and within rounding.
ERRORS, ROUNDING = 3.0, 1e-4


class Expected(Method):
    """Mean of ``(x - r) grad f(r + alpha (x - r))`` over references r and alphas drawn at random."""

    walks: ClassVar[bool] = True

    draws: int = 200
    background: Any = "noise"
    reduction: str = "sum"

    @property
    def noise(self) -> float:
        """Noise on the input, as a share of its range."""
        return 0.0

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)
        if self.draws < 2:
            raise OptionError(f"draws={self.draws} is too few for a standard error; give at least 2")

    def build(self, plan: Plan) -> None:
        for name, gradient in plan.gradients().items():
            plan.output(f"gradient/{name}", gradient)

    def ship(self, plan: Plan) -> None:
        ship_expected(plan, self.background, self.draws, self.noise, self.reduction)

    def reduce(self, run: Run) -> Parts:
        tally = self._draw(run)
        mean = {n: total / self.draws for n, total in tally.first.items()}
        residual, error = self._residual(mean, tally)
        saliency = None
        if len(mean) == 1:
            ((name, array),) = mean.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction).astype(np.float32)
        return Parts(
            {n: a.astype(run.x[n].dtype) for n, a in mean.items()},
            saliency,
            residual=residual,
            baseline_score=tally.low / self.draws,
            signed=self.reduction == "sum",
            notes=[f"{self.draws} draws; standard error of the sum at most {error.max():.2g}"],
            standard_errors={n: self._error(tally.first[n], tally.second[n]) for n in mean},
        )

    def _error(self, first: Array, second: Array) -> Array:
        """Standard error of a mean, from sums of values and of squares."""
        variance = np.maximum(second / self.draws - (first / self.draws) ** 2, 0.0)
        return np.asarray(np.sqrt(variance / (self.draws - 1)))

    def _residual(self, mean: dict[str, Array], tally: _Tally) -> tuple[Residual, Array]:
        """What the drawn changes of the score leave over, against its own standard error ``[N]``."""
        change = (tally.high - tally.low) / self.draws
        error = self._error(tally.gap, tally.squared_gap)
        found = convergence(mean, change, ROUNDING)
        scale = np.where(
            found.relative > 0, np.abs(found.absolute) / np.where(found.relative > 0, found.relative, 1), 1
        )
        tolerance = max(ROUNDING, float((ERRORS * error / scale).max()))
        words = f"sum over the draws (within {ERRORS:g} standard errors)"
        return Residual(found.absolute, found.relative, words, tolerance), error

    def _draw(self, run: Run) -> _Tally:
        draws = Draws(run, self.background, self.draws, self.noise)
        tally = _Tally(run)
        keys = ["score", *(f"gradient/{n}" for n in run.x)]
        for rows, numbers in draws.blocks(run, np.arange(len(run.score))):
            samples = np.arange(len(run.score))[rows]
            low, high, alphas = draws.ends(numbers, samples)
            found = visit(run, between(low, high, alphas), samples, keys)
            parts = {n: found[f"gradient/{n}"] * (high[n] - low[n]) for n in run.x}
            bottom = _scores(run, low, samples)
            top = _scores(run, high, samples) if self.noise > 0 else np.broadcast_to(run.score[rows], bottom.shape)
            tally.add(rows, parts, bottom, top)
        return tally


class _Tally:
    """Sums over draws, per sample, float64."""

    def __init__(self, run: Run) -> None:
        self.first = {n: np.zeros(x.shape) for n, x in run.x.items()}
        self.second = {n: np.zeros(x.shape) for n, x in run.x.items()}
        self.low, self.high, self.gap, self.squared_gap = (np.zeros(len(run.score)) for _ in range(4))

    def add(self, rows: slice, parts: dict[str, Array], low: Array, high: Array) -> None:
        """Add draws: attributions ``[S, G, ...]`` and scores ``[S, G]`` at both ends."""
        for name, part in parts.items():
            self.first[name][rows] += part.sum(axis=0)
            self.second[name][rows] += np.einsum("sg...,sg...->g...", part, part)
        gap = high - low - np.sum([p.reshape(*p.shape[:2], -1).sum(axis=2) for p in parts.values()], axis=0)
        self.low[rows] += low.sum(axis=0)
        self.high[rows] += high.sum(axis=0)
        self.gap[rows] += gap.sum(axis=0)
        self.squared_gap[rows] += (gap**2).sum(axis=0)


def _scores(run: Run, points: dict[str, Array], samples: Array) -> Array:
    found = visit(run, points, samples, ["score"])["score"]
    return np.asarray(found.reshape(found.shape[:2]))


@method("expected_gradients")
class ExpectedGradients(Expected):
    """Integrated Gradients averaged over a background distribution, one point drawn per reference.

    Sums to f(x) - E f(r) up to the error of drawing, which is reported per element and for the sum. A
    background of one sample is Integrated Gradients by Monte Carlo.

    Args:
        draws: References per sample.
        background: Where references come from: ``"noise"`` (Gaussian about zero, as strong as the sample),
            ``"uniform"`` (between its extremes), an array of samples, or the path of an ``.npy`` or ``.npz``
            file with them; any baseline is taken as well. Real samples are the best choice.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "gradients averaged over random points between background samples and the input"
    source: ClassVar[str] = "Erion et al. 2021, arXiv 1906.10670, section 2"
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"completeness", "dummy", "implementation_invariance", "linearity", "sensitivity"}
    )
    quick: ClassVar[Mapping[str, Any]] = {"draws": 20}

    draws: int = 200
    background: Any = "noise"
    reduction: str = "sum"


@method("gradient_shap")
class GradientShap(Expected):
    """Expected Gradients with noise on the input: a gradient-based estimate of Shapley values.

    As in captum and shap, each draw adds Gaussian noise to the input first, then takes a random reference and
    a random point between the two.

    Args:
        draws: References per sample.
        background: As for ``expected_gradients``.
        spread: Standard deviation of the noise, as a share of the sample's range; 0 is Expected Gradients.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "Expected Gradients of noisy copies of the input"
    source: ClassVar[str] = "Lundberg and Lee 2017, arXiv 1705.07874; Erion et al. 2021, arXiv 1906.10670"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity", "sensitivity"})
    quick: ClassVar[Mapping[str, Any]] = {"draws": 20}

    draws: int = 200
    background: Any = "noise"
    spread: float = 0.1
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread < np.inf:
            raise OptionError(f"spread={self.spread} is not possible; give a share of the input's range, such as 0.1")

    @property
    def noise(self) -> float:
        return self.spread
