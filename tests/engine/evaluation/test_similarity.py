"""Similarities of maps: against scipy and scikit-image, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.evaluation.similarity import (
    SIMILARITIES,
    cosine,
    hog,
    mean_known,
    overlap,
    shown,
    spearman,
    spearman_absolute,
    ssim,
)

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 5, 28, 28))


def test_rank_correlation_is_scipys_ties_included() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs the evaluate extra")
    a, b = np.rint(A * 2), np.rint(A + B)  # few different values: most are ties
    wanted = [stats.spearmanr(p.reshape(-1), q.reshape(-1)).statistic for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b), wanted, atol=1e-12)
    wanted = [stats.spearmanr(abs(p).reshape(-1), abs(q).reshape(-1)).statistic for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman_absolute(a, b), wanted, atol=1e-12)


def test_structural_similarity_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs the evaluate extra")

    def unit(m: np.ndarray) -> np.ndarray:
        m = np.abs(m)
        high = np.percentile(m, 99)
        return np.clip((m - m.min()) / (high - m.min()), 0, 1)

    wanted = [
        metrics.structural_similarity(unit(p), unit(q), win_size=5, data_range=1.0) for p, q in zip(A, B, strict=True)
    ]
    np.testing.assert_allclose(ssim(A, B), wanted, atol=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_map_and_itself(name: str) -> None:
    pytest.importorskip("skimage", reason="needs the evaluate extra")
    np.testing.assert_allclose(SIMILARITIES[name][1](A, A), 1.0, atol=1e-9)
    np.testing.assert_allclose(SIMILARITIES[name][1](A, 3 * A), 1.0, atol=1e-9)


def test_signs_count_for_signed_similarities_only() -> None:
    pytest.importorskip("skimage", reason="needs the evaluate extra")
    for signed, measure in SIMILARITIES.values():
        np.testing.assert_allclose(measure(A, -A), -1.0 if signed else 1.0, atol=1e-9)


def test_cosine_by_hand() -> None:
    a, b = np.array([[[3.0, 4.0]], [[1.0, 0.0]]]), np.array([[[4.0, 3.0]], [[0.0, 2.0]]])
    np.testing.assert_allclose(cosine(a, b), [24 / 25, 0.0])


def test_overlap_by_hand() -> None:
    a = np.array([[9.0, -8.0, 7.0, 0, 0, 0, 0, 0, 0, 0]])
    b = np.array([[9.0, 0, -7.0, 8.0, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(overlap(a, b, share=0.3), [2 / 3])
    np.testing.assert_allclose(overlap(a, b, share=0.1), [1.0])


def test_overlap_of_ties_is_that_of_the_same_places() -> None:
    """A map without contrast is as good as any other one: the seed chooses, the same for both."""
    flat = np.ones((1, 10, 10))
    np.testing.assert_allclose(overlap(flat, flat), 1.0)
    ends = [float(overlap(flat, np.pad(np.ones((1, 10)), ((0, 9), (0, 0)))[None], seed=s)[0]) for s in range(20)]
    assert len(set(ends)) > 1


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_map_without_contrast_has_no_similarity(name: str) -> None:
    pytest.importorskip("skimage", reason="needs the evaluate extra")
    flat = np.zeros_like(A)
    assert np.isnan(SIMILARITIES[name][1](flat, B)).all()


def test_series_have_no_histogram_of_gradients_and_tables_no_structure() -> None:
    pytest.importorskip("skimage", reason="needs the evaluate extra")
    series = A.reshape(5, -1)
    assert np.isnan(hog(series, series)).all()
    np.testing.assert_allclose(ssim(series, series), 1.0)
    assert np.isnan(ssim(series[:, :2], series[:, :2])).all()


def test_shown_reaches_from_zero_to_one_and_is_not_ruled_by_one_place() -> None:
    spike = np.linspace(-1, 1, 10_000).reshape(1, 100, 100)
    spike[0, 0, 0] = 1e6
    seen = shown(spike)
    assert seen.min() == 0 and seen.max() == 1
    assert np.median(seen) > 0.4


def test_mean_of_what_is_known() -> None:
    np.testing.assert_array_equal(mean_known(np.array([[1.0, np.nan], [np.nan, np.nan]]), axis=1), [1.0, np.nan])
