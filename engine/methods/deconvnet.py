"""DeconvNet: the backward pass with a ReLU on what comes back, in place of the forward ReLU's gate."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import method
from onnxplain.engine.methods.rectified import RectifiedMethod
from onnxplain.engine.propagation.composite import Composite
from onnxplain.engine.propagation.rectified import deconvolution


@method("deconvnet")
class DeconvNet(RectifiedMethod):
    """At every ReLU ``dx = relu(dy)``, elsewhere the gradient; a net without ReLU is refused.

    Args:
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "what comes back through the net with a ReLU in each ReLU's place"
    source: ClassVar[str] = "Zeiler and Fergus 2014, arXiv 1311.2901, section 2.1"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "weak_dependence"})

    reduction: str = "sum_abs"

    def rules(self) -> Composite:
        return deconvolution()

    def attribute(self, op: Builder, signal: ir.Value, x: ir.Value) -> ir.Value:
        return signal
