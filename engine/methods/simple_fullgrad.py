"""Simple FullGrad: the gradient at every biased tensor in place of gradient times bias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from onnxplain.engine.method import Parts, Plan, Run, method
from onnxplain.engine.methods.fullgrad_family import FullGradient, Layer, layer_of
from onnxplain.engine.terms import Term


@method("simple_fullgrad")
class SimpleFullGrad(FullGradient):
    """Input times gradient, and the plain gradient at every tensor to which a bias is added.

    The values of the biases do not matter, and nothing adds up: there is no residual.

    Args:
        sign: What psi makes of a layer's gradient first: ``abs``, ``pos``, ``neg`` or ``signed``.
        rescale: ``minmax``, ``max`` or ``none``.
        scope: What is rescaled together: ``layer``, ``channel`` or ``batch`` (which mixes samples).
        align_corners: How maps are upsampled.
        bias_granularity: ``op``: every operator with a bias; ``block``: BatchNormalization is folded first.
        layers: Only nodes whose names match one of these patterns are drawn; all by default.
        include_input: Whether input times gradient is drawn.
    """

    summary: ClassVar[str] = "gradients at all biased layers, upsampled and summed"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780; the authors' code"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "linearity"})

    sign: str = "abs"
    rescale: str = "minmax"
    scope: str = "layer"
    align_corners: bool = True
    bias_granularity: str = "op"
    layers: tuple[str, ...] = ()
    include_input: bool = True

    def build(self, plan: Plan) -> None:
        products, terms = self.decompose(plan)
        for subject in plan.subjects:
            plan.output(f"attribution/{subject.name}", products[subject.name], subject.value.shape)
        self._draw(plan, terms, products)

    def drawings(self, plan: Plan, terms: list[Term]) -> Iterable[Layer]:
        # A tensor to which two constants are added is one layer.
        layers = {t.tensor: layer_of(t, plan.rewriter.op, adjoint_alone=True) for t in terms}
        return layers.values()

    def reduce(self, run: Run) -> Parts:
        attributions = {n: run.outputs[f"attribution/{n}"] for n in run.x}
        return Parts(attributions, run.outputs.get("map"), signed=self.sign == "signed")
