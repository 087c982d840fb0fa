"""IDGI: each step's change of the score, shared out by the squared gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.explanation import Array
from onnxplain.engine.guided_path import GuidedPath
from onnxplain.engine.method import Plan, Run, choose, method
from onnxplain.engine.methods.blur_ig import check_blur, check_sigma
from onnxplain.engine.methods.guided_ig import check_band
from onnxplain.engine.methods.path_family import Found, PathMethod
from onnxplain.engine.paths import BlurPath, Path, StraightPath
from onnxplain.engine.quadrature import quadrature
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.routes import BlurRoute, GuidedRoute, Route, StraightRoute
from onnxplain.engine.shipping.travel import shared_changes, ship_along

PATHS = ("straight", "guided", "blur")

#: The sum telescopes, so that nothing but rounding may be left over.
EXACT = 1e-4


@method("idgi")
class IDGI(PathMethod):
    """``sum_j (f_{j+1} - f_j) g_j^2 / |g_j|^2`` over the steps of a path.

    The sum is f(x) - f(x') exactly, whatever the number of steps. A step that begins where the gradient is
    zero is shared out by the gradient at its end; only where both are zero is a change left over, and shows
    in the residual. A feature that does not differ from the baseline may get something.

    Args:
        steps: Of the path.
        path: ``straight`` (Integrated Gradients), ``guided`` (Guided IG) or ``blur`` (Blur IG).
        baseline: Where the path begins: see :mod:`onnxplain.engine.baselines`; ``blur`` begins at the blurred input.
        fraction, max_dist: Of the guided path.
        sigma: Of the blur path.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "changes of the score along a path, shared out by the squared gradient"
    source: ClassVar[str] = "Yang, Wang and Bilgic 2023, arXiv 2303.14242, section 4"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness", "dummy", "implementation_invariance", "sensitivity"})
    quick: ClassVar[Mapping[str, Any]] = {"steps": 20}

    steps: int = 50
    path: str = "straight"
    baseline: Any = "zero"
    fraction: float = 0.25
    max_dist: float = 0.02
    sigma: float = 50.0
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("path", self.path, PATHS)
        check_band(self.fraction, self.max_dist)
        check_sigma(self.sigma)

    @property
    def accepted(self) -> float:
        return EXACT

    def build(self, plan: Plan) -> None:
        if self.path == "blur":
            check_blur(plan)
        super().build(plan)

    def ship(self, plan: Plan) -> None:
        ship_along(plan, self._routes(plan), shared_changes, self.reduction)

    def _routes(self, plan: Plan) -> list[Route]:
        if self.path == "blur":
            check_blur(plan)
            return [BlurRoute(plan, self.sigma, self.steps, leading=True)]
        starts = shipped_baselines(plan, self.baseline)
        if self.path == "straight":
            return [StraightRoute(plan, one, *quadrature("riemann_left", self.steps)) for one in starts]
        return [GuidedRoute(plan, one, self.steps, self.fraction, self.max_dist) for one in starts]

    def _blur(self, run: Run) -> BlurPath:
        return BlurPath(run.x, run.labels, self.sigma, self.steps, leading=True)

    def starts(self, run: Run) -> list[dict[str, Array]]:
        return [self._blur(run).start()] if self.path == "blur" else super().starts(run)

    def _path(self, run: Run, start: dict[str, Array]) -> Path:
        if self.path == "blur":
            return self._blur(run)
        if self.path == "guided":
            return GuidedPath(run.x, start, self.steps, self.fraction, self.max_dist)
        return StraightPath(run.x, start, *quadrature("riemann_left", self.steps))

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        total = {n: np.zeros(x.shape, dtype=np.float64) for n, x in run.x.items()}
        waiting = _Step(_shares(run.outputs, len(change)), run.score - change)
        for part in self._path(run, start).travel(run, np.arange(len(change))):
            for step, score in enumerate(part.scores):
                here = _shares({f"gradient/{n}": g[step] for n, g in part.gradients.items()}, len(score))
                waiting.finish(part.rows, score, here, total)
                waiting.begin(part.rows, score, here)
        waiting.finish(slice(None), run.score, _shares(run.outputs, len(change)), total)
        return Found(total)


def _shares(outputs: Mapping[str, Array], count: int) -> dict[str, Array]:
    """Each element's part of the squared gradient, per subject; zero in rows whose gradient is zero."""
    squares = {k[9:]: v.astype(np.float64) ** 2 for k, v in outputs.items() if k.startswith("gradient/")}
    norm = np.sum([s.reshape(count, -1).sum(axis=1) for s in squares.values()], axis=0)
    norm = np.where(norm > 0, norm, 1.0)
    return {n: s / norm.reshape(-1, *[1] * (s.ndim - 1)) for n, s in squares.items()}


class _Step:
    """The step under way in each row: how its change will be shared out, and the score that it began with."""

    def __init__(self, shares: dict[str, Array], score: Array) -> None:
        self.shares, self.score = {n: s.copy() for n, s in shares.items()}, score.astype(np.float64)

    def begin(self, rows: slice, score: Array, shares: dict[str, Array]) -> None:
        for name, part in shares.items():
            self.shares[name][rows] = part
        self.score[rows] = score

    def finish(self, rows: slice, score: Array, after: dict[str, Array], total: dict[str, Array]) -> None:
        """Share out the change; where the gradient was zero before it, by the gradient ``after`` it."""
        change = score - self.score[rows]
        flat = np.all([~s[rows].reshape(len(change), -1).any(axis=1) for s in self.shares.values()], axis=0)
        for name, shares in self.shares.items():
            over = (-1, *[1] * (shares.ndim - 1))
            part = np.where(flat.reshape(over), after[name], shares[rows])
            total[name][rows] += part * change.reshape(over)
