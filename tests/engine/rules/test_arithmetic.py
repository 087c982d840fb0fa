"""Rules of elementwise arithmetic with broadcasting."""

from __future__ import annotations

import pytest
from rule_cases import Case, case, check, parametrize

CASES = [
    case("Add", a=(2, 3, 4), b=(2, 3, 4), batch=False),
    case("Add", a=(2, 3, 4), b=(3, 1)),
    case("Add", a=(2, 1, 4), b=(2, 3, 1), batch=False),
    case("Add", a=(2, 3), b=(4, 2, 3), batch=False),
    case("Sub", a=(2, 3, 4), b=(4,)),
    case("Mul", a=(2, 3, 4), b=(2, 1, 4), batch=False),
    case("Neg", x=(2, 3)),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_the_same_tensor_twice(op_type: str) -> None:
    """x + x and x * x: both contributions are summed."""
