"""Integrated Gradients along the straight line from a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Plan, Run, choose, method
from onnxplain.engine.methods.path_family import TOLERANCE, Found, PathMethod, at_least_one, refined, steps_note
from onnxplain.engine.paths import StraightPath, integrate
from onnxplain.engine.quadrature import RULES, quadrature
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.routes import StraightRoute
from onnxplain.engine.shipping.travel import integral, ship_along


class Straight(PathMethod):
    """Integrals along the straight line; a subclass may give another gradient in `build`."""

    steps: int = 50
    quadrature: str = "gauss_legendre"
    baseline: Any = "zero"
    tolerance: float | None = 0.01
    max_steps: int = 800
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("quadrature", self.quadrature, RULES)
        at_least_one(self, "max_steps")
        if self.tolerance is not None and not self.tolerance > 0:
            raise OptionError(f"tolerance={self.tolerance} must be positive, or None for no doubling")

    @property
    def accepted(self) -> float:
        return self.tolerance or TOLERANCE

    def ship(self, plan: Plan) -> None:
        rule = quadrature(self.quadrature, self.steps)
        routes = [StraightRoute(plan, one, *rule) for one in shipped_baselines(plan, self.baseline)]
        ship_along(plan, routes, integral, self.reduction)

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        def integrated(samples: Array, steps: int) -> dict[str, Array]:
            return integrate(run, StraightPath(run.x, start, *quadrature(self.quadrature, steps)), samples)

        found, used = refined(integrated, change, self.steps, self.tolerance, self.max_steps)
        return Found(found, steps_note(used, self.steps))


@method("integrated_gradients")
class IntegratedGradients(Straight):
    """``(x - x') * integral of grad f(x' + alpha (x - x')) d alpha``.

    The authors explain the softmax probability; here the logit is explained unless ``head="probability"`` is
    asked for, because the probability's gradient vanishes where it is near 0 or 1. With ``wrt=`` an inner
    tensor, the line is drawn in that tensor's own space; ``baseline="input:zero"`` then begins it where the
    model takes the zero input (other baselines likewise), and for texts ``baseline="token:0"`` begins it at
    the embedding of token 0 in every place.

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
    quick: ClassVar[Mapping[str, Any]] = {"steps": 20, "tolerance": None}

    steps: int = 50
    quadrature: str = "gauss_legendre"
    baseline: Any = "zero"
    tolerance: float | None = 0.01
    max_steps: int = 800
    reduction: str = "sum"
