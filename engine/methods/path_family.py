"""What methods along a path from a baseline share: baselines, averages over several, the convergence residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import REDUCTIONS, Method, Parts, Plan, Run, choose, reduce_channels
from onnxplain.engine.paths import baseline_sets, convergence

#: Convergence delta that is accepted where a method does not refine its steps.
TOLERANCE = 0.05

#: Attributions of some samples with a given number of steps.
Integral = Callable[[Array, int], dict[str, Array]]


@dataclass
class Found:
    """Attributions along the path from one baseline, float64, and words for the result."""

    attributions: dict[str, Array]
    notes: list[str] = field(default_factory=list)


class PathMethod(Method):
    """Attributions that sum to f(x) - f(x'); a subclass finds those along the path from one baseline."""

    walks: ClassVar[bool] = True

    reduction: str = "sum"

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)
        at_least_one(self, "steps")

    @property
    def accepted(self) -> float:
        """The relative convergence delta up to which a result proves itself."""
        return TOLERANCE

    def build(self, plan: Plan) -> None:
        for name, gradient in plan.gradients().items():
            plan.output(f"gradient/{name}", gradient)

    def starts(self, run: Run) -> list[dict[str, Array]]:
        """Where the paths begin: per baseline, an array per subject."""
        return baseline_sets(getattr(self, "baseline", "zero"), run)

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        """Attributions of all samples along one path.

        Args:
            run: The call.
            start: The baseline.
            change: ``[N]``: f(x) - f(start).
        """
        raise NotImplementedError

    def reduce(self, run: Run) -> Parts:
        starts = self.starts(run)
        scores = [start_score(run, one) for one in starts]
        results = [self.along(run, one, run.score - f) for one, f in zip(starts, scores, strict=True)]
        attributions = {n: np.mean([r.attributions[n] for r in results], axis=0) for n in results[0].attributions}
        baseline_score = np.mean(scores, axis=0)
        notes = list(dict.fromkeys(note for r in results for note in r.notes))
        if len(starts) > 1:
            notes.append(f"averaged over {len(starts)} baselines")
        return self.parts(run, attributions, baseline_score, notes)

    def parts(self, run: Run, attributions: dict[str, Array], baseline_score: Array, notes: list[str]) -> Parts:
        """The result, with its map where there is one subject, and its residual."""
        saliency = None
        if len(attributions) == 1:
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction).astype(np.float32)
        return Parts(
            {n: a.astype(run.x[n].dtype) for n, a in attributions.items()},
            saliency,
            residual=convergence(attributions, run.score - baseline_score, self.accepted),
            baseline_score=baseline_score,
            signed=self.reduction == "sum",
            notes=notes,
        )


def start_score(run: Run, start: dict[str, Array]) -> Array:
    """``[N]``: the score at a baseline, float64."""
    found = run.evaluate(start, np.arange(len(run.score)), ["score"])["score"]
    return np.asarray(found, dtype=np.float64).reshape(-1)


def at_least_one(method: Method, *names: str) -> None:
    """Refuse numbers of steps or draws below one.

    Raises:
        OptionError: One of them is.
    """
    for name in names:
        value = getattr(method, name, 1)
        if value < 1:
            raise OptionError(f"{name}={value} is too few; give at least 1")


def refined(
    integral: Integral, change: Array, steps: int, tolerance: float | None, max_steps: int
) -> tuple[dict[str, Array], int]:
    """Integrate; samples whose delta is past the tolerance again, with twice the steps, until they are not.

    Args:
        integral: What integrates.
        change: ``[N]``: what the attributions have to sum to.
        steps: To begin with.
        tolerance: Relative; None: no doubling.
        max_steps: Where doubling ends.

    Returns:
        Attributions ``[N, ...]`` and the largest number of steps used.
    """
    samples = np.arange(len(change))
    result = integral(samples, steps)
    part, used = result, steps
    while tolerance is not None and 2 * used <= max_steps:
        samples = samples[convergence(part, change[samples], tolerance).relative > tolerance]
        if not len(samples):
            break
        used *= 2
        part = integral(samples, used)
        for name, array in part.items():
            result[name][samples] = array
    return result, used


def steps_note(used: int, asked: int) -> list[str]:
    """What to say where more steps were taken than asked for."""
    return [f"integrated with {used} steps ({asked} asked for) to meet the tolerance"] if used > asked else []
