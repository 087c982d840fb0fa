"""DeepLIFT, and its average over a background set (DeepSHAP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.explanation import Array, Residual
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import STAGING_BYTES, Direct, Parts, Plan, Run, choose, method, reduce_channels
from onnxplain.engine.paths import baseline_sets, convergence
from onnxplain.engine.propagation.difference import POINTS, Differences, Options, leading_to, moving_values
from onnxplain.engine.propagation.difference_cancel import Cancelling
from onnxplain.engine.rules.node import Primal

RULES = ("rescale", "reveal_cancel", "genomics_default")

#: Name of the graph input that the reference is given at.
BASELINE = "baseline"

#: Relative gap up to which contributions count as summing to the difference.
TOLERANCE = 1e-4


class _References(Direct):
    """Contributions against a reference that is a graph input; the mean over several references."""

    walks: ClassVar[bool] = True

    rule: str = "rescale"
    fallback: str = "midpoint"
    threshold: float | None = None
    points: int = POINTS
    reduction: str = "sum"

    def __post_init__(self) -> None:
        choose("rule", self.rule, RULES)
        Options(self.fallback, self.threshold, self.points)
        super().__post_init__()

    def references(self, run: Run) -> Sequence[Mapping[str, Array]]:
        """References per subject, one dictionary for each of several."""
        raise NotImplementedError

    # ----- graph ----------------------------------------------------------------------------------

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        op, explained = plan.rewriter.op, plan.seed.explained
        nodes = leading_to(list(plan.rewriter.graph), explained)
        sources = self._add_baselines(plan)
        moving = moving_values(nodes, sources)
        twins = replay(op, nodes, sources)
        at = self._differences(op, twins, moving)
        multipliers = {
            s.name: at.finished(s.value, m) for s, m in zip(plan.subjects, plan.gradients(at).values(), strict=True)
        }
        product = op.Mul(at.twin(explained), plan.seed.cotangent)
        plan.output("baseline_score", op.ReduceSum(op.Flatten(product, axis=1), [1], keepdims=0), ("N",))
        assert plan.adjoints is not None
        plan.memo["notes"] = _notes(at, plan.adjoints.nodes)
        return {s.name: op.Mul(multipliers[s.name], at.delta(s.value)) for s in plan.subjects}

    def _differences(self, op: Builder, twins: dict[ir.Value, ir.Value], moving: set[ir.Value]) -> Differences:
        options = Options(self.fallback, self.threshold, self.points)
        if self.rule == "rescale":
            return Differences(op, twins, moving, options)
        return Cancelling(op, twins, moving, options, behind="all" if self.rule == "reveal_cancel" else "dense")

    def _add_baselines(self, plan: Plan) -> dict[ir.Value, ir.Value]:
        """One graph input per subject, of its shape or with a batch of 1; the twins of the subjects."""
        sources = {}
        for subject in plan.subjects:
            known = dims(subject.value)
            shape = None
            if known is not None:
                shape = (known[0] if isinstance(known[0], int) else "baselines", *known[1:])
            name = BASELINE if len(plan.subjects) == 1 else f"{BASELINE}/{subject.name}"
            given = plan.rewriter.add_input(name, subject.value.dtype or ir.DataType.FLOAT, shape)
            plan.fed[given.name or name] = subject.name
            op = plan.rewriter.op
            whole = op.Expand(given, op.Shape(subject.value))
            whole.shape = subject.value.shape
            sources[subject.value] = whole
        return sources

    # ----- result ---------------------------------------------------------------------------------

    def reduce(self, run: Run) -> Parts:
        sets = self.references(run)
        if len(sets) == 1 and not any(np.any(b) for b in sets[0].values()):
            # The first run of the graph had zeros there.
            found, low = {n: run.outputs[f"attribution/{n}"] for n in run.x}, run.outputs["baseline_score"]
        else:
            found, low = self._mean(run, sets)
        notes = list(run.memo.get("notes", ()))
        notes += [f"averaged over {len(sets)} references"] if len(sets) > 1 else []
        saliency = None
        if len(found) == 1:
            ((name, array),) = found.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction).astype(np.float32)
        low = np.asarray(low, dtype=np.float64).reshape(-1)
        residual: Residual = convergence(
            found, run.score - low, TOLERANCE, "summation to the difference from the baseline"
        )
        typed = {n: a.astype(run.x[n].dtype, copy=False) for n, a in found.items()}
        return Parts(
            typed, saliency, residual=residual, baseline_score=low, signed=self.reduction == "sum", notes=notes
        )  # fmt: skip

    def _mean(self, run: Run, sets: Sequence[Mapping[str, Array]]) -> tuple[dict[str, Array], Array]:
        """Contributions and reference scores averaged over all references, in float64."""
        count = len(run.score)
        total = {n: np.zeros(x.shape) for n, x in run.x.items()}
        low = np.zeros(count)
        keys = [*(f"attribution/{n}" for n in run.x), "baseline_score"]
        block = max(1, STAGING_BYTES // max(1, 2 * sum(x.nbytes for x in run.x.values())))
        for first in range(0, len(sets), block):
            some = sets[first : first + block]
            samples = np.tile(np.arange(count), len(some))
            places = {n: x[samples] for n, x in run.x.items()}
            for name, subject in run.memo["fed"].items():
                places[name] = np.concatenate([one[subject] for one in some])
            found = run.evaluate(places, samples, keys)
            for n, sums in total.items():
                sums += found[f"attribution/{n}"].astype(np.float64).reshape(len(some), *sums.shape).sum(axis=0)
            low += found["baseline_score"].astype(np.float64).reshape(len(some), count).sum(axis=0)
        return {n: t / len(sets) for n, t in total.items()}, low / len(sets)

    def build(self, plan: Plan) -> None:
        super().build(plan)
        plan.memo["fed"] = dict(plan.fed)


def _notes(at: Differences, nodes: Sequence[Primal]) -> list[str]:
    notes = []
    if at.averaged:
        kinds, count = ", ".join(sorted({n.op_type for n in at.averaged})), at.options.points
        notes.append(f"{kinds}: no rule of its own; its gradient is averaged at {count} points between both passes")
    if any(n.op_type == "QuantizeLinear" for n in nodes):
        notes.append("rounding is credited to nothing and shows in the residual; quantisation=float_shadow has none")
    return notes


@method("deeplift")
class DeepLift(_References):
    """Contributions ``multiplier * (x - x')`` that sum to ``f(x) - f(x')``, by a second forward pass on x'.

    Args:
        rule: ``rescale``; ``reveal_cancel``, which keeps positive and negative parts apart in front of
            activations; ``genomics_default``: that behind dense layers, and rescale behind convolutions.
        baseline: The reference x': see :mod:`onnxplain.engine.baselines`; contributions against several are
            averaged. With several inputs, a dictionary by input name; inputs that it does not name get zero.
        fallback: Where z and z' (nearly) agree, an activation's slope at their ``midpoint``, or at the ``reference``.
        threshold: ``|z - z'|`` up to which it is taken; None: as little as the type's digits allow.
        points: Between both passes, for operators that have no rule of their own (recurrent layers, loops).
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "contributions of differences from a reference, summing to the change of the score"
    source: ClassVar[str] = "Shrikumar et al. 2017, arXiv 1704.02685; the modified-gradient framework, arXiv 1711.06104"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness", "dummy", "linearity", "sensitivity", "symmetry"})

    rule: str = "rescale"
    baseline: Any = "zero"
    fallback: str = "midpoint"
    threshold: float | None = None
    points: int = POINTS
    reduction: str = "sum"

    def references(self, run: Run) -> Sequence[Mapping[str, Array]]:
        return baseline_sets(self.baseline, run)
