"""Correlation of rows against NumPy and SciPy, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from onnxplain.engine.evaluation.correlation import membership, pearson, spearman, subsets

RANDOM = np.random.default_rng(0)
A, B = RANDOM.normal(size=(2, 4, 30))


def test_against_numpy_and_scipy() -> None:
    assert pearson(A, B) == pytest.approx([np.corrcoef(a, b)[0, 1] for a, b in zip(A, B, strict=True)])
    tied = np.round(A)
    assert spearman(tied, B) == pytest.approx([spearmanr(a, b)[0] for a, b in zip(tied, B, strict=True)])


def test_constant_rows_have_none() -> None:
    flat = A.copy()
    flat[1] = 7.0
    flat[2] = 1e6 + 1e-3 * A[2]  # less than float32 can tell
    for correlate in (pearson, spearman):
        assert np.isnan(correlate(flat, B)).tolist() == [False, True, True, False]
        assert np.isnan(correlate(B, flat)).tolist() == [False, True, True, False]


def test_differences_that_are_rounding_beside_what_they_are_differences_of() -> None:
    assert np.isnan(pearson(A, 1e-9 * B, scale=np.ones(4))).all()
    assert pearson(A, 1e-9 * B) == pytest.approx(pearson(A, B))


def test_subsets() -> None:
    drawn = list(subsets(0, 12, 5, 300))
    assert all(len(set(s)) == 5 for s in drawn)
    rows = membership(drawn, 12)
    assert rows.sum(axis=1) == pytest.approx(np.full(300, 5))
    # Every thing is in 5 of 12 subsets, with a standard deviation of 8.5 in 300.
    assert np.abs(rows.sum(axis=0) - 125).max() < 40
    assert [s.tolist() for s in subsets(0, 12, 5, 3)] == [s.tolist() for s in drawn[:3]]
    assert [s.tolist() for s in subsets(1, 12, 5, 3)] != [s.tolist() for s in drawn[:3]]
