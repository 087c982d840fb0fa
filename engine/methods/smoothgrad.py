"""SmoothGrad: the gradient averaged over noisy copies of the input; its squares, and its variance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Method, create, method
from onnxplain.engine.methods.noisy import NoisyInput


class _NoisyGradient(NoisyInput):
    """Input noise around the gradient."""

    reduction: str = "sum_abs"

    def base(self) -> Method:
        return create("gradient", {"reduction": self.reduction})


@method("smoothgrad")
class SmoothGrad(_NoisyGradient):
    """Mean gradient over Gaussian copies of the input.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "gradient averaged over noisy copies of the input"
    source: ClassVar[str] = "Smilkov et al. 2017, arXiv 1706.03825, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity"})
    quick: ClassVar[Mapping[str, Any]] = {"draws": 10}

    draws: int = 25
    spread: float = 0.15
    reduction: str = "sum_abs"

    @property
    def averages(self) -> bool:
        return True

    def combine(self, mean: Array, variance: Array) -> Array:
        return mean

    def emit(self, op: Builder, mean: ir.Value, variance: ir.Value) -> ir.Value:
        return mean


@method("smoothgrad_squared")
class SmoothGradSquared(_NoisyGradient):
    """Mean of the squared gradient over Gaussian copies of the input.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "squared gradient averaged over noisy copies of the input"
    source: ClassVar[str] = "Hooker et al. 2019, arXiv 1806.10758, section 4"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance"})
    quick: ClassVar[Mapping[str, Any]] = {"draws": 10}

    draws: int = 25
    spread: float = 0.15
    reduction: str = "sum_abs"

    def combine(self, mean: Array, variance: Array) -> Array:
        return np.asarray(mean**2 + variance)

    def emit(self, op: Builder, mean: ir.Value, variance: ir.Value) -> ir.Value:
        return op.Add(op.Mul(mean, mean), variance)


@method("vargrad")
class VarGrad(_NoisyGradient):
    """Variance of the gradient over Gaussian copies of the input.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        unbiased: Divide by ``draws - 1``.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "variance of the gradient over noisy copies of the input"
    source: ClassVar[str] = "Adebayo et al. 2018, arXiv 1810.03307, section 2; Hooker et al. 2019, arXiv 1806.10758"
    quick: ClassVar[Mapping[str, Any]] = {"draws": 10}

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

    def emit(self, op: Builder, mean: ir.Value, variance: ir.Value) -> ir.Value:
        return op.Mul(variance, self.draws / (self.draws - 1)) if self.unbiased else variance
