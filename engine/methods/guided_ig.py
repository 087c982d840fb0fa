"""Guided Integrated Gradients: a path that leaves the important features to the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.guided_path import GuidedPath
from onnxplain.engine.method import Plan, Run, method
from onnxplain.engine.methods.path_family import Found, PathMethod
from onnxplain.engine.paths import integrate
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.routes import GuidedRoute
from onnxplain.engine.shipping.travel import integral, ship_along


def check_band(fraction: float, max_dist: float) -> None:
    """Refuse what is no share.

    Raises:
        OptionError: ``fraction`` not in (0, 1], or ``max_dist`` not in [0, 1].
    """
    if not 0 < fraction <= 1:
        raise OptionError(f"fraction={fraction} is no share of the features; give more than 0 and at most 1")
    if not 0 <= max_dist <= 1:
        raise OptionError(f"max_dist={max_dist} is no share of the way; give 0 (the straight line) to 1 (anywhere)")


@method("guided_ig")
class GuidedIG(PathMethod):
    """Gradients along a path on which the features with the smallest gradients move first.

    The path stays within ``max_dist`` of the straight line; it depends on the gradient, so its steps follow
    one another and cannot be batched, but all samples of a batch go side by side. With ``max_dist=0`` it is
    Integrated Gradients with as many left-hand steps.

    Args:
        steps: Of the path (``x_steps`` in the authors' code).
        fraction: Share of the features that moves at a time.
        max_dist: How far a feature may be ahead of the straight line or behind it, as a share of the way.
        baseline: See :mod:`onnxplain.engine.baselines`; several are averaged.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "gradients along a path that moves the features with the smallest gradients first"
    source: ClassVar[str] = "Kapishnikov et al. 2021, arXiv 2106.09788, section 4"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness", "dummy", "implementation_invariance", "sensitivity"})
    quick: ClassVar[Mapping[str, Any]] = {"steps": 30}

    steps: int = 200
    fraction: float = 0.25
    max_dist: float = 0.02
    baseline: Any = "zero"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_band(self.fraction, self.max_dist)

    def ship(self, plan: Plan) -> None:
        starts = shipped_baselines(plan, self.baseline)
        routes = [GuidedRoute(plan, one, self.steps, self.fraction, self.max_dist) for one in starts]
        ship_along(plan, routes, integral, self.reduction)

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        path = GuidedPath(run.x, start, self.steps, self.fraction, self.max_dist)
        return Found(integrate(run, path, np.arange(len(change))))
