"""SmoothGrad: the gradient averaged over noisy copies of the input; its squares, and its variance."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import REDUCTIONS, STAGING_BYTES, Method, Parts, Plan, Run, choose, method, reduce_channels
from onnxplain.engine.noise import add_by_sample, noisy_blocks


class _Smoothed(Method):
    """Means of the gradient and of its square over noisy copies; the target is the clean input's."""

    walks: ClassVar[bool] = True

    draws: int = 25
    spread: float = 0.15
    reduction: str = "sum_abs"

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)
        if self.draws < 1:
            raise OptionError(f"draws={self.draws} must be at least 1")
        if not 0 <= self.spread < np.inf:
            raise OptionError(f"spread={self.spread} is not possible; give a share of the input's range, such as 0.15")

    def build(self, plan: Plan) -> None:
        for name, gradient in plan.gradients().items():
            plan.output(f"gradient/{name}", gradient)

    def combine(self, mean: Array, variance: Array) -> Array:
        """The attribution from the mean gradient and its variance."""
        raise NotImplementedError

    def reduce(self, run: Run) -> Parts:
        # Deviations from the clean gradient, so that a variance is no difference of two large means.
        clean = {n: run.outputs[f"gradient/{n}"].astype(np.float64) for n in run.x}
        first = {n: np.zeros_like(g) for n, g in clean.items()}
        second = {n: np.zeros_like(g) for n, g in clean.items()}
        for places, samples in noisy_blocks(run.x, self.draws, self.spread, run.seed, STAGING_BYTES):
            found = run.evaluate(places, samples, [f"gradient/{n}" for n in run.x])
            for n in run.x:
                moved = found[f"gradient/{n}"] - clean[n][samples]
                add_by_sample(first[n], samples, moved)
                add_by_sample(second[n], samples, moved**2)
        attributions = {}
        for n, g in clean.items():
            shift, variance = first[n] / self.draws, second[n] / self.draws - (first[n] / self.draws) ** 2
            attributions[n] = self.combine(g + shift, np.maximum(variance, 0.0)).astype(run.x[n].dtype)
        saliency = None
        if len(attributions) == 1:
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction)
        return Parts(attributions, saliency, signed=self.reduction == "sum")


@method("smoothgrad")
class SmoothGrad(_Smoothed):
    """Mean gradient over Gaussian copies of the input.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "gradient averaged over noisy copies of the input"
    source: ClassVar[str] = "Smilkov et al. 2017, arXiv 1706.03825, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "linearity"})

    draws: int = 25
    spread: float = 0.15
    reduction: str = "sum_abs"

    def combine(self, mean: Array, variance: Array) -> Array:
        return mean


@method("smoothgrad_squared")
class SmoothGradSquared(_Smoothed):
    """Mean of the squared gradient over Gaussian copies of the input.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "squared gradient averaged over noisy copies of the input"
    source: ClassVar[str] = "Hooker et al. 2019, arXiv 1806.10758, section 4"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy"})

    draws: int = 25
    spread: float = 0.15
    reduction: str = "sum_abs"

    def combine(self, mean: Array, variance: Array) -> Array:
        return np.asarray(mean**2 + variance)


@method("vargrad")
class VarGrad(_Smoothed):
    """Variance of the gradient over Gaussian copies of the input.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        unbiased: Divide by ``draws - 1``.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "variance of the gradient over noisy copies of the input"
    source: ClassVar[str] = "Adebayo et al. 2018, arXiv 1810.03307, section 2; Hooker et al. 2019, arXiv 1806.10758"

    draws: int = 25
    spread: float = 0.15
    unbiased: bool = False
    reduction: str = "sum_abs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unbiased and self.draws < 2:
            raise OptionError("unbiased=True needs draws of at least 2")

    def combine(self, mean: Array, variance: Array) -> Array:
        return variance * (self.draws / (self.draws - 1)) if self.unbiased else variance
