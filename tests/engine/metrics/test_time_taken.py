"""Time: what is timed, how often, and that waiting is seen."""

from __future__ import annotations

import time

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured


def test_samples_are_timed_one_at_a_time_after_a_first_that_does_not_count() -> None:
    asked: list[int] = []

    def explain(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(points))
        time.sleep(0.2 if len(asked) == 1 else 0.02)
        return points, points

    case = given(linear(np.ones(3)), np.ones((5, 3)), np.ones((5, 3)), explain=explain)
    found = measured(case, "time", samples=3)
    assert asked == [1] * 4
    assert np.isnan(found.values).tolist() == [False, False, False, True, True]
    assert found.values[:3].min() >= 0.02
    assert np.median(found.values[:3]) < 0.2


@pytest.mark.parametrize("method", ["gradient", "random"])
def test_any_method_takes_some_time(method: str) -> None:
    found = measured(by_method(linear(np.ones(3)), np.ones((2, 3)), method), "time")
    assert np.all(found.values > 0)
    assert found.facts["in_batch_with_compilation"] > 0
