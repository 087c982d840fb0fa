"""RectGrad: a signal passes a ReLU only where activation times signal lies above a threshold."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Variant, method
from onnxplain.engine.methods.rectified import RectifiedMethod
from onnxplain.engine.propagation.composite import Composite
from onnxplain.engine.propagation.rectified import proportional_pooling, rectified, without_borders


@method("rectgrad")
class RectGrad(RectifiedMethod):
    """At every ReLU ``dx = dy 1[y dy > tau]``; the attribution is the input times what arrives.

    A net without ReLU is refused. A layer with few units has none above its 98th percentile, and nothing
    passes it; lower the percentile there. With ``tau=0`` this is Guided Backpropagation times the input.

    Args:
        percentile: tau is this percentile of ``y dy`` over each layer, sample by sample.
        tau: A constant threshold in place of the percentile.
        magnitude: Compare ``|y dy|``, so that strong negative signals pass as well.
        padding_trick: Before a convolution that keeps the size, drop the outermost cells of the signal, as the
            authors' code does against what padding makes of them.
        proportional: Max pooling hands back to each element by its share of the window's sum, in the place of
            all to the largest (the authors' PRR).
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "input times a gradient of which only the strongest share passes each ReLU"
    source: ClassVar[str] = "Kim et al. 2019, arXiv 1902.04893, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy"})
    variants: ClassVar[tuple[Variant, ...]] = (Variant({"tau": 0.0}, frozenset({"dummy"})),)

    percentile: float = 98.0
    tau: float | None = None
    magnitude: bool = False
    padding_trick: bool = False
    proportional: bool = False
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.percentile <= 100:
            raise OptionError(f"percentile={self.percentile} is not possible; give a number from 0 to 100")
        if self.tau is not None and not np.isfinite(self.tau):
            raise OptionError(f"tau={self.tau} is not possible; give a finite number, or None for the percentile")

    def rules(self) -> Composite:
        found = rectified(self.percentile if self.tau is None else None, self.tau or 0.0, self.magnitude)
        further = [without_borders()] if self.padding_trick else []
        further += [proportional_pooling()] if self.proportional else []
        return Composite([*found.overrides, *further])

    def attribute(self, op: Builder, signal: ir.Value, x: ir.Value) -> ir.Value:
        return op.Mul(signal, x)
