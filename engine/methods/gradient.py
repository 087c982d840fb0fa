"""Gradient, absolute gradient and input times gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir

from onnxplain.engine.backward import Lookup, gradients
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Plan, method
from onnxplain.engine.methods.composed import ComposedMethod
from onnxplain.engine.propagation.balanced import balanced


class _GradientBased(ComposedMethod):
    """One reverse sweep; the subclass says what becomes of the gradient."""

    reduction: str = "sum_abs"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        """Emit the attribution from the gradient."""
        raise NotImplementedError

    def rules(self) -> Lookup:
        """The rules of the sweep where no composite names another one."""
        return gradients

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        self.place_layers(plan)
        found = plan.gradients(self.rules() if self.entries is None else self.entries.composite(self.rules()))
        plan.memo["notes"] = self.describe_entries(plan)
        return {s.name: self.attribute(plan.rewriter.op, found[s.name], s.value) for s in plan.subjects}


@method("gradient")
class Gradient(_GradientBased):
    """Gradient of the score with respect to the input.

    Args:
        composite: Other rules at some nodes: a TOML file or entries; see docs/composites.md.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "gradient of the score with respect to the input"
    source: ClassVar[str] = "Simonyan et al. 2013, arXiv 1312.6034, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity", "weak_dependence"})

    composite: Any = None
    reduction: str = "sum_abs"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        return gradient


@method("absolute_gradient")
class AbsoluteGradient(_GradientBased):
    """Magnitude of the gradient; the map takes the largest channel, as the original did.

    Args:
        composite: Other rules at some nodes: a TOML file or entries; see docs/composites.md.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "magnitude of the gradient"
    source: ClassVar[str] = "Simonyan et al. 2013, arXiv 1312.6034, section 3.1"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "weak_dependence"})

    composite: Any = None
    reduction: str = "max_abs"

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        return op.Abs(gradient)


@method("input_x_gradient")
class InputTimesGradient(_GradientBased):
    """Input times gradient; signed, summed over channels for the map.

    Args:
        composite: Other rules at some nodes: a TOML file or entries; see docs/composites.md.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
        balanced: Hold gates (softmax, GELU, SiLU) and normalisations' denominators constant and share products
            among their factors on the way back (LibraGrad, arXiv 2411.16760).
    """

    summary: ClassVar[str] = "input times gradient"
    source: ClassVar[str] = "Shrikumar et al. 2016, arXiv 1605.01713; the modified-gradient framework, arXiv 1711.06104"
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"completeness_without_biases", "dummy", "implementation_invariance", "linearity"}
    )

    composite: Any = None
    reduction: str = "sum"
    balanced: bool = False

    def rules(self) -> Lookup:
        return balanced() if self.balanced else gradients

    def attribute(self, op: Builder, gradient: ir.Value, x: ir.Value) -> ir.Value:
        return op.Mul(gradient, x)
