"""Layer-wise relevance propagation, layer by layer or as a modified gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError, SessionError
from onnxplain.engine.explanation import Array, Residual, TermInfo, Terms
from onnxplain.engine.layout import total_per_sample
from onnxplain.engine.method import Parts, Plan, Run, Variant, choose, method
from onnxplain.engine.methods.composed import ComposedMethod
from onnxplain.engine.propagation.catalogue import Kind
from onnxplain.engine.propagation.composite import Composite, everywhere
from onnxplain.engine.propagation.ledger import absorbed, is_closed
from onnxplain.engine.propagation.relevance import BIASES, GATES, SOFTMAXES, Settings
from onnxplain.engine.propagation.relevance_defaults import (
    default_relevance,
    describe_secants,
    held_fixed,
    left_to_taylor,
    secant_table,
)
from onnxplain.engine.terms import any_astray, bias_terms, refuse_astray

MODES = ("layerwise", "modified_gradient")
STARTS = ("score", "one")

#: Of the stabiliser, by mode: what the usual implementations of each take.
EPSILON = {"layerwise": 1e-6, "modified_gradient": 1e-4}

#: Growth of the magnitude of relevance past which the result says so.
LARGEST_GROWTH = 1e6

#: Share of all relevance that may be missing for reasons of rounding.
TOLERANCE = 1e-3


@method("lrp")
class LayerwiseRelevance(ComposedMethod):
    """The score is handed back layer by layer, to each operand by its share in the result.

    Without a composite every layer has the epsilon rule. What does not reach the input stays with biases,
    stabilisers and non-linearities: ``explanation.terms`` names each share, and the residual checks their sum.

    Args:
        mode: ``layerwise``, or ``modified_gradient``: the input times a gradient in which each elementwise
            function has the slope ``f(z) / (z + epsilon sign z)``.
        composite: Which layer has which rule: a preset's name, a TOML file or entries; see docs/composites.md.
        epsilon: Of the stabiliser; by default 1e-6 layer by layer, 1e-4 as a modified gradient.
        bias: ``absorb``: a bias takes its share; ``ignore``: all goes to the operands.
        softmax: ``taylor``: ``x (R - p sum R)`` passes a softmax; ``constant``: its result is held fixed.
        gates: Of products in which one factor is a sigmoid: ``half`` to each, or all to the ``signal``.
        start: What begins: the ``score``, or ``one``.
        reduction: Of channels, for the map: ``sum_abs``, ``max_abs``, ``l2`` or ``sum`` (which keeps the sign).
    """

    summary: ClassVar[str] = "relevance handed back layer by layer, by contribution"
    source: ClassVar[str] = (
        "Bach et al. 2015, doi 10.1371/journal.pone.0130140; Ancona et al. 2018, arXiv 1711.06104; "
        "Achtibat et al. 2024, arXiv 2402.05602"
    )
    axioms: ClassVar[frozenset[str]] = frozenset({"conservation", "dummy", "full_completeness", "linearity"})
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant({"mode": "modified_gradient"}, axioms),
        *(
            Variant({"composite": preset}, frozenset({"conservation", "dummy", "full_completeness"}))
            for preset in ("excitation_backprop", "epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box")
        ),
    )
    carries: ClassVar[Kind] = "relevance"

    mode: str = "layerwise"
    composite: Any = None
    epsilon: float | None = None
    bias: str = "absorb"
    softmax: str = "taylor"
    gates: str = "half"
    start: str = "score"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("mode", self.mode, MODES)
        choose("bias", self.bias, BIASES)
        choose("softmax", self.softmax, SOFTMAXES)
        choose("gates", self.gates, GATES)
        choose("start", self.start, STARTS)
        if self.epsilon is not None and not (self.epsilon > 0 and np.isfinite(self.epsilon)):
            raise OptionError(f"epsilon={self.epsilon} is not possible; give a positive number")
        if self.composite is not None and self.mode != "layerwise":
            raise OptionError("a composite names rules for layers; leave it out, or use mode='layerwise'")

    @property
    def folds_normalization(self) -> bool:
        return self.mode == "layerwise"

    # ----- graph ----------------------------------------------------------------------------------

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        op, seed = plan.rewriter.op, plan.seed
        layerwise = self.mode == "layerwise"
        begin = seed.cotangent
        if layerwise and self.start == "score":
            begin = op.Mul(seed.explained, seed.cotangent)
            begin.shape = seed.explained.shape
        self.place_layers(plan)
        wanted = [s.value for s in plan.subjects]
        plan.adjoints = plan.rewriter.backward_from({seed.explained: begin}, wanted, self._lookup())
        arrived = plan.gradients()
        if not layerwise:
            arrived = {s.name: op.Mul(arrived[s.name], s.value) for s in plan.subjects}
        plan.memo["notes"] = self._notes(plan)
        self._account(plan)
        return arrived

    def _lookup(self) -> Composite:
        epsilon = self.epsilon if self.epsilon is not None else EPSILON[self.mode]
        if self.mode != "layerwise":
            return Composite([(everywhere, secant_table(epsilon))])
        rest = default_relevance(Settings(epsilon, self.bias, self.softmax, self.gates))
        if self.entries is None:
            return Composite([], rest)
        given: dict[str, Any] = {"bias": self.bias, "softmax": self.softmax}
        return self.entries.composite(rest, given | ({} if self.epsilon is None else {"epsilon": epsilon}))

    def _notes(self, plan: Plan) -> list[str]:
        assert plan.adjoints is not None
        if self.mode != "layerwise":
            return describe_secants(plan.adjoints)
        notes = []
        if other := left_to_taylor(plan.adjoints):
            notes.append(f"{', '.join(other)}: no rule of relevance; by the first-order Taylor share instead")
        if held := held_fixed(plan.adjoints):
            notes.append(f"{', '.join(held)}: relevance goes to the values, none to where or how they are taken")
        return notes + self.describe_entries(plan)

    def _account(self, plan: Plan) -> None:
        """Emit what did not reach the input, term by term."""
        assert plan.adjoints is not None
        sources = {s.value: s.labels for s in plan.subjects}
        terms = absorbed(plan.adjoints, sources)
        if self.mode != "layerwise":
            lookup = self._lookup()
            opset = plan.rewriter.op.opset
            served = {n.name for n in plan.adjoints.nodes if lookup.override(n, opset) is not None}
            terms += [t for t in bias_terms(plan.rewriter.op, plan.adjoints, sources) if t.node not in served]
        elif not is_closed(plan.adjoints):
            plan.memo["notes"].append("what biases absorb inside loops is not told, so conservation is not checked")
            return
        plan.one_by_one = any_astray(terms)
        plan.memo["terms"] = tuple(
            TermInfo(t.node, t.operator, t.kind, t.parameter, t.tensor, placed=False, mapped=False) for t in terms
        )
        if terms:
            op = plan.rewriter.op
            plan.output("absorbed", op.Concat(*[t.total(op) for t in terms], axis=1), ("N", len(terms)))

    def ship(self, plan: Plan) -> None:
        super().ship(plan)
        if "terms" not in plan.memo:
            return
        refuse_astray(plan.one_by_one)
        op = plan.rewriter.op
        parts = [plan.values[f"attribution/{s.name}"] for s in plan.subjects]
        parts += [plan.values["absorbed"]] if "absorbed" in plan.values else []
        arrived = total_per_sample(op, parts, plan.seed.score)
        begun = op.Add(op.Mul(plan.seed.score, 0.0), 1.0) if self._begins_with_one else plan.seed.score
        plan.output("residual", op.Sub(begun, arrived), ("N",))

    @property
    def _begins_with_one(self) -> bool:
        return self.mode == "layerwise" and self.start == "one"

    # ----- result ---------------------------------------------------------------------------------

    def reduce(self, run: Run) -> Parts:
        parts = super().reduce(run)
        if not all(np.isfinite(a).all() for a in parts.attributions.values()):
            raise SessionError(
                "relevance grew past the largest number: it was divided by results near 0, again and again; "
                "use a larger epsilon=, bias='absorb', or composite='epsilon_plus'"
            )
        info = run.memo.get("terms")
        if info is None:
            return parts
        arrived = sum(a.reshape(len(a), -1).sum(axis=1, dtype=np.float64) for a in parts.attributions.values())
        biases = run.outputs.get("absorbed", np.zeros((len(run.score), 0))).astype(np.float64)
        parts.terms = Terms(np.asarray(arrived), biases, info)
        begun = np.ones_like(run.score) if self._begins_with_one else run.score
        absolute = begun - parts.terms.total
        size = sum(np.abs(a).reshape(len(a), -1).sum(axis=1, dtype=np.float64) for a in parts.attributions.values())
        size = np.maximum(np.asarray(size), parts.terms.magnitude)
        relative = np.abs(absolute) / np.where(size > 0, size, 1.0)
        parts.residual = Residual(absolute, relative, "conservation of relevance", TOLERANCE)
        parts.notes += _remarks(parts.terms, begun, size)
        return parts


def _remarks(terms: Terms, begun: Array, size: Array) -> list[str]:
    """What the user should know of relevance that did not arrive, or grew on its way."""
    notes = []
    scale = np.where(begun != 0, np.abs(begun), 1.0)
    share = np.max(np.abs(terms.explicit) / scale, initial=0.0)
    if share > 0.95:
        notes.append(f"biases absorb relevance of {share:.0%} of what began; bias='ignore' leaves them out")
    elif share > 0.01:
        notes.append(f"biases absorb relevance of up to {share:.0%} of what began")
    kept = np.max(np.abs(terms.implicit) / scale, initial=0.0)
    if kept > 0.01:
        notes.append(
            f"non-linearities, and results without contributions, keep relevance of up to {kept:.0%} of what began"
        )
    growth = np.max(size / scale, initial=0.0)
    if growth > LARGEST_GROWTH:
        notes.append(
            f"relevance grew to {growth:.0e} times what began: results near 0 divide it; use a larger epsilon=, "
            "or composite='epsilon_plus'"
        )
    return notes
