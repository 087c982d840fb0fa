"""Pointing game: on the object, beside it, ties, and samples without an object."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.case import Case

MODEL = linear(np.ones((1, 5, 5)))
X = np.ones((1, 1, 5, 5))


def case(top: tuple[int, int], mask: np.ndarray) -> Case:
    saliency = np.zeros((1, 5, 5))
    saliency[0][top] = 1.0
    return given(MODEL, X, X, saliency=saliency, masks=mask[None])


def box() -> np.ndarray:
    mask = np.zeros((5, 5))
    mask[1:3, 1:3] = 1
    return mask


def test_hit_miss_and_tolerance() -> None:
    assert measured(case((2, 1), box()), "pointing_game").values == [1]
    assert measured(case((4, 4), box()), "pointing_game").values == [0]
    assert measured(case((4, 4), box()), "pointing_game", tolerance=2.8).values == [0]
    assert measured(case((4, 4), box()), "pointing_game", tolerance=2.9).values == [1]  # from (2, 2): the root of 8


def test_absolute_ranking() -> None:
    saliency = np.zeros((1, 5, 5))
    saliency[0, 1, 1] = -2.0
    saliency[0, 4, 4] = 1.0
    found = given(MODEL, X, X, saliency=saliency, masks=box()[None])
    assert measured(found, "pointing_game").values == [0]
    assert measured(found, "pointing_game", absolute=True).values == [1]


def test_a_flat_map_points_by_chance() -> None:
    x = np.ones((400, 1, 5, 5))
    flat = given(MODEL, x, x, saliency=np.zeros((400, 5, 5)), masks=np.tile(box(), (400, 1, 1)))
    # Four of 25 places: 0.16, with a standard deviation of 0.018 over 400 samples.
    assert measured(flat, "pointing_game").values.mean() == pytest.approx(4 / 25, abs=0.06)


def test_without_an_object_or_without_masks() -> None:
    assert np.isnan(measured(case((1, 1), np.zeros((5, 5))), "pointing_game").values).all()
    with pytest.raises(OptionError, match="needs to know where the object is"):
        measured(given(MODEL, X, X), "pointing_game")
