"""Fills against their definitions; the imputation against a system written down neighbour by neighbour."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from evaluation_cases import given, linear
from scipy.ndimage import gaussian_filter

from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.evaluation.fills import BLUR_SHARE, IMPUTED_NOISE, emptied, filled, noisy_linear, replacement

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(2, 3, 6, 5)).astype(np.float32)
REMOVED = np.array([0, 7, 8, 13, 29])


def case() -> Case:
    return given(linear(np.ones(X.shape[1:])), X, X)


def places(mask_of: np.ndarray) -> np.ndarray:
    mask = np.zeros(30, dtype=bool)
    mask[mask_of] = True
    return mask.reshape(6, 5)


@pytest.mark.parametrize("fill", [0.25, "black", "mean", "blur", "noise", "noisy_linear"])
def test_only_removed_places_change_in_all_channels(fill: float | str) -> None:
    found = filled(case(), X[1], REMOVED, fill)
    assert found.dtype == np.float32
    changed = found != X[1]
    assert np.array_equal(changed, np.broadcast_to(places(REMOVED), X[1].shape))


def test_number_black_mean() -> None:
    here = np.broadcast_to(places(REMOVED), X[0].shape)
    assert np.all(filled(case(), X[0], REMOVED, 0.25)[here] == np.float32(0.25))
    assert np.all(filled(case(), X[0], REMOVED, "black")[here] == X.min())
    means = X[0].reshape(3, -1).mean(axis=1)
    found = filled(case(), X[0], REMOVED, "mean")
    assert found[:, places(REMOVED)] == pytest.approx(np.tile(means[:, None], (1, 5)), rel=1e-6)


def test_blur_is_a_gaussian_over_places() -> None:
    found = replacement(case(), X[:1], "blur")[0]
    want = gaussian_filter(X[0].astype(np.float64), BLUR_SHARE * 6, axes=(1, 2), mode="reflect")
    assert found == pytest.approx(want, abs=1e-12)


def test_noise_is_one_draw_in_each_inputs_range() -> None:
    first, second = replacement(case(), X, "noise").astype(np.float64)
    unit = [(r - x.min()) / (x.max() - x.min()) for r, x in zip((first, second), X.astype(np.float64), strict=True)]
    assert unit[0] == pytest.approx(unit[1], abs=1e-6)
    assert 0 <= unit[0].min() < 0.1 and 0.9 < unit[0].max() <= 1


@pytest.mark.parametrize("fill", [0.25, "black", "mean", "blur", "noise", "noisy_linear"])
def test_many_at_a_time_are_what_each_is_alone(fill: float | str) -> None:
    masks = np.random.default_rng(0).random((5, 30)) < 0.4
    samples = np.array([0, 0, 0, 1, 1])
    found = emptied(case(), samples, masks, fill)
    for one, n, mask in zip(found, samples, masks, strict=True):
        assert one == pytest.approx(filled(case(), X[n], np.flatnonzero(mask), fill), abs=1e-6)


def naive(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each removed place is the weighted mean of its neighbours: written out, and solved densely."""
    unknown = [tuple(p) for p in np.argwhere(mask)]
    left, right = np.zeros((len(unknown), len(unknown))), np.zeros((len(unknown), len(x)))
    for i, place in enumerate(unknown):
        for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
            other = tuple(np.add(place, step))
            if not any(step) or any(not 0 <= o < n for o, n in zip(other, mask.shape, strict=True)):
                continue
            weight = 1 / 6 if sum(map(abs, step)) == 1 else 1 / 12
            left[i, i] += weight
            if mask[other]:
                left[i, unknown.index(other)] -= weight
            else:
                right[i] += weight * x[(slice(None), *other)]
    return np.linalg.solve(left, right)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_solves_the_neighbours_system(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxplain.engine.evaluation.fills.IMPUTED_NOISE", 0.0)
    mask = np.random.default_rng(1).permutation(30).reshape(6, 5) < share * 30
    found = noisy_linear(X[0], (1, 2), mask, seed=0)
    solved = found[:, mask].T
    assert solved == pytest.approx(naive(X[0].astype(np.float64), mask), abs=1e-10)
    assert np.array_equal(found[:, ~mask], X[0][:, ~mask])


def test_imputation_of_a_plane_is_the_plane() -> None:
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(8.0), indexing="ij")
    plane = (2 * rows - columns)[None]
    mask = np.zeros((9, 8), dtype=bool)
    mask[3:6, 2:5] = True
    found = noisy_linear(plane, (1, 2), mask, seed=0) - plane
    assert np.abs(found).max() < 5 * IMPUTED_NOISE
    assert found[0, mask].std() == pytest.approx(IMPUTED_NOISE, rel=0.6)  # nine draws


def test_a_series_is_imputed_by_straight_lines() -> None:
    x = np.array([[0.0, 9.0, 9.0, 3.0, 9.0]])
    mask = np.array([False, True, True, False, True])
    found = noisy_linear(x, (1,), mask, seed=0)
    assert found[0] == pytest.approx([0, 1, 2, 3, 3], abs=5 * IMPUTED_NOISE)


def test_without_any_known_place_the_mean_stands_in() -> None:
    found = noisy_linear(X[0], (1, 2), np.ones((6, 5), dtype=bool), seed=0)
    assert np.broadcast_to(found, X[0].shape)[:, 2, 2] == pytest.approx(X[0].reshape(3, -1).mean(axis=1), rel=1e-6)


def test_channels_last() -> None:
    mask = places(REMOVED)
    first = noisy_linear(X[0], (1, 2), mask, seed=0)
    last = noisy_linear(np.moveaxis(X[0], 0, -1), (0, 1), mask, seed=0)
    assert np.moveaxis(last, -1, 0) == pytest.approx(first, abs=1e-12)
