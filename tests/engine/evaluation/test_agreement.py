"""Pairwise agreement: symmetric, 1 for equal maps, and made from the same samples and classes."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import fullgrad_net

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.agreement import agreement, likeness, pairwise

RANDOM = np.random.default_rng(0)
A = RANDOM.normal(size=(3, 8, 8))


def test_pairs_of_maps() -> None:
    found = pairwise({"a": A, "twice": 2 * A, "minus": -A}, ("spearman", "top_k"))
    assert found.matrix() == pytest.approx(np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1]]))
    assert found.matrix("top_k") == pytest.approx(np.ones((3, 3)))  # by magnitude
    assert found.rows()[0] == {"method": "a", "other": "twice", "spearman": pytest.approx(1), "top_k": 1.0}
    assert [(r["method"], r["other"]) for r in found.rows()] == [("a", "twice"), ("a", "minus"), ("twice", "minus")]


def test_shares_in_common_by_hand() -> None:
    first, second = np.zeros((1, 10)), np.zeros((1, 10))
    first[0, :4], second[0, 2:6] = [4, 3, 2, 1], [4, 3, 2, 1]
    assert likeness(first, second, "top_k", top=0.4) == pytest.approx([0.5])


def test_maps_without_contrast_are_left_out_of_the_mean() -> None:
    flat = A.copy()
    flat[0] = 0
    found = pairwise({"a": A, "b": flat}, ("spearman",))
    assert np.isnan(found.values["spearman"]["a", "b"][0])
    assert found.matrix()[0, 1] == pytest.approx(1)


def test_methods_on_a_model() -> None:
    proto, x = fullgrad_net()
    data = np.concatenate([x, 0.5 - x, x[..., ::-1]])
    found = agreement(
        proto, data, methods={"gradient": {}, "input_x_gradient": {}, "integrated_gradients": {"steps": 50}, "random": {}},
        threads=1,
    )  # fmt: skip
    assert found.methods == ["gradient", "input_x_gradient", "integrated_gradients", "random"]
    matrix = found.matrix()
    assert matrix == pytest.approx(matrix.T) and np.diag(matrix) == pytest.approx(np.ones(4))
    assert abs(matrix[1, 2]) > abs(matrix[1, 3])
    assert {len(v) for v in found.values["ssim"].values()} == {3}


def test_refusals() -> None:
    with pytest.raises(OptionError, match="cannot be compared"):
        likeness(A, A[:, 1:])
    with pytest.raises(OptionError, match="measure='eye'"):
        likeness(A, A, "eye")
