"""Input noise around any method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Method, choose, create, method
from onnxplain.engine.methods.noisy import NoisyInput

KINDS = ("mean", "square", "variance")


@method("smoothed")
class Smoothed(NoisyInput):
    """Another method's attributions and map, averaged over Gaussian copies of the input.

    With ``around="gradient"`` it is SmoothGrad, its square or VarGrad. The target is the clean input's. A map
    that is a reduction of the attributions is the reduction of their average; others are averaged themselves.

    Args:
        around: Name of the other method.
        inner: Its options; on the command line also one by one, as ``-O smoothed.inner.steps=20``.
        kind: ``mean``; ``square``: mean of squares; ``variance``.
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
    """

    summary: ClassVar[str] = "any method averaged over noisy copies of the input"
    source: ClassVar[str] = "Smilkov et al. 2017, arXiv 1706.03825; Adebayo et al. 2018, arXiv 1810.03307"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity"})
    quick: ClassVar[Mapping[str, Any]] = {"draws": 5}

    around: str = "gradient"
    inner: Any = None
    kind: str = "mean"
    draws: int = 25
    spread: float = 0.15

    def __post_init__(self) -> None:
        choose("kind", self.kind, KINDS)
        if self.inner is not None and not isinstance(self.inner, Mapping):
            raise OptionError(f"inner={self.inner!r} is not possible; give the inner method's options as a dictionary")
        super().__post_init__()

    def base(self) -> Method:
        return create(self.around, self.inner or {})

    @property
    def averages(self) -> bool:
        return self.kind == "mean"

    def combine(self, mean: Array, variance: Array) -> Array:
        if self.kind == "mean":
            return mean
        return variance if self.kind == "variance" else np.asarray(mean**2 + variance)

    def emit(self, op: Builder, mean: ir.Value, variance: ir.Value) -> ir.Value:
        return variance if self.kind == "variance" else op.Add(op.Mul(mean, mean), variance)
