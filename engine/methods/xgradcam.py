"""XGrad-CAM: feature maps weighted by their gradient's mean under the activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import method
from onnxplain.engine.methods.cam_family import ClassActivationMap, handled

#: Keeps the mean of an empty feature map at zero; as in the published implementations.
EPSILON = 1e-7


@method("xgradcam")
class XGradCAM(ClassActivationMap):
    """``relu(sum_k w_k A^k)`` with ``w_k = sum_ij G A / (sum_ij A + 1e-7)``, upsampled.

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        sign: What becomes of the gradient first: ``signed``, ``pos``, ``neg`` or ``abs``.
        relu: Whether negative places of the map are set to zero.
        align_corners: How the map is upsampled.
    """

    summary: ClassVar[str] = "feature maps weighted by their gradient averaged with the activations"
    source: ClassVar[str] = "Fu et al. 2020, arXiv 2008.02312, section 3"

    layer: str = ""
    sign: str = "signed"
    relu: bool = True
    align_corners: bool = True

    def weigh(self, op: Builder, a: ir.Value, g: ir.Value, places: Sequence[int]) -> ir.Value:
        """w A, w the mean of G weighted by A."""
        top = op.ReduceSum(op.Mul(handled(op, g, self.sign), a), places, keepdims=1)
        return op.Mul(op.Div(top, op.Add(op.ReduceSum(a, places, keepdims=1), EPSILON)), a)
