"""Integrated Gradients along the straight line from a baseline."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.baselines import make_baselines
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual
from onnxplain.engine.method import REDUCTIONS, STAGING_BYTES, Method, Parts, Plan, Run, choose, method, reduce_channels
from onnxplain.engine.quadrature import RULES, quadrature


@method("integrated_gradients")
class IntegratedGradients(Method):
    """``(x - x') * integral of grad f(x' + alpha (x - x')) d alpha``.

    Args:
        steps: Points of the quadrature to begin with.
        quadrature: See :mod:`onnxplain.engine.quadrature`.
        baseline: See :mod:`onnxplain.engine.baselines`; several are averaged. With several inputs, a
            dictionary by input name; inputs that it does not name get zero.
        tolerance: Relative convergence delta to reach; samples beyond it are integrated again with
            twice the steps. None: the steps asked for and no more.
        max_steps: Where doubling ends.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "gradients integrated along the line from a baseline"
    source: ClassVar[str] = "Sundararajan et al. 2017, arXiv 1703.01365"
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"completeness", "dummy", "implementation_invariance", "linearity", "sensitivity", "symmetry"}
    )
    walks: ClassVar[bool] = True

    steps: int = 50
    quadrature: str = "gauss_legendre"
    baseline: Any = "zero"
    tolerance: float | None = 0.01
    max_steps: int = 800
    reduction: str = "sum"

    def __post_init__(self) -> None:
        choose("quadrature", self.quadrature, RULES)
        choose("reduction", self.reduction, REDUCTIONS)
        if self.steps < 1 or self.max_steps < 1:
            raise OptionError(f"steps={self.steps} and max_steps={self.max_steps} must be at least 1")
        if self.tolerance is not None and not self.tolerance > 0:
            raise OptionError(f"tolerance={self.tolerance} must be positive, or None for no doubling")

    def build(self, plan: Plan) -> None:
        for name, gradient in plan.gradients().items():
            plan.output(f"gradient/{name}", gradient)

    def reduce(self, run: Run) -> Parts:
        sets = self._baselines(run)
        count = len(sets)
        results = [self._converged(run, one) for one in sets]
        attributions = {n: np.mean([r[0][n] for r in results], axis=0) for n in run.x}
        baseline_score = np.mean([r[1] for r in results], axis=0)
        steps = max(int(r[2].max()) for r in results)
        change = run.score - baseline_score
        residual = self._delta(attributions, change)
        notes = []
        if steps > self.steps:
            notes.append(f"integrated with {steps} steps ({self.steps} asked for) to meet the tolerance")
        if count > 1:
            notes.append(f"averaged over {count} baselines")
        saliency = None
        if len(attributions) == 1:
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction)
        typed = {n: a.astype(run.x[n].dtype) for n, a in attributions.items()}
        return Parts(
            typed, None if saliency is None else saliency.astype(np.float32), residual=residual,
            baseline_score=baseline_score, signed=self.reduction == "sum", notes=notes,
        )  # fmt: skip

    def _baselines(self, run: Run) -> list[dict[str, Array]]:
        spec = self.baseline if isinstance(self.baseline, dict) else dict.fromkeys(run.x, self.baseline)
        unknown = set(spec) - set(run.x)
        if unknown:
            raise OptionError(
                f"baseline names {sorted(unknown)}, which are not attributed to; it may name {sorted(run.x)}"
            )
        made = {n: make_baselines(spec.get(n, "zero"), x, run.labels[n], seed=run.seed) for n, x in run.x.items()}
        count = max(len(b) for b in made.values())
        if any(len(b) not in (1, count) for b in made.values()):
            raise OptionError("the inputs have different numbers of baselines; give each one, or the same number")
        return [{n: b[i if len(b) > 1 else 0] for n, b in made.items()} for i in range(count)]

    def _delta(self, attributions: dict[str, Array], change: Array) -> Residual:
        flat = [a.reshape(len(a), -1) for a in attributions.values()]
        total = np.sum([a.sum(axis=1) for a in flat], axis=0)
        scale = np.maximum(np.abs(change), np.sum([np.abs(a).sum(axis=1) for a in flat], axis=0))
        absolute = change - total
        relative = np.abs(absolute) / np.where(scale > 0, scale, 1.0)
        return Residual(absolute, relative, "convergence of the path integral", self.tolerance or 0.05)

    def _converged(self, run: Run, baseline: dict[str, Array]) -> tuple[dict[str, Array], Array, Array]:
        """Attributions, baseline scores and steps per sample, doubling where the delta asks for it."""
        samples = np.arange(len(run.score))
        start = np.asarray(run.evaluate(baseline, samples, ["score"])["score"], dtype=np.float64)
        result = {n: np.zeros(x.shape, dtype=np.float64) for n, x in run.x.items()}
        used = np.zeros(len(samples), dtype=np.int64)
        steps = self.steps
        while True:
            part = self._integrate(run, baseline, samples, steps)
            for n, a in part.items():
                result[n][samples] = a
            used[samples] = steps
            if self.tolerance is None or 2 * steps > self.max_steps:
                break
            delta = self._delta(part, (run.score - start)[samples]).relative
            samples = samples[delta > self.tolerance]
            if not len(samples):
                break
            steps *= 2
        return result, start, used

    def _integrate(self, run: Run, baseline: dict[str, Array], samples: Array, steps: int) -> dict[str, Array]:
        """All points of all samples, in the runner's chunks, accumulated in float64."""
        points, weights = quadrature(self.quadrature, steps)
        total = {n: np.zeros((len(samples), *x.shape[1:]), dtype=np.float64) for n, x in run.x.items()}
        per_step = sum(x[:1].nbytes for x in run.x.values()) * max(1, len(samples))
        block = max(1, STAGING_BYTES // max(1, per_step))
        for first in range(0, len(points), block):
            alphas, factors = points[first : first + block], weights[first : first + block]
            which = np.tile(np.arange(len(samples)), len(alphas))
            place = {}
            for n, x in run.x.items():
                share = np.repeat(alphas, len(samples)).reshape(-1, *[1] * (x.ndim - 1))
                low = baseline[n][samples][which]
                place[n] = (low + share * (x[samples][which].astype(np.float64) - low)).astype(x.dtype)
            found = run.evaluate(place, samples[which], [f"gradient/{n}" for n in run.x])
            factor = np.repeat(factors, len(samples))
            for n in run.x:
                gradient = found[f"gradient/{n}"].astype(np.float64)
                np.add.at(total[n], which, gradient * factor.reshape(-1, *[1] * (gradient.ndim - 1)))
        return {n: t * (run.x[n][samples].astype(np.float64) - baseline[n][samples]) for n, t in total.items()}
