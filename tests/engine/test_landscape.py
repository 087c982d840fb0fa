"""Directions and projections in p-norms, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from onnxplain.engine.landscape import Packing, dual_length, length, projected, steepest

NORMS: tuple[float, ...] = (1.0, 2.0, np.inf)
ROWS = np.random.default_rng(0).normal(size=(5, 7)) * np.array([[0.1], [1.0], [3.0], [10.0], [0.0]])


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_beats_all_others(norm: float) -> None:
    """Length one, rise equal to the dual norm, and no random direction of that length rises more."""
    best = steepest(ROWS, norm)
    np.testing.assert_allclose(length(best[:4], norm), 1.0)
    np.testing.assert_allclose(np.sum(best * ROWS, axis=1), dual_length(ROWS, norm))
    others = np.random.default_rng(1).normal(size=(2000, 7))
    others /= length(others, norm)[:, None]
    assert (dual_length(ROWS, norm)[:, None] + 1e-12 >= ROWS @ others.T).all()
    assert not best[4].any()


def test_projection_in_the_plain_norms() -> None:
    radius = np.full(5, 1.5)
    np.testing.assert_allclose(projected(ROWS, radius, np.inf), np.clip(ROWS, -1.5, 1.5))
    size = np.linalg.norm(ROWS, axis=1, keepdims=True)
    np.testing.assert_allclose(projected(ROWS, radius, 2), ROWS * np.minimum(1, 1.5 / np.maximum(size, 1e-300)))


@pytest.mark.parametrize("radius", [0.2, 1.5, 40.0])
def test_projection_in_the_sum_of_magnitudes(radius: float) -> None:
    """Soft thresholding; the threshold is found as the root of its own equation."""
    found = projected(ROWS, np.full(5, radius), 1)
    for row, result in zip(ROWS, found, strict=True):
        if np.abs(row).sum() <= radius:
            np.testing.assert_array_equal(result, row)
            continue

        def excess(fall: float, row: Any = row) -> float:
            return float(np.maximum(np.abs(row) - fall, 0).sum() - radius)

        fall = brentq(excess, 0.0, np.abs(row).max(), xtol=1e-14)
        np.testing.assert_allclose(result, np.sign(row) * np.maximum(np.abs(row) - fall, 0), atol=1e-10)


def test_packing_goes_there_and_back() -> None:
    arrays = {
        "a": np.arange(12.0).reshape(2, 2, 3),
        "b": np.arange(2.0).reshape(2, 1),
        "c": np.ones((2, 4), np.float32),
    }
    packing = Packing(arrays)
    flat = packing.join(arrays)
    assert flat.shape == (2, 11) and flat.dtype == np.float64
    for name, array in packing.split(flat).items():
        np.testing.assert_array_equal(array, arrays[name])
