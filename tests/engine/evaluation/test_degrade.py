"""Which places go and what stands there instead."""

from __future__ import annotations

import numpy as np
from tiny_models import model, node

from onnxplain.engine.evaluation.degrade import channel_means, degraded, maps, order
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.loading import load

X = np.arange(2 * 2 * 2 * 2, dtype=np.float32).reshape(2, 2, 2, 2)
RANKED = np.array([[3, 0, 1, 2], [1, 2, 3, 0]], dtype=np.uint16)


def test_means_are_those_of_channels() -> None:
    means = channel_means(X, [2, 3])
    assert means.shape == (1, 2, 1, 1)
    assert means.ravel().tolist() == [5.5, 9.5]  # 0..3 and 8..11; 4..7 and 12..15


def test_without_channels_each_feature_has_its_own() -> None:
    assert channel_means(np.array([[1.0, 10.0], [3.0, 30.0]]), [1]).tolist() == [[2.0, 20.0]]


def test_removed_and_kept_places_in_all_channels() -> None:
    fill = channel_means(X, [2, 3])
    removed = degraded(X, RANKED, 0.5, fill, [2, 3])
    kept = degraded(X, RANKED, 0.5, fill, [2, 3], "kar")
    assert removed[0, 0].ravel().tolist() == [5.5, 1, 2, 5.5]
    assert removed[0, 1].ravel().tolist() == [9.5, 5, 6, 9.5]
    assert removed[1, 0].ravel().tolist() == [8, 5.5, 5.5, 11]
    assert kept[0, 0].ravel().tolist() == [0, 5.5, 5.5, 3]
    assert np.array_equal(removed == X, kept != X)
    assert removed.dtype == np.float32


def test_mask_alone_tells_nothing_of_the_picture() -> None:
    assert degraded(X, RANKED, 0.25, channel_means(X, [2, 3]), [2, 3], "mask")[1].tolist() == [[[0, 1], [0, 0]]] * 2


def test_order_by_value_or_magnitude() -> None:
    values = np.array([[0.1, -3.0, 2.0]], dtype=np.float32)
    assert order(values, 0, 0).tolist() == [[2, 0, 1]]
    assert order(values, 0, 0, absolute=True).tolist() == [[1, 2, 0]]


def test_ties_by_seed_and_never_by_place() -> None:
    """Of a thousand flat maps, each place leads about a quarter: 250, within four standard deviations of 13.7."""
    flat = np.zeros((1000, 4), dtype=np.float32)
    first = order(flat, 0, 0)
    assert np.abs(np.bincount(first[:, 0]) - 250).max() < 55
    assert np.array_equal(first, order(flat, 0, 0))
    assert not np.array_equal(first, order(flat, 0, 1))
    assert not np.array_equal(first, order(flat, 1, 0)), "training and test samples do not share their ties"


def test_random_maps_differ_between_samples() -> None:
    proto = model(
        [node("Flatten", "x", "f"), node("Gemm", "f w", "y")],
        {"x": ["N", 2, 2, 2]},
        {"y": ["N", 2]},
        {"w": np.ones((8, 2))},
    )
    loaded = load(proto, threads=1)
    scorer = Scorer(loaded)
    found = maps(loaded, scorer, X, np.zeros(2, np.int64), "random", {})
    assert found.shape == (2, 4)
    assert not np.array_equal(found[0], found[1])


def test_maps_are_the_methods_own() -> None:
    """Linear model: the gradient's map is the largest magnitude over channels, in every sample, whatever the chunk."""
    w = np.zeros((8, 2))
    w[:, 1] = [1, -2, 3, 0, 0, 0, -5, 1]
    proto = model(
        [node("Flatten", "x", "f"), node("Gemm", "f w", "y")], {"x": ["N", 2, 2, 2]}, {"y": ["N", 2]}, {"w": w}
    )
    loaded = load(proto, threads=1)
    x = np.zeros((300, 2, 2, 2), np.float32)
    found = maps(loaded, Scorer(loaded), x, np.ones(300, np.int64), "gradient", {})
    assert found.shape == (300, 4)
    assert np.all(found == found[0])
    assert np.argmax(found[0]) == 2
