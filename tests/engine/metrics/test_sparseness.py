"""Sparseness: the Gini index at its ends, by its definition over pairs, and free of scale."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured

MODEL = linear(np.ones(8))
X = np.ones((1, 8))


def gini(saliency: np.ndarray) -> float:
    return float(measured(given(MODEL, X, X, saliency=saliency[None]), "sparseness").values[0])


def test_ends() -> None:
    assert gini(np.full(8, 3.0)) == pytest.approx(0)
    assert gini(np.eye(8)[2]) == pytest.approx(7 / 8)
    assert np.isnan(gini(np.zeros(8)))


def test_mean_difference_of_pairs() -> None:
    values = np.random.default_rng(0).normal(size=8)
    sizes = np.abs(values)
    want = np.abs(sizes[:, None] - sizes).sum() / (2 * 8 * sizes.sum())
    assert gini(values) == pytest.approx(want)
    assert gini(1e-9 * values) == pytest.approx(want)
