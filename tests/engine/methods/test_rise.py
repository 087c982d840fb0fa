"""RISE against its own masks in a loop, and what its expectation has to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.methods.rise import random_mask
from onnxplain.engine.places import Labels

Array = np.ndarray[Any, Any]
PICTURE: Labels = ("batch", None, "y", "x")


def test_expected_score_where_a_place_is_seen() -> None:
    """f = w.x on a table: E[f m_i] / p is the score of the others at p, and x_i w_i whole."""
    w, x, p = np.array([[1.0], [-2.0], [0.5]]), np.array([[1.0, 2.0, 4.0]], np.float32), 0.4
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 3]}, {"y": ["N", 1]}, {"w": w})
    e = ox.explain(proto, x, method="rise", draws=4000, keep=p)
    parts = x[0] * w[:, 0]
    expected = p * parts.sum() + (1 - p) * parts
    assert (np.abs(e.attributions["x"][0] - expected) < 5 * e.standard_errors["x"][0]).all()
    assert (e.standard_errors["x"] < 0.2).all()


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_the_masks_themselves(baseline: float) -> None:
    """Masks again by their key (seed, sample, draw, input), scored one by one; standard errors of the mean."""
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    scores = ox.compile(proto, method="gradient")
    gains = np.zeros((2, 30, 4, 4))
    for n in range(2):
        for k in range(30):
            mask = random_mask(np.random.default_rng([3, k, 0]), (1, 4, 4), PICTURE, 2, 0.3)[0]
            point = baseline + mask * (batch[n : n + 1] - baseline)
            gains[n, k] = scores(point.astype(np.float32), target=1).score[0] * mask / 0.3
    e = ox.explain(proto, batch, method="rise", draws=30, cells=2, keep=0.3, baseline=baseline, seed=3, target=1)
    np.testing.assert_allclose(e.attributions["x"][:, 0], gains.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(e.standard_errors["x"][:, 0], gains.std(axis=1, ddof=1) / 30**0.5, atol=1e-4)


def test_channels_share_a_place() -> None:
    proto = model([node("ReduceMean", "x axes", "y", keepdims=0)], {"x": ["N", 3, 5, 5]}, {"y": ["N"]},
                  {"axes": np.array([1, 2, 3])})  # fmt: skip
    e = ox.explain(proto, np.ones((1, 3, 5, 5), np.float32), method="rise", draws=50)
    a = e.attributions["x"]
    np.testing.assert_array_equal(a[:, 0], a[:, 2])
    assert e.saliency is not None
    np.testing.assert_allclose(e.saliency, 3 * a[:, 0], rtol=1e-6)


@pytest.mark.parametrize(("shape", "cells"), [((3, 50, 70), 7), ((1, 224, 224), 8), ((2, 9, 9), 8)])
def test_masks_are_smooth_and_keep_their_share(shape: tuple[int, ...], cells: int) -> None:
    masks = np.stack([random_mask(np.random.default_rng(k), shape, PICTURE, cells, 0.3) for k in range(200)])
    assert masks.shape == (200, 1, *shape[1:])
    assert masks.min() >= 0 and masks.max() <= 1
    # 200 masks of some 60 independent cells: the share is known to about 0.005, a single place to 0.03.
    assert abs(masks.mean() - 0.3) < 0.02
    assert np.abs(masks.mean(axis=0) - 0.3).max() < 0.16
    steps = np.abs(np.diff(masks, axis=3)).max()
    assert steps <= 1.0 / (-(-shape[2] // cells)) * (cells + 1) + 1e-6


def test_short_axes_and_tables_are_drawn_place_by_place() -> None:
    rng = np.random.default_rng(0)
    assert set(random_mask(rng, (1, 4, 4), PICTURE, 8, 0.5).flat) == {0.0, 1.0}
    assert set(random_mask(rng, (100,), ("batch", "t"), 8, 0.5).flat) == {0.0, 1.0}
    tokens = random_mask(rng, (50, 8), ("batch", "t", None), 8, 0.5)
    assert tokens.shape == (50, 1) and set(tokens.flat) == {0.0, 1.0}
    mixed = random_mask(rng, (1, 4, 100), PICTURE, 8, 0.5)
    assert mixed.shape == (1, 4, 100) and len(set(mixed.flat)) > 10
