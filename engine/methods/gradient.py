"""Gradient, absolute gradient and input times gradient."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Direct, Plan, method


class _GradientBased(Direct):
    """One reverse sweep; the subclass says what becomes of the gradient."""

    reduction: str = "sum_abs"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        """Emit the attribution from the gradient."""
        raise NotImplementedError

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        gradients = plan.gradients()
        return {s.name: self.attribute(plan.rewriter.op, gradients[s.name], s.value) for s in plan.subjects}


@method("gradient")
class Gradient(_GradientBased):
    """Gradient of the score with respect to the input.

    Args:
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "gradient of the score with respect to the input"
    source: ClassVar[str] = "Simonyan et al. 2013, arXiv 1312.6034, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity", "weak_dependence"})

    reduction: str = "sum_abs"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        return gradient


@method("absolute_gradient")
class AbsoluteGradient(_GradientBased):
    """Magnitude of the gradient; the map takes the largest channel, as the original did.

    Args:
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "magnitude of the gradient"
    source: ClassVar[str] = "Simonyan et al. 2013, arXiv 1312.6034, section 3.1"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "weak_dependence"})

    reduction: str = "max_abs"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        return op.Abs(gradient)


@method("input_x_gradient")
class InputTimesGradient(_GradientBased):
    """Input times gradient; signed, summed over channels for the map.

    Args:
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "input times gradient"
    source: ClassVar[str] = "Shrikumar et al. 2016, arXiv 1605.01713; the modified-gradient framework, arXiv 1711.06104"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity"})

    reduction: str = "sum"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        return op.Mul(gradient, x)
