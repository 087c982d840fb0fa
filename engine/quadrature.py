"""Points and weights on [0, 1] for path integrals; the weights of every rule sum to one."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.errors import OptionError

RULES = ("gauss_legendre", "riemann_left", "riemann_right", "riemann_middle", "trapezoid")

Array = np.ndarray[Any, Any]


def quadrature(rule: str, steps: int) -> tuple[Array, Array]:
    """Points and weights, float64.

    Args:
        rule: One of `RULES`. ``trapezoid`` has ``steps`` intervals and so ``steps + 1`` points, as in the
            authors' code of Integrated Gradients; the others have ``steps`` points.
        steps: At least 1.

    Raises:
        OptionError: Unknown rule, or fewer than one step.
    """
    if rule not in RULES:
        raise OptionError(f"unknown quadrature '{rule}'; choose one of {', '.join(RULES)}")
    if steps < 1:
        raise OptionError(f"steps={steps} is too few; give at least 1")
    if rule == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return 0.5 * (points + 1.0), 0.5 * weights
    if rule == "trapezoid":
        weights = np.full(steps + 1, 1.0 / steps)
        weights[[0, -1]] *= 0.5
        return np.arange(steps + 1) / steps, weights
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return (np.arange(steps) + shift) / steps, np.full(steps, 1.0 / steps)
