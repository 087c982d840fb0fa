"""What the full-gradient methods share: the decomposition, the options of the map, and drawing it.

A term's tensor is brought to one axis per place first (transformers join rows, columns and a class token in one
axis). On sequences of tokens the features of a token are no maps of their own: their terms are summed before psi.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.axes import Joined, Labels, Unfolding, unfolding
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual, TermInfo, Terms
from onnxplain.engine.gathering import Gathering
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import cast_like, total_per_sample
from onnxplain.engine.method import Method, Parts, Plan, Run, choose
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.propagation.balanced import balanced, balanced_biases
from onnxplain.engine.psi import RESCALES, SCOPES, SIGNS, MapSum, Psi
from onnxplain.engine.shipping.results import RESIDUAL, SALIENCY, shipped, wanted
from onnxplain.engine.terms import ASTRAY, Term, any_astray, bias_terms, refuse_astray

#: Relative residual past which a float32 decomposition is not believed (the authors' own tolerance).
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Layer:
    """One tensor to be drawn: ``a * c``, or ``a`` alone.

    Attributes:
        a: The adjoint, or a finished product.
        c: The bias or activation; None where ``a`` is all.
        unfolding: The way to one axis per place.
    """

    a: ir.Value
    c: ir.Value | None
    unfolding: Unfolding

    @property
    def tokens(self) -> bool:
        """Whether its places are those of a sequence of tokens, its other axes features."""
        labels = self.unfolding.labels
        sequence = list(spatial_axes(labels)) == ["t"] and len(labels) > 2 and labels[-1] is None
        return sequence or any(isinstance(label, Joined) for label in self.unfolding.source)

    def value(self, op: Builder) -> tuple[ir.Value, Labels]:
        """Emit the product ``[N, ...]`` with one axis per place; tokens without their features."""
        product = self.a
        if self.c is not None:
            product = op.Mul(self.a, self.c)
            product.shape = self.a.shape
        product, labels = self.unfolding.apply(op, product), self.unfolding.labels
        if self.tokens:
            places = list(spatial_axes(labels).values())
            features = [i for i in range(1, len(labels)) if i not in places]
            if not features:  # a flattened picture; no axes would mean all of them
                return product, labels
            known = dims(product)
            product = op.ReduceSum(product, features, keepdims=0)
            labels = ("batch", *(labels[i] for i in places))
            product.shape = None if known is None else ir.Shape([known[0], *(known[i] for i in places)])
        return product, labels

    def add_to(self, total: MapSum, psi: Psi) -> None:
        """Draw it."""
        op = total.op
        if self.unfolding.trivial and not self.tokens:
            a, c = cast_like(op, self.a, total.source), self.c and cast_like(op, self.c, total.source)
            total.add(psi.apply(op, a, c, self.unfolding.labels), a, self.unfolding.labels)
            return
        value, labels = self.value(op)
        value = cast_like(op, value, total.source)
        total.add(psi.apply(op, value, None, labels), value, labels)


def layer_of(term: Term, op: Builder, *, adjoint_alone: bool = False) -> Layer:
    """What is drawn of a term that has a place."""
    assert term.unfolding is not None, "only terms with a place are drawn"
    return Layer(term.adjoint, None if adjoint_alone else term.full_bias(op), term.unfolding)


class FullGradient(Method):
    """Input term and bias terms; a subclass says which tensors make the map."""

    #: Which bias terms a subclass draws unless it says otherwise.
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

    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780"

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

    def decompose(self, plan: Plan) -> tuple[dict[str, ir.Value], list[Term]]:
        """Emit the products input x gradient per subject, and find the bias terms."""
        op = plan.rewriter.op
        sources = {s.value: s.labels for s in plan.subjects}
        found = plan.gradients(balanced()) if self.balanced else plan.gradients()
        assert plan.adjoints is not None
        terms = bias_terms(op, plan.adjoints, sources, *((balanced_biases,) if self.balanced else ()))
        plan.one_by_one = any_astray(terms)
        if plan.one_by_one and self.needs_one_chunk:
            raise OptionError(f"scope='{self.scope}' takes all samples together, and {ASTRAY}; choose another scope")
        products = {}
        for s in plan.subjects:
            products[s.name] = op.Mul(found[s.name], s.value)
            products[s.name].shape = s.value.shape
        return products, terms

    def build(self, plan: Plan) -> None:
        op = plan.rewriter.op
        products, terms = self.decompose(plan)
        for subject in plan.subjects:
            plan.output(f"attribution/{subject.name}", products[subject.name], subject.value.shape)
        gathering = Gathering(op) if wanted(plan, RESIDUAL) else None
        plan.memo["partial"] = []
        mapped = self._draw(plan, terms, products, gathering)
        plan.memo["terms"] = tuple(
            TermInfo(t.node, t.operator, t.kind, t.parameter, t.tensor, t.placed, i in mapped)
            for i, t in enumerate(terms)
        )
        if terms and gathering is not None:
            plan.output("bias_terms", op.Squeeze(gathering.hand_out()["terms"], [1]), ("N", len(terms)))
        if plan.memo["partial"] and gathering is not None:
            placed = op.Squeeze(gathering.hand_out()["placed"], [1])
            plan.output("placed_terms", placed, ("N", len(plan.memo["partial"])))
        if self.term_maps:
            for i, t in enumerate(terms):
                plan.output(f"bias_map/{i}", t.product(op), t.adjoint.shape)

    def ship(self, plan: Plan) -> None:
        super().ship(plan)
        if "full_completeness" in self.axioms and wanted(plan, RESIDUAL):
            refuse_astray(plan.one_by_one)
            parts = [plan.values[f"attribution/{s.name}"] for s in plan.subjects]
            parts += [plan.values["bias_terms"]] if "bias_terms" in plan.values else []
            op = plan.rewriter.op
            plan.output("residual", op.Sub(plan.seed.score, total_per_sample(op, parts, plan.seed.score)), ("N",))

    def _draw(
        self, plan: Plan, terms: list[Term], products: dict[str, ir.Value], gathering: Gathering | None = None
    ) -> set[int]:
        """Emit the map; which terms are part of it is the result.

        With a gathering, every term's total is put there under ``terms``, right after what is drawn of its adjoint.
        """
        op, psi = plan.rewriter.op, Psi(self.sign, self.rescale, self.scope)
        total, drawn = None, set[int]()
        layers: dict[ir.Value, list[Layer]] = {}
        if len(plan.subjects) == 1 and wanted(plan, SALIENCY):
            subject = plan.subjects[0]
            drawn = self.chosen(terms)
            total = MapSum(op, subject.value, subject.labels, self.align_corners, self.conserve, gathering)
            first = [self.input_layer(plan, products[subject.name])] if self.include_input else []
            for layer in (*first, *self.drawings(plan, [terms[i] for i in sorted(drawn)])):
                layers.setdefault(layer.a, []).append(layer)
        adjoints = {t.adjoint for t in terms}
        order = [*(a for a in layers if a not in adjoints), *(t.adjoint for t in terms)]
        for position, adjoint in enumerate(order, len(terms) - len(order)):
            for layer in layers.pop(adjoint, ()):
                assert total is not None
                layer.add_to(total, psi)
            if gathering is not None and position >= 0:
                self._gather(plan, gathering, position, terms[position])
        result = total.finish() if total is not None else None
        if result is not None:
            plan.output("map", result, None)
        return drawn

    @staticmethod
    def _gather(plan: Plan, gathering: Gathering, position: int, term: Term) -> None:
        """Put a term's total there, and what of it has a place, where that is a part; files return none of that."""
        op = plan.rewriter.op
        gathering.put("terms", op.Unsqueeze(term.total(op), [2]), 1)
        placed = None if shipped(plan) else term.placed_total(op)
        if placed is not None:
            plan.memo["partial"].append(position)
            gathering.put("placed", op.Unsqueeze(placed, [2]), 1)

    def input_layer(self, plan: Plan, product: ir.Value) -> Layer:
        """The input term as a tensor to draw."""
        way = unfolding(plan.subjects[0].labels, dims(product))
        assert way is not None, "an attributed input has its batch first and no joined axes"
        return Layer(product, None, way)

    def drawings(self, plan: Plan, terms: list[Term]) -> Iterable[Layer]:
        """What is drawn of the chosen terms."""
        return [layer_of(t, plan.rewriter.op) for t in terms]

    def chosen(self, terms: list[Term]) -> set[int]:
        """Positions of the terms that are drawn.

        Raises:
            OptionError: ``layers`` matches none.
        """
        drawn = {i for i, t in enumerate(terms) if t.placed and self._wanted(t)}
        if self.layers and not drawn:
            raise OptionError(
                f"layers={list(self.layers)} matches no node with a bias that has a place in the input; "
                "'onnxplain check' lists the nodes"
            )
        return drawn

    def _wanted(self, term: Term) -> bool:
        if term.kind == "implicit" and not self.implicit:
            return False
        return not self.layers or any(fnmatch.fnmatch(term.node, p) for p in self.layers)

    # ----- result ---------------------------------------------------------------------------------

    def reduce(self, run: Run) -> Parts:
        attributions = {n: run.outputs[f"attribution/{n}"] for n in run.x}
        terms = self.terms(run, attributions)
        absolute = run.score - terms.total
        magnitude = np.where(terms.magnitude > 0, terms.magnitude, 1.0)
        residual = Residual(absolute, np.abs(absolute) / magnitude, "completeness of the full gradient", TOLERANCE)
        saliency = run.outputs.get("map")
        return Parts(attributions, saliency, terms, residual, signed=self.sign == "signed", notes=self.notes(terms))

    def terms(self, run: Run, attributions: dict[str, Array]) -> Terms:
        """The decomposition from the graph's outputs."""
        inputs = sum(a.reshape(len(a), -1).sum(axis=1, dtype=np.float64) for a in attributions.values())
        biases = run.outputs.get("bias_terms", np.zeros((len(run.score), 0))).astype(np.float64)
        info = run.memo["terms"]
        maps = {i: run.outputs[f"bias_map/{i}"] for i in range(len(info))} if self.term_maps else {}
        unplaced = np.where([not i.placed for i in info], biases, 0.0)
        if run.memo["partial"]:
            partial = run.memo["partial"]
            unplaced[:, partial] = biases[:, partial] - run.outputs["placed_terms"]
        return Terms(np.asarray(inputs), biases, info, maps, unplaced)

    def notes(self, terms: Terms) -> list[str]:
        """Remarks that the user should see."""
        left = np.abs(terms.implicit) / np.where(terms.magnitude > 0, terms.magnitude, 1.0)
        if not np.any(left > TOLERANCE) or self.implicit:
            return []
        what = "activations that are no gates" if self.balanced else "non-linearities that are not piecewise linear"
        carried = f"carry up to {left.max():.1%} of all terms and are not drawn"
        return [f"implicit biases ({what}, bounds of Clip) {carried}; implicit=True draws them"]
