"""FullGrad: the score as input term plus bias terms, and the map made of them.

Srinivas and Fleuret 2019, arXiv 1905.00780. The decomposition is the paper's Proposition 1, extended by
the implicit biases of whatever is not piecewise linear, so that it is complete on every network; the
map is the paper's equation for CNNs with the options in which published implementations differ.
Defaults are those of the authors' current code.
"""

from __future__ import annotations

from typing import ClassVar

from onnxplain.engine.method import Variant, method
from onnxplain.engine.methods.fullgrad_family import FullGradient


@method("fullgrad")
class FullGrad(FullGradient):
    """Full-gradient decomposition and saliency map.

    ``sign="abs"`` is the paper's psi, ``"pos"`` the positive aggregation of arXiv 2012.00362 (FullGrad+ there),
    ``"signed"`` lets terms cancel. ``sign="signed", rescale="none", conserve=True`` is the one map that has a sum:
    the score without the terms that are not drawn.

    Args:
        implicit: Also draw the implicit bias terms; they are part of the residual in any case.
        balanced: Hold gates (softmax, GELU, SiLU) and normalisations' denominators constant and share products
            among their factors on the way back (LibraGrad, arXiv 2411.16760): transformers are then complete
            without implicit terms.
        sign: What psi makes of a term first: ``abs``, ``pos``, ``neg`` or ``signed``.
        rescale: ``minmax``, ``max`` or ``none``.
        scope: What is rescaled together: ``layer``, ``channel`` or ``batch`` (which mixes samples).
        align_corners: How maps are upsampled.
        conserve: Let upsampled maps keep their sum instead of their values.
        bias_granularity: ``op``: every operator's bias by itself; ``block``: BatchNormalization is folded
            into the convolution in front of it first, as the authors' 2019 code did.
        layers: Only nodes whose names match one of these patterns are drawn; all by default.
        include_input: Whether the input term is drawn.
        term_maps: Return every bias term's full map on ``explanation.terms.maps``.
    """

    summary: ClassVar[str] = "input term and bias terms of the full gradient, complete by construction"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780"
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"dummy", "full_completeness", "full_linearity", "full_sensitivity", "full_weak_dependence"}
    )
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant({"balanced": True}, frozenset({"dummy", "full_completeness", "full_linearity"})),
        Variant({"bias_granularity": "block"}, frozenset({"dummy", "full_completeness", "full_linearity"})),
    )

    implicit: bool = False
    balanced: bool = False
    sign: str = "abs"
    rescale: str = "minmax"
    scope: str = "layer"
    align_corners: bool = True
    conserve: bool = False
    bias_granularity: str = "op"
    layers: tuple[str, ...] = ()
    include_input: bool = True
    term_maps: bool = False
