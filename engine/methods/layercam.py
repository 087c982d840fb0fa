"""LayerCAM: feature maps times the positive part of their gradient, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import method
from onnxplain.engine.methods.cam_family import ClassActivationMap, handled


@method("layercam")
class LayerCAM(ClassActivationMap):
    """``relu(sum_k relu(G^k) A^k)`` at one layer, upsampled.

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        sign: What becomes of the gradient first: ``signed``, ``pos``, ``neg`` or ``abs``.
        relu: Whether negative places of the map are set to zero.
        align_corners: How the map is upsampled.
    """

    summary: ClassVar[str] = "feature maps times their positive gradient, place by place"
    source: ClassVar[str] = "Jiang et al. 2021, IEEE TIP 30, section III"

    layer: str = ""
    sign: str = "pos"
    relu: bool = True
    align_corners: bool = True

    def weigh(self, op: Builder, a: ir.Value, g: ir.Value, places: Sequence[int]) -> ir.Value:
        """relu(G) A, or another policy in the relu's place."""
        return op.Mul(handled(op, g, self.sign), a)
