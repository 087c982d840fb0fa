"""Guided Grad-CAM: Guided Backpropagation where Grad-CAM is bright."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.cam import choose_layer
from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import Direct, Plan, method
from onnxplain.engine.methods.cam_family import only_subject
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.propagation.rectified import describe_rectifiers, guided
from onnxplain.engine.psi import MapSum


@method("guided_gradcam")
class GuidedGradCAM(Direct):
    """The guided signal at the input times the upsampled ``relu`` of Grad-CAM, which all channels share.

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        align_corners: How Grad-CAM's map is upsampled.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "Guided Backpropagation times upsampled Grad-CAM"
    source: ClassVar[str] = "Selvaraju et al. 2017, arXiv 1610.02391, section 3.2"

    layer: str = ""
    align_corners: bool = True
    reduction: str = "sum_abs"

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        subject, op = only_subject(plan), plan.rewriter.op
        layer = choose_layer(plan.rewriter, subject.value, subject.labels, plan.seed.explained, self.layer)
        gradient = plan.rewriter.backward(plan.seed, [layer.value]).of[layer.value]
        a, g = layer.unfolded(op, layer.value), layer.unfolded(op, gradient)
        product = op.Mul(op.ReduceMean(g, layer.places, keepdims=1), a)
        product.shape = a.shape
        total = MapSum(op, subject.value, subject.labels, self.align_corners)
        drawing = op.ReduceSum(product, layer.channels, keepdims=0) if layer.channels else product
        total.add(op.Relu(drawing), product, layer.labels)
        found = total.finish()
        if found is None:  # one map was added
            raise OptionError("Grad-CAM has no map here; name a layer with layer=")
        signal = plan.gradients(guided())[subject.name]
        assert plan.adjoints is not None
        plan.memo["notes"] = [layer.reason, *describe_rectifiers(plan.adjoints, self.name)]
        places = spatial_axes(subject.labels).values()
        channels = [i for i in range(1, len(subject.labels)) if i not in places]
        return {subject.name: op.Mul(signal, op.Unsqueeze(found, channels) if channels else found)}
