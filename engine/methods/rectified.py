"""What Guided Backpropagation, DeconvNet and RectGrad share: a walk with other rules at ReLU."""

from __future__ import annotations

from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Method, Parts, Plan, Run, choose, reduce_channels
from onnxplain.engine.methods.gradient import REDUCTIONS
from onnxplain.engine.propagation.composite import Composite
from onnxplain.engine.propagation.rectified import describe_rectifiers


class RectifiedMethod(Method):
    """The subclass names the rules at ReLU, and says what becomes of the signal that reaches the input."""

    reduction: str = "sum_abs"

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)

    def rules(self) -> Composite:
        """The rules of the walk."""
        raise NotImplementedError

    def attribute(self, signal: Array, x: Array) -> Array:
        """The attribution from what arrives at the input."""
        raise NotImplementedError

    def build(self, plan: Plan) -> None:
        signals = plan.gradients(self.rules())
        assert plan.adjoints is not None
        plan.memo["notes"] = describe_rectifiers(plan.adjoints, self.name)
        for name, signal in signals.items():
            plan.output(f"signal/{name}", signal)

    def reduce(self, run: Run) -> Parts:
        attributions = {n: self.attribute(run.outputs[f"signal/{n}"], x) for n, x in run.x.items()}
        saliency = None
        if len(attributions) == 1:
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction)
        return Parts(attributions, saliency, signed=self.reduction == "sum", notes=list(run.memo["notes"]))
