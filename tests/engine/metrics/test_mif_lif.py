"""Symmetric relevance gain: by hand, and zero for what ranks nothing."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured


def test_a_linear_model_by_hand() -> None:
    x = np.array([[3.0, 1.0, 2.0, 4.0]])
    found = measured(given(linear(np.ones(4)), x, x), "mif_lif", steps=4, fill=0.0)
    assert found.curves["mif"][1] == pytest.approx(np.array([[10, 6, 3, 1, 0]]))
    assert found.curves["lif"][1] == pytest.approx(np.array([[10, 9, 7, 4, 0]]))
    assert found.values == pytest.approx([(9 + 7 + 4 - 6 - 3 - 1) / 4])
    assert found.facts["lif"] - found.facts["mif"] == pytest.approx(found.values[0])


def test_the_gain_changes_sign_with_the_ranking() -> None:
    x = np.random.default_rng(0).normal(size=(4, 12))
    weights = np.linspace(-1, 1, 12)
    good = measured(given(linear(weights), x, x * weights), "mif_lif").values
    bad = measured(given(linear(weights), x, -x * weights), "mif_lif").values
    assert good == pytest.approx(-bad, abs=1e-6)


def test_where_all_features_count_alike_there_is_nothing_to_gain() -> None:
    x = np.ones((2, 12))
    found = measured(given(linear(np.ones(12)), x, np.random.default_rng(0).normal(size=(2, 12))), "mif_lif", fill=0.0)
    assert found.values == pytest.approx([0, 0], abs=1e-6)
