"""Blur Integrated Gradients: from a blurred input to the sharp one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Plan, Run, Variant, method
from onnxplain.engine.methods.path_family import Found, PathMethod
from onnxplain.engine.paths import BlurPath, integrate
from onnxplain.engine.shipping.routes import BlurRoute
from onnxplain.engine.shipping.travel import integral, ship_along


def check_blur(plan: Plan) -> None:
    """Refuse what cannot be blurred.

    Raises:
        OptionError: A subject without neighbourhoods: rows of a table.
    """
    rows = [s.name for s in plan.subjects if len(s.labels) < 3]
    if rows:
        raise OptionError(f"'{rows[0]}' has no places that a blur could mix; use integrated_gradients or guided_ig")


def check_sigma(sigma: float) -> None:
    """Refuse a blur that is none.

    Raises:
        OptionError: Not a positive number.
    """
    if not 0 < sigma < np.inf:
        raise OptionError(f"sigma={sigma} is not possible; give the largest blur in places, such as 50")


@method("blur_ig")
class BlurIG(PathMethod):
    """Gradients along the path on which the input gets sharp: no baseline colour has to be chosen.

    The blur is Gaussian with zeros beyond the borders, so that a very blurred input goes to zero.

    Args:
        steps: Of the path.
        sigma: The largest blur, in places.
        square_root: Whether sigmas are spaced evenly in their squares instead of evenly.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "gradients along the path from a blurred input to the sharp one"
    source: ClassVar[str] = "Xu et al. 2020, arXiv 2004.03383, section 3"
    # A large blur takes most of its steps where nothing changes any more.
    variants: ClassVar[tuple[Variant, ...]] = (Variant({"sigma": 5.0, "steps": 200}, frozenset({"completeness"})),)
    quick: ClassVar[Mapping[str, Any]] = {"steps": 25}

    steps: int = 100
    sigma: float = 50.0
    square_root: bool = False
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sigma(self.sigma)

    def build(self, plan: Plan) -> None:
        check_blur(plan)
        super().build(plan)

    def ship(self, plan: Plan) -> None:
        check_blur(plan)
        ship_along(plan, [BlurRoute(plan, self.sigma, self.steps, self.square_root)], integral, self.reduction)

    def _path(self, run: Run) -> BlurPath:
        return BlurPath(run.x, run.labels, self.sigma, self.steps, self.square_root)

    def starts(self, run: Run) -> list[dict[str, Array]]:
        return [self._path(run).start()]

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        return Found(integrate(run, self._path(run), np.arange(len(change))))
