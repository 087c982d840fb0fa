"""FullGrad+: every layer's input times its gradient, and every bias term."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.graph.shapes import constant
from onnxplain.engine.method import Plan, method
from onnxplain.engine.methods.fullgrad_family import FullGradient, Layer, layer_of
from onnxplain.engine.places import find_places, spatial_axes
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.terms import Term, placing

#: Operators that apply weights to an activation, with the position of the weights.
_WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


@method("fullgrad_plus")
class FullGradPlus(FullGradient):
    """FullGrad's map with the input term of every layer, not of the first alone.

    The layers are the convolutions and matrix products with weights; what each reads, times its gradient, is drawn
    like the input term. The decomposition and its residual are FullGrad's.

    Args:
        implicit: Also draw the implicit bias terms; they are part of the residual in any case.
        balanced: Hold gates (softmax, GELU, SiLU) and normalisations' denominators constant and share products
            among their factors on the way back (LibraGrad, arXiv 2411.16760).
        sign: What psi makes of a term first: ``abs``, ``pos``, ``neg`` or ``signed``.
        rescale: ``minmax``, ``max`` or ``none``.
        scope: What is rescaled together: ``layer``, ``channel`` or ``batch`` (which mixes samples).
        align_corners: How maps are upsampled.
        conserve: Let upsampled maps keep their sum instead of their values.
        bias_granularity: ``op``: every operator's bias by itself; ``block``: BatchNormalization is folded first.
        include_input: Whether the input term is drawn.
        term_maps: Return every bias term's full map on ``explanation.terms.maps``.
    """

    summary: ClassVar[str] = "input times gradient at every layer, and all bias terms"
    source: ClassVar[str] = "Mehri et al. 2024, arXiv 2411.16760 (FullGrad+)"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "full_completeness", "full_linearity"})

    implicit: bool = False
    balanced: bool = False
    sign: str = "abs"
    rescale: str = "minmax"
    scope: str = "layer"
    align_corners: bool = True
    conserve: bool = False
    bias_granularity: str = "op"
    include_input: bool = True
    term_maps: bool = False

    def drawings(self, plan: Plan, terms: list[Term]) -> Iterable[Layer]:
        return [*self._inputs_of_layers(plan), *(layer_of(t, plan.rewriter.op) for t in terms)]

    def _inputs_of_layers(self, plan: Plan) -> list[Layer]:
        assert plan.adjoints is not None
        (subject,) = plan.subjects
        places = find_places(plan.adjoints.path.nodes, {subject.value: subject.labels})
        wanted = set(spatial_axes(subject.labels))
        layers: dict[ir.Value, Layer] = {}
        for node in plan.adjoints.nodes:
            value = _untransposed(_read_by_weights(node))
            adjoint = plan.adjoints.of.get(value) if value is not None else None
            if value is None or adjoint is None or value is subject.value or len(subject.labels) < 3:
                continue
            way = placing(value, places.get(value, ()), wanted)
            if way is not None:
                layers.setdefault(value, Layer(adjoint, value, way))
        return list(layers.values())


def _read_by_weights(node: Primal) -> ir.Value | None:
    """The activation that a layer applies its weights to."""
    position = _WEIGHTED.get(node.op_type)
    if node.domain or position is None:
        return None
    if constant(node.optional(position)) is not None:
        return node.x(0)
    return node.x(1) if node.op_type == "MatMul" and constant(node.optional(0)) is not None else None


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    """The tensor itself where a layer reads it with its axes in another order, as files from TensorFlow do.

    Else the input would be drawn twice there, and what two layers read in two copies.
    """
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Transpose" and not node.domain:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return value
