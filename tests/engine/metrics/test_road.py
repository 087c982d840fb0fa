"""ROAD: the score's sign and scale, and which fill it uses."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured


def test_half_the_difference_of_both_orders() -> None:
    x = np.arange(1.0, 11.0).reshape(1, 10)
    found = measured(given(linear(np.ones(10)), x, x), "road", shares=(0.1, 0.3), fill=0.0)
    assert found.curves["most"][1] == pytest.approx(np.array([[45, 28]]))
    assert found.curves["least"][1] == pytest.approx(np.array([[54, 49]]))
    assert found.values == pytest.approx([((54 - 45) + (49 - 28)) / 2 / 2])


def test_turning_the_map_round_turns_the_sign() -> None:
    random = np.random.default_rng(0)
    x, weights = random.normal(size=(3, 1, 6, 6)), random.normal(size=(1, 6, 6))
    good = measured(given(linear(weights), x, x * weights), "road")
    bad = measured(given(linear(weights), x, -x * weights), "road")
    assert good.values == pytest.approx(-bad.values)
    assert np.all(good.values > 0)


def test_a_smooth_input_hides_what_was_removed() -> None:
    """Imputation restores a plane, so that no order is better than another; zeros do not."""
    rows, columns = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    x = (10 + rows + 2 * columns)[None, None]
    inner = np.zeros((1, 1, 8, 8))
    inner[..., 2:5, 2:5] = 1.0
    weights = inner[0]
    shares = (9 / 64,)
    imputed = measured(given(linear(weights), x, inner), "road", shares=shares)
    zeroed = measured(given(linear(weights), x, inner), "road", shares=shares, fill=0.0)
    # Nine places with noise of 0.01 each; at the corners a removed place has its mean from one side only.
    assert abs(imputed.curves["most"][1][0, 0] / (x * inner).sum() - 1) < 1e-3
    assert zeroed.curves["most"][1][0, 0] == 0
