"""What Guided Backpropagation, DeconvNet and RectGrad share: a walk with other rules at ReLU."""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Direct, Plan
from onnxplain.engine.propagation.composite import Composite
from onnxplain.engine.propagation.rectified import describe_rectifiers


class RectifiedMethod(Direct):
    """The subclass names the rules at ReLU, and says what becomes of the signal that reaches the input."""

    def rules(self) -> Composite:
        """The rules of the walk."""
        raise NotImplementedError

    def attribute(self, op: Builder, signal: ir.Value, x: ir.Value) -> ir.Value:
        """Emit the attribution from what arrives at the input."""
        raise NotImplementedError

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        signals = plan.gradients(self.rules())
        assert plan.adjoints is not None
        plan.memo["notes"] = describe_rectifiers(plan.adjoints, self.name)
        return {s.name: self.attribute(plan.rewriter.op, signals[s.name], s.value) for s in plan.subjects}
