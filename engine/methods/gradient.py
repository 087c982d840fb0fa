"""Gradient, absolute gradient and input times gradient."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Method, Parts, Plan, Run, choose, method, reduce_channels

REDUCTIONS = ("sum_abs", "max_abs", "l2", "sum")


class _GradientBased(Method):
    """One reverse sweep; the subclass says what becomes of the gradient."""

    reduction: str = "sum_abs"

    def build(self, plan: Plan) -> None:
        choose("reduction", self.reduction, REDUCTIONS)
        for name, gradient in plan.gradients().items():
            plan.output(f"gradient/{name}", gradient)

    def attribute(self, gradient: Array, x: Array) -> Array:
        """The attribution from the gradient."""
        raise NotImplementedError

    def reduce(self, run: Run) -> Parts:
        attributions = {n: self.attribute(run.outputs[f"gradient/{n}"], x) for n, x in run.x.items()}
        saliency = None
        if len(attributions) == 1:
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction)
        return Parts(attributions, saliency, signed=self.reduction == "sum")


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

    def attribute(self, gradient: Array, x: Array) -> Array:
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

    def attribute(self, gradient: Array, x: Array) -> Array:
        return np.abs(gradient)


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

    def attribute(self, gradient: Array, x: Array) -> Array:
        return np.asarray(gradient * x)
