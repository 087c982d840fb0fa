"""Rules of operators that make tensors from sizes or chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rule_cases import Case, case, check, parametrize
from single_node import gradient_of

from onnxplain.engine.errors import BlockedGradientError


def _step(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.asarray(1.3)  # 9.3 stays away from its multiples, where the length jumps


CASES = [
    case("Range", a=(), limit=np.asarray(9.3), d=np.asarray(2.0), batch=False, name="Range-start"),
    case("Range", a=np.asarray(1.0), limit=np.asarray(9.3), d=(), batch=False, name="Range-step", draw=_step),
    case("Range", a=(), limit=np.asarray(9.3), d=(), batch=False, name="Range-both", draw=_step),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_random_draws_block_and_say_so() -> None:
    with pytest.raises(BlockedGradientError, match=r"Bernoulli.*random draw"):
        gradient_of("Bernoulli", {"x": np.full(3, 0.5, np.float32)})


def test_shape_does_not_depend_on_values() -> None:
    with pytest.raises(BlockedGradientError, match="does not depend"):
        gradient_of("EyeLike", {"x": np.ones((2, 2), np.float32)})
