"""What DeepLIFT and DeepSHAP share: a second forward pass on the reference, and the walk of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import total_per_sample
from onnxplain.engine.method import STAGING_BYTES, Direct, Parts, Plan, Run, choose, deliver, reduce_channels
from onnxplain.engine.paths import convergence
from onnxplain.engine.propagation.difference import POINTS, Differences, Options, leading_to, moving_values
from onnxplain.engine.propagation.difference_cancel import Cancelling
from onnxplain.engine.propagation.difference_table import find
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.shipping.baselines import BASELINE, shipped_baselines
from onnxplain.engine.shipping.travel import mean

RULES = ("rescale", "reveal_cancel", "genomics_default")

#: Relative gap up to which contributions count as summing to the difference.
TOLERANCE = 1e-4


class DifferenceMethod(Direct):
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
        """References per subject, ``[N, ...]``, one dictionary for each of several."""
        raise NotImplementedError

    def stored(self) -> Any:
        """The same for a file, as :func:`onnxplain.engine.shipping.baselines.shipped_baselines` takes it."""
        raise NotImplementedError

    # ----- graph ----------------------------------------------------------------------------------

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        found, low = self._contributions(plan, self._add_baselines(plan))
        plan.output("baseline_score", low, ("N",))
        plan.memo["fed"] = dict(plan.fed)
        return found

    def ship(self, plan: Plan) -> None:
        op = plan.rewriter.op
        results = []
        for start in shipped_baselines(plan, self.stored()):
            plan.adjoints = None
            results.append(self._contributions(plan, start))
        found = {s.name: mean(op, [f[s.name] for f, _ in results]) for s in plan.subjects}
        change = op.Sub(plan.seed.score, mean(op, [low for _, low in results]))
        plan.output("residual", op.Sub(change, total_per_sample(op, list(found.values()), change)), ("N",))
        deliver(plan, found, self.reduction)

    def _contributions(self, plan: Plan, start: Mapping[str, ir.Value]) -> tuple[dict[str, ir.Value], ir.Value]:
        """Contribution per subject against one reference, in the subjects' shapes, and its score ``[N]``."""
        op, explained = plan.rewriter.op, plan.seed.explained
        sources = {s.value: start[s.name] for s in plan.subjects}
        nodes = leading_to(list(plan.rewriter.graph), explained, sources)
        at = self._differences(op, replay(op, nodes, sources), moving_values(nodes, sources))
        multipliers = plan.gradients(at)
        assert plan.adjoints is not None, "the walk was made"
        plan.memo["notes"] = _notes(at, plan.adjoints.nodes)
        product = op.Mul(at.twin(explained), plan.seed.cotangent)
        low = op.ReduceSum(op.Flatten(product, axis=1), [1], keepdims=0)
        found = {}
        for subject in plan.subjects:
            multiplier = at.finished(subject.value, multipliers[subject.name])
            found[subject.name] = op.Mul(multiplier, at.delta(subject.value))
        return found, low

    def _differences(self, op: Builder, twins: dict[ir.Value, ir.Value], moving: set[ir.Value]) -> Differences:
        options = Options(self.fallback, self.threshold, self.points)
        if self.rule == "rescale":
            return Differences(op, twins, moving, find, options)
        return Cancelling(op, twins, moving, find, options, behind="all" if self.rule == "reveal_cancel" else "dense")

    def _add_baselines(self, plan: Plan) -> dict[str, ir.Value]:
        """A graph input per subject, of its shape or with a batch of 1; given back in the subject's shape."""
        start, op = {}, plan.rewriter.op
        for subject in plan.subjects:
            known = dims(subject.value)
            shape = None
            if known is not None:
                shape = (known[0] if isinstance(known[0], int) else "baselines", *known[1:])
            name = BASELINE if len(plan.subjects) == 1 else f"{BASELINE}/{subject.name}"
            given = plan.rewriter.add_input(name, subject.value.dtype or ir.DataType.FLOAT, shape)
            plan.fed[given.name or name] = subject.name
            start[subject.name] = op.Expand(given, op.Shape(subject.value))
            start[subject.name].shape = subject.value.shape
        return start

    # ----- result ---------------------------------------------------------------------------------

    def reduce(self, run: Run) -> Parts:
        sets = self.references(run)
        if len(sets) == 1 and not any(np.any(b) for b in sets[0].values()):
            # The first run of the graph had zeros there.
            found, low = {n: run.outputs[f"attribution/{n}"] for n in run.x}, run.outputs["baseline_score"]
        else:
            found, low = self._mean(run, sets)
        notes = list(run.memo["notes"])
        notes += [f"averaged over {len(sets)} references"] if len(sets) > 1 else []
        saliency = None
        if len(found) == 1:
            ((name, array),) = found.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction).astype(np.float32)
        low = np.asarray(low, dtype=np.float64).reshape(-1)
        return Parts(
            {n: a.astype(run.x[n].dtype, copy=False) for n, a in found.items()},
            saliency,
            residual=convergence(found, run.score - low, TOLERANCE, "summation to the difference from the reference"),
            baseline_score=low,
            signed=self.reduction == "sum",
            notes=notes,
        )

    def _mean(self, run: Run, sets: Sequence[Mapping[str, Array]]) -> tuple[dict[str, Array], Array]:
        """Contributions and reference scores averaged over all references, in float64."""
        count = len(run.score)
        sums = {n: np.zeros(x.shape) for n, x in run.x.items()}
        low = np.zeros(count)
        keys = [*(f"attribution/{n}" for n in run.x), "baseline_score"]
        block = max(1, STAGING_BYTES // max(1, 2 * sum(x.nbytes for x in run.x.values())))
        for first in range(0, len(sets), block):
            some = sets[first : first + block]
            samples = np.tile(np.arange(count), len(some))
            places = {n: x[samples] for n, x in run.x.items()}
            for name, subject in run.memo["fed"].items():
                places[name] = np.concatenate([np.broadcast_to(one[subject], run.x[subject].shape) for one in some])
            found = run.evaluate(places, samples, keys)
            for n, part in sums.items():
                part += found[f"attribution/{n}"].astype(np.float64).reshape(len(some), *part.shape).sum(axis=0)
            low += found["baseline_score"].astype(np.float64).reshape(len(some), count).sum(axis=0)
        return {n: part / len(sets) for n, part in sums.items()}, low / len(sets)


def _notes(at: Differences, nodes: Sequence[Primal]) -> list[str]:
    notes = []
    if at.averaged:
        kinds, count = ", ".join(sorted({n.op_type for n in at.averaged})), at.options.points
        notes.append(
            f"{kinds}: no rule of its own; its gradient is averaged at {count} points between both passes "
            "(points= takes more, where the residual asks for it)"
        )
    if any(n.op_type == "QuantizeLinear" for n in nodes):
        notes.append("rounding is credited to nothing and shows in the residual; quantisation=float_shadow has none")
    return notes
