"""RISE against its own masks in a loop, and what its expectation has to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.coarse_masks import CoarseMasks
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
            mask = CoarseMasks((1, 4, 4), PICTURE, 2, 0.3).mask(np.random.default_rng([3, k, 0]))[0]
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
