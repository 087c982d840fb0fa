"""Nonlinear saliency: not the slope at the input, but where the input has to go for the score to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.ascent import PATIENCE, REACHED, SPENT, STATIONARY, Journey, ball, flow, nearest
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.landscape import Landscape, length
from onnxplain.engine.method import REDUCTIONS, Method, Parts, Plan, Run, Variant, choose, method, reduce_channels
from onnxplain.engine.methods.path_family import TOLERANCE, at_least_one
from onnxplain.engine.paths import StraightPath, convergence, integrate
from onnxplain.engine.quadrature import quadrature

MODES = ("flow", "boundary", "ball")
BUDGETS = {"flow": ("radius", "steps", "output", "flip"), "boundary": ("flip", "output"), "ball": ("radius",)}
RETURNS = ("displacement", "path_attribution")
DIRECTIONS = {"ascend": 1.0, "descend": -1.0}

#: How a search ended, for readers.
WORDS = {
    REACHED: "reached what it looked for",
    STATIONARY: "stopped where no step improves: the score is flat there, at an extreme, or held by the box",
    SPENT: "out of steps",
}

#: Factor on the length of a step that improved, for flows that aim at a score.
GROWTH = 1.1

#: Samples whose journeys are told one by one.
TOLD = 8


@method("nonlinear_saliency")
class NonlinearSaliency(Method):
    """The displacement that changes the score, found by following its gradient instead of trusting it.

    Inspired by Rosenzweig, Cvetkovic and Rosenzweig (arXiv 2110.06639), whose text was not accessible: this is
    a reading of its abstract, and not the authors' algorithm. On affine functions the displacement is a
    multiple of the gradient (for ``norm=2``), so that it agrees with linear saliency where that is right.
    Attributions have the sign of what raises the score, also where it was made to fall. For classes that are
    not the largest, ``head="margin"`` or ``head="log_probability"`` tell most.

    Args:
        mode: ``flow`` follows the gradient step by step, and every step has to improve the score; ``boundary``
            looks for the smallest displacement that gives the score a certain value; ``ball`` for the best
            score within a distance.
        norm: 2, 1 or ``inf``: what steps are steepest in, and distances measured in.
        budget: When a flow ends, and which value a boundary has: ``radius`` (at a distance), ``steps``
            (after so many), ``output`` (when the score has changed by ``change``), ``flip`` (when it is 0, with
            ``head="margin"`` where the decision flips). By default ``radius``, for boundaries ``flip``.
        direction: ``ascend`` or ``descend``; a flip goes towards 0.
        radius: Distance, as a share of the sample's own norm.
        change: Change of the score for ``budget="output"``.
        steps: Of a flow; four times as many at most where it has somewhere to get, halved ones included. For
            a ball and a boundary, improvements at most.
        step: Length of a step of a flow, as a share of the sample's norm; by default ``radius / steps``, and
            growing from there where the flow aims at a score and nobody knows how far that is.
        box: ``[smallest, largest]`` value of an element, in the numbers that the network sees.
        returns: ``displacement``, or ``path_attribution``: gradient times move, summed along the way, which
            sums to the change of the score (along the flow itself; for the others along a straight line).
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "where the input has to go for the score to change: gradient flow, boundary or ball"
    source: ClassVar[str] = "inspired by Rosenzweig, Cvetkovic and Rosenzweig 2021, arXiv 2110.06639 (abstract alone)"
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"dummy", "implementation_invariance", "sensitivity_unless_stationary"}
    )
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant({"returns": "path_attribution"}, axioms | {"completeness_along_the_way"}),
        Variant({"returns": "path_attribution", "mode": "ball"}, axioms | {"completeness_along_the_way"}),
    )
    walks: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10}

    outside: ClassVar[str] = (
        "it searches, and how many steps that takes, halved and taken back, is known only on the way; "
        "write integrated_gradients, or gradient with head='margin'"
    )

    mode: str = "flow"
    norm: Any = 2
    budget: str = ""
    direction: str = "ascend"
    radius: float = 0.05
    change: float = 1.0
    steps: int = 50
    step: float | None = None
    box: Any = None
    returns: str = "displacement"
    reduction: str = "sum_abs"

    def __post_init__(self) -> None:
        choose("mode", self.mode, MODES)
        choose("norm", str(self.norm), ("1", "2", "inf"))
        choose("budget", self.budget or BUDGETS[self.mode][0], BUDGETS[self.mode])
        choose("direction", self.direction, tuple(DIRECTIONS))
        choose("returns", self.returns, RETURNS)
        choose("reduction", self.reduction, REDUCTIONS)
        at_least_one(self, "steps")
        for name in ("radius", "change", "step"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise OptionError(f"{name}={value} must be positive")
        self._box()

    def _box(self) -> tuple[float, float] | None:
        if self.box is None:
            return None
        ends = np.asarray(self.box, dtype=object).reshape(-1)
        if len(ends) != 2 or not all(isinstance(e, (int, float)) for e in ends) or not ends[0] < ends[1]:
            raise OptionError(f"box={self.box!r} is no range; give the smallest and the largest value: [-1.0, 1.0]")
        return float(ends[0]), float(ends[1])

    @property
    def _budget(self) -> str:
        return self.budget or BUDGETS[self.mode][0]

    def build(self, plan: Plan) -> None:
        known = dims(plan.seed.explained)
        several = known is None or any(d != 1 for d in known[1:])
        if self._budget == "flip" and several and plan.seed.index is not None and plan.head != "margin":
            raise OptionError(
                "a flip is where the explained scalar is 0, and one class among several has no such place; "
                "give head='margin', or budget='output'"
            )
        for name, gradient in plan.gradients().items():
            plan.output(f"gradient/{name}", gradient)

    def reduce(self, run: Run) -> Parts:
        land = Landscape(run, self._box())
        norm = float(self.norm)
        # A sample of zeros is measured like one of ones.
        size = length(land.x, norm)
        size = np.where(size > 0, size, length(np.ones_like(land.x), norm))
        sign = np.full(len(size), DIRECTIONS[self.direction])
        goal = land.score + sign * self.change
        if self._budget == "flip":
            goal = np.zeros(len(size))
            sign = np.where(land.score > 0, -1.0, 1.0)
        journey = self._travel(run, land, norm, size, sign, goal)
        result, residual = self._result(run, land, journey, sign)
        saliency = None
        if len(result) == 1:
            ((name, array),) = result.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction).astype(np.float32)
        return Parts(
            {n: a.astype(run.x[n].dtype) for n, a in result.items()},
            saliency,
            residual=residual,
            signed=self.reduction == "sum",
            notes=self._notes(land, journey, norm),
        )

    def _travel(self, run: Run, land: Landscape, norm: float, size: Array, sign: Array, goal: Array) -> Journey:
        if self.mode == "ball":
            return ball(land, sign, norm, self.radius * size, self.steps)
        if self.mode == "boundary":
            return nearest(land, goal, norm, self.steps, run.seed)
        far = np.full(len(size), np.inf)
        share = self.step if self.step is not None else self.radius / self.steps
        aimed = self._budget in ("output", "flip")
        return flow(
            land, sign, norm,
            step=share * size,
            radius=self.radius * size if self._budget == "radius" else far,
            goal=goal if aimed else sign * far,
            growth=GROWTH if aimed and self.step is None else 1.0,
            steps=self.steps if self._budget == "steps" else PATIENCE * self.steps,
            trials=PATIENCE * self.steps,
        )  # fmt: skip

    def _result(
        self, run: Run, land: Landscape, journey: Journey, sign: Array
    ) -> tuple[dict[str, Array], Residual | None]:
        """Attributions, and for those along the way how well they sum to the change of the score."""
        if self.returns == "displacement":
            return land.packing.split(sign[:, None] * (journey.z - land.x)), None
        integral = journey.integral
        if integral is None:
            end = {n: a.astype(run.x[n].dtype) for n, a in land.packing.split(journey.z).items()}
            path = StraightPath(end, run.x, *quadrature("riemann_middle", max(50, self.steps)))
            integral = land.packing.join(integrate(run, path, np.arange(len(sign))))
        result = land.packing.split(sign[:, None] * integral)
        change, words = sign * (journey.score - land.score), "convergence of the integral along the way"
        return result, convergence(result, change, TOLERANCE, words)

    def _notes(self, land: Landscape, journey: Journey, norm: float) -> list[str]:
        away = length(journey.z - land.x, norm)
        notes = []
        for n, state in enumerate(journey.state[:TOLD]):
            went = f"score {land.score[n]:.4g} -> {journey.score[n]:.4g} at distance {away[n]:.4g} (norm {norm:g})"
            words = "took its steps" if state == SPENT and self._budget == "steps" else WORDS[state]
            notes.append(f"sample {n}: {went}: {words}")
        if len(journey.state) > TOLD:
            counts = {s: journey.state.count(s) for s in (REACHED, STATIONARY, SPENT)}
            notes.append("all samples: " + ", ".join(f"{c} {s}" for s, c in counts.items() if c))
        return notes
