"""Grad-CAM++: feature maps weighted by positive gradients, each place with a weight of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.forms import indicator, step
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import method
from onnxplain.engine.methods.cam_family import ClassActivationMap, handled


@method("gradcam_plus_plus")
class GradCAMPlusPlus(ClassActivationMap):
    """``relu(sum_k w_k A^k)`` with ``w_k = sum_ij alpha_ij relu(G_ij)``, upsampled.

    ``alpha = G^2 / (2 G^2 + G^3 sum_ab A_ab)``, 0 where G is 0: the score's exponential cancels. The map's
    scale is arbitrary; the exponential that the authors' code leaves in it overflows and is left out.

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        sign: What stands in the place of relu(G): ``signed``, ``pos``, ``neg`` or ``abs``.
        relu: Whether negative places of the map are set to zero.
        align_corners: How the map is upsampled.
        normalize: Whether each channel's alphas are divided by their sum over the places that count, as the
            authors' code does and the paper does not.
    """

    summary: ClassVar[str] = "feature maps weighted by positive gradients with a weight per place"
    source: ClassVar[str] = "Chattopadhay et al. 2018, arXiv 1710.11063, section 3"

    layer: str = ""
    sign: str = "pos"
    relu: bool = True
    align_corners: bool = True
    normalize: bool = True

    def weigh(self, op: Builder, a: ir.Value, g: ir.Value, places: Sequence[int]) -> ir.Value:
        """w A."""
        policy = handled(op, g, self.sign)
        square = op.Mul(g, g)
        below = op.Add(op.Mul(square, 2.0), op.Mul(op.Mul(square, g), op.ReduceSum(a, places, keepdims=1)))
        alpha = _ratio(op, square, below)
        if self.normalize:
            alpha = _ratio(op, alpha, op.ReduceSum(op.Mul(alpha, step(op, op.Abs(policy))), places, keepdims=1))
        return op.Mul(op.ReduceSum(op.Mul(alpha, policy), places, keepdims=1), a)


def _ratio(op: Builder, top: ir.Value, below: ir.Value) -> ir.Value:
    """top / below; top itself where below is 0."""
    return op.Div(top, op.Add(below, indicator(op, op.Equal(below, 0.0), below)))
