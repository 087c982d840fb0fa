"""Complexity: the entropy at its ends, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured
from scipy.stats import entropy

MODEL = linear(np.ones(8))
X = np.ones((1, 8))


def complexity(saliency: np.ndarray) -> float:
    return float(measured(given(MODEL, X, X, saliency=saliency[None]), "complexity").values[0])


def test_ends() -> None:
    assert complexity(np.full(8, -3.0)) == pytest.approx(np.log(8))
    assert complexity(np.eye(8)[2]) == pytest.approx(0)
    assert np.isnan(complexity(np.zeros(8)))


def test_against_scipy() -> None:
    values = np.random.default_rng(0).normal(size=8)
    assert complexity(values) == pytest.approx(entropy(np.abs(values)))
    assert complexity(1e6 * values) == pytest.approx(entropy(np.abs(values)))
