"""Rules of elementwise functions of one tensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rule_cases import Case, case, check, parametrize, uniform
from single_node import bias_of, gradient_of

from onnxplain.engine.errors import BlockedGradientError

inner = uniform(-0.9, 0.9)
positive = uniform(0.3, 2.0)

CASES = [
    case("Exp", x=(2, 3)),
    case("Log", x=(2, 3), draw=positive),
    case("Sqrt", x=(2, 3), draw=positive),
    case("Reciprocal", x=(2, 3)),
    case("Abs", x=(2, 3)),
    case("Erf", x=(2, 3)),
    case("Sin", x=(2, 3)),
    case("Cos", x=(2, 3)),
    case("Tan", x=(2, 3), draw=inner),
    case("Asin", x=(2, 3), draw=inner),
    case("Acos", x=(2, 3), draw=inner),
    case("Atan", x=(2, 3)),
    case("Sinh", x=(2, 3)),
    case("Cosh", x=(2, 3)),
    case("Asinh", x=(2, 3)),
    case("Acosh", x=(2, 3), draw=uniform(1.2, 4.0)),
    case("Atanh", x=(2, 3), draw=inner),
    case("Exp", x=(), batch=False, name="Exp-scalar"),
    case("Exp", x=(2, 3, 1, 2), name="Exp-rank-4"),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


# Slopes at large and special arguments, from the textbook derivative in float64.
SLOPES = {
    "Exp": (math.exp, [-100.0, -80.0, 80.0]),
    "Log": (lambda x: 1 / x, [1e-30, 1e30]),
    "Sqrt": (lambda x: 0.5 / math.sqrt(x), [1e-30, 1e30]),
    "Abs": (lambda x: float(np.sign(x)), [-1e38, 0.0, 1e-30, 1e38]),
    "Erf": (lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x) if abs(x) < 20 else 0.0, [-1e30, -4.0, 0.0, 1e30]),
    "Asin": (lambda x: 1 / math.sqrt((1 - x) * (1 + x)), [-1 + 2**-20, 1 - 2**-20]),
    "Atan": (lambda x: 1 / (1 + x * x), [-1e30, 1e4]),
    "Asinh": (lambda x: 1 / math.sqrt(1 + x * x), [-1e15, 1e15]),
    "Acosh": (lambda x: 1 / math.sqrt((x - 1) * (x + 1)), [1 + 2**-20, 1e15]),
    "Sinh": (math.cosh, [-50.0, 50.0]),
}


@pytest.mark.parametrize("op_type", SLOPES)
def test_slopes_at_the_ends(op_type: str) -> None:
    slope, points = SLOPES[op_type]
    x = np.array(points, np.float32)
    found = gradient_of(op_type, {"x": x})["x"]
    expected = [slope(float(v)) for v in x]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-37)  # float32; exp at -100 is a subnormal


def test_the_bias_of_a_masked_exponential_is_zero() -> None:
    x = np.array([-np.inf, 0.0, 2.0], np.float32)
    np.testing.assert_allclose(bias_of("Exp", {"x": x}), [0.0, 1.0, -math.exp(2)], rtol=1e-6)


@pytest.mark.parametrize("op_type", ["Round", "Floor", "Ceil", "Sign"])
def test_steps_block_and_say_so(op_type: str) -> None:
    with pytest.raises(BlockedGradientError, match=f"{op_type}.*derivative 0"):
        gradient_of(op_type, {"x": np.ones(3, np.float32)})
