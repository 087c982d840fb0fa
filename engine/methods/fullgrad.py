"""FullGrad: the score as input term plus bias terms, and the map made of them.

Srinivas and Fleuret 2019, arXiv 1905.00780. The decomposition is the paper's Proposition 1, extended by
the implicit biases of whatever is not piecewise linear, so that it is complete on every network; the
map is the paper's equation for CNNs with the options in which published implementations differ.
Defaults are those of the authors' current code.
"""

from __future__ import annotations

import fnmatch
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Residual, TermInfo, Terms
from onnxplain.engine.method import Method, Parts, Plan, Run, choose, method
from onnxplain.engine.psi import RESCALES, SCOPES, SIGNS, MapSum, Psi
from onnxplain.engine.terms import Term, bias_terms

#: Relative residual past which a float32 decomposition is not believed (the authors' own tolerance).
TOLERANCE = 1e-4


@method("fullgrad")
class FullGrad(Method):
    """Full-gradient decomposition and saliency map.

    Args:
        implicit: Also draw the implicit bias terms; they are part of the residual in any case.
        sign: What psi makes of a term first: ``abs``, ``pos``, ``neg`` or ``signed``.
        rescale: ``minmax``, ``max`` or ``none``.
        scope: What is rescaled together: ``layer``, ``channel`` or ``batch`` (which mixes samples).
        align_corners: How maps are upsampled.
        bias_granularity: ``op``: every operator's bias by itself; ``block``: BatchNormalization is folded
            into the convolution in front of it first, as the authors' 2019 code did.
        layers: Only nodes whose names match one of these patterns are drawn; all by default.
        include_input: Whether the input term is drawn.
        term_maps: Return every bias term's full map on ``explanation.terms.maps``.
    """

    summary: ClassVar[str] = "input term and bias terms of the full gradient, complete by construction"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780"
    axioms: ClassVar[frozenset[str]] = frozenset({"full_completeness", "dummy"})

    implicit: bool = False
    sign: str = "abs"
    rescale: str = "minmax"
    scope: str = "layer"
    align_corners: bool = True
    bias_granularity: str = "op"
    layers: tuple[str, ...] = ()
    include_input: bool = True
    term_maps: bool = False

    def __post_init__(self) -> None:
        choose("sign", self.sign, SIGNS)
        choose("rescale", self.rescale, RESCALES)
        choose("scope", self.scope, SCOPES)
        choose("bias_granularity", self.bias_granularity, ("op", "block"))
        layers: Any = self.layers
        object.__setattr__(self, "layers", (layers,) if isinstance(layers, str) else tuple(layers))

    @property
    def needs_one_chunk(self) -> bool:
        return self.scope == "batch"

    @property
    def folds_normalization(self) -> bool:
        return self.bias_granularity == "block"

    # ----- graph ----------------------------------------------------------------------------------

    def build(self, plan: Plan) -> None:
        op = plan.rewriter.op
        gradients = plan.gradients()
        assert plan.adjoints is not None
        terms = bias_terms(op, plan.adjoints, {s.value: s.labels for s in plan.subjects})
        products = {s.name: op.Mul(gradients[s.name], s.value) for s in plan.subjects}
        for subject in plan.subjects:
            plan.output(f"attribution/{subject.name}", products[subject.name], subject.value.shape)
        mapped = self._draw(plan, terms, products)
        plan.memo["terms"] = tuple(
            TermInfo(t.node, t.operator, t.kind, t.parameter, t.tensor, t.placed, i in mapped)
            for i, t in enumerate(terms)
        )
        if terms:
            plan.output("bias_terms", op.Concat(*[t.total(op) for t in terms], axis=1), ("N", len(terms)))
        if self.term_maps:
            for i, t in enumerate(terms):
                plan.output(f"bias_map/{i}", op.Mul(t.adjoint, t.full_bias(op)), t.adjoint.shape)

    def _draw(self, plan: Plan, terms: list[Term], products: dict[str, ir.Value]) -> set[int]:
        """Emit the map; which terms are part of it is the result."""
        if len(plan.subjects) != 1:
            return set()
        subject = plan.subjects[0]
        psi = Psi(self.sign, self.rescale, self.scope)
        total = MapSum(plan.rewriter.op, subject.value, subject.labels, self.align_corners)
        if self.include_input:
            product = products[subject.name]
            product.shape = subject.value.shape
            total.add(psi.apply(plan.rewriter.op, product, None, subject.labels), product, subject.labels)
        drawn = {i for i, t in enumerate(terms) if t.placed and self._chosen(t)}
        if self.layers and not drawn:
            raise OptionError(
                f"layers={list(self.layers)} matches no node with a bias that has a place in the input; "
                "'onnxplain check' lists the nodes"
            )
        for i in sorted(drawn):
            t = terms[i]
            drawing = psi.apply(plan.rewriter.op, t.adjoint, t.full_bias(plan.rewriter.op), t.labels)
            total.add(drawing, t.adjoint, t.labels)
        result = total.finish()
        if result is not None:
            plan.output("map", result, None)
        return drawn

    def _chosen(self, term: Term) -> bool:
        if term.kind == "implicit" and not self.implicit:
            return False
        return not self.layers or any(fnmatch.fnmatch(term.node, p) for p in self.layers)

    # ----- result ---------------------------------------------------------------------------------

    def reduce(self, run: Run) -> Parts:
        attributions = {n: run.outputs[f"attribution/{n}"] for n in run.x}
        inputs = sum(a.reshape(len(a), -1).sum(axis=1, dtype=np.float64) for a in attributions.values())
        biases = run.outputs.get("bias_terms", np.zeros((len(run.score), 0))).astype(np.float64)
        info = run.memo["terms"]
        maps = {i: run.outputs[f"bias_map/{i}"] for i in range(len(info))} if self.term_maps else {}
        terms = Terms(np.asarray(inputs), biases, info, maps)
        absolute = run.score - terms.total
        magnitude = terms.magnitude
        relative = np.abs(absolute) / np.where(magnitude > 0, magnitude, 1.0)
        residual = Residual(absolute, relative, "completeness of the full gradient", TOLERANCE)
        notes = []
        left = np.abs(terms.implicit) / np.where(magnitude > 0, magnitude, 1.0)
        if np.any(left > TOLERANCE) and not self.implicit:
            notes.append(
                "implicit biases (non-linearities that are not piecewise linear, bounds of Clip) carry up to "
                f"{left.max():.1%} of all terms and are not drawn; implicit=True draws them"
            )
        return Parts(attributions, run.outputs.get("map"), terms, residual, signed=self.sign == "signed", notes=notes)
