"""Grad-CAM: feature maps weighted by their gradient's mean over places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import method
from onnxplain.engine.methods.cam_family import ClassActivationMap, handled


@method("gradcam")
class GradCAM(ClassActivationMap):
    """``relu(sum_k mean_ij(G^k_ij) A^k)`` at one layer, upsampled.

    With ``sign="pos"`` and ``sign="abs"`` these are the variants with positive aggregation (arXiv 2012.00362).

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        sign: What becomes of the gradient first: ``signed``, ``pos``, ``neg`` or ``abs``.
        relu: Whether negative places of the map are set to zero.
        align_corners: How the map is upsampled.
    """

    summary: ClassVar[str] = "feature maps weighted by their mean gradient"
    source: ClassVar[str] = "Selvaraju et al. 2017, arXiv 1610.02391, section 3"

    layer: str = ""
    sign: str = "signed"
    relu: bool = True
    align_corners: bool = True

    def weigh(self, op: Builder, a: ir.Value, g: ir.Value, places: Sequence[int]) -> ir.Value:
        """mean(G) A."""
        return op.Mul(op.ReduceMean(handled(op, g, self.sign), places, keepdims=1), a)
