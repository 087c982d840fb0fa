"""Guided Backpropagation: the gradient with what comes back negative set to zero at every ReLU."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import method
from onnxplain.engine.methods.rectified import RectifiedMethod
from onnxplain.engine.propagation.composite import Composite
from onnxplain.engine.propagation.rectified import guided


@method("guided_backprop")
class GuidedBackprop(RectifiedMethod):
    """At every ReLU ``dx = relu(dy) 1[x > 0]``, elsewhere the gradient; a net without ReLU is refused.

    Args:
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "gradient of which only what stays positive passes each ReLU"
    source: ClassVar[str] = "Springenberg et al. 2015, arXiv 1412.6806, section 3.4"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "weak_dependence"})

    reduction: str = "sum_abs"

    def rules(self) -> Composite:
        return guided()

    def attribute(self, op: Builder, signal: ir.Value, x: ir.Value) -> ir.Value:
        return signal
