"""What all class activation maps share: layer, gradient there, ReLU, upsampling; a subclass gives the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.cam import Layer, choose_layer
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Method, Parts, Plan, Run, Subject, choose
from onnxplain.engine.psi import SIGNS, MapSum


def handled(op: Builder, gradient: ir.Value, sign: str) -> ir.Value:
    """The gradient under a sign policy: ``signed``, ``pos``, ``neg`` (negative values stay negative) or ``abs``."""
    if sign == "signed":
        return gradient
    if sign == "abs":
        return op.Abs(gradient)
    return op.Relu(gradient) if sign == "pos" else op.Neg(op.Relu(op.Neg(gradient)))


def only_subject(plan: Plan) -> Subject:
    """The input that the map is drawn over.

    Raises:
        OptionError: There are several.
    """
    if len(plan.subjects) != 1:
        names = ", ".join(f"'{s.name}'" for s in plan.subjects)
        raise OptionError(f"a class activation map is drawn over one input, and there are {names}; name one with wrt=")
    return plan.subjects[0]


class ClassActivationMap(Method):
    """Attributions are those of the layer: weight times activation, before channels are summed.

    Where the layer is a sequence of tokens, they stand on its grid of places, the class token left out.
    """

    #: Whether the weights come from the gradient at the layer.
    differentiates: ClassVar[bool] = True

    layer: str = ""
    sign: str = "signed"
    relu: bool = True
    align_corners: bool = True

    def __post_init__(self) -> None:
        choose("sign", self.sign, SIGNS)

    def weigh(self, op: Builder, a: ir.Value, g: ir.Value, places: Sequence[int]) -> ir.Value:
        """Emit weight times activation, in the layer's shape.

        Args:
            op: Where to emit.
            a: The layer's activations.
            g: Their gradient; the sign policy is the subclass's to apply.
            places: The layer's spatial axes.
        """
        raise NotImplementedError

    def build(self, plan: Plan) -> None:
        subject = only_subject(plan)
        layer = choose_layer(plan.rewriter, subject.value, subject.labels, plan.seed.explained, self.layer)
        op = plan.rewriter.op
        a = g = layer.unfolded(op, layer.value)
        if self.differentiates:
            plan.adjoints = plan.rewriter.backward(plan.seed, [layer.value])
            g = layer.unfolded(op, plan.adjoints.of[layer.value])
        product = self.weigh(op, a, g, layer.places)
        product.shape = a.shape
        plan.memo.update(layer=layer.value.name, reason=layer.reason)
        plan.output("layer", product, a.shape)
        self._draw(plan, layer, product)

    def _draw(self, plan: Plan, layer: Layer, product: ir.Value) -> None:
        op = plan.rewriter.op
        subject = plan.subjects[0]
        drawing = op.ReduceSum(product, layer.channels, keepdims=0) if layer.channels else product
        total = MapSum(op, subject.value, subject.labels, self.align_corners)
        total.add(op.Relu(drawing) if self.relu else drawing, product, layer.labels)
        result = total.finish()
        assert result is not None
        plan.output("map", result, None)

    def ship(self, plan: Plan) -> None:
        super().ship(plan)
        plan.output(f"attribution/{plan.memo['layer']}", plan.values["layer"], plan.values["layer"].shape)

    def reduce(self, run: Run) -> Parts:
        attributions = {run.memo["layer"]: run.outputs["layer"]}
        return Parts(attributions, run.outputs["map"], signed=not self.relu, notes=[run.memo["reason"]])
