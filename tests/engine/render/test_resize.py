"""Sizes, hard pixels and averages, against repetition and means written out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.resize import enlarge_map, fit_picture, shown_size, shrink_map

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("side", "factor"), [(8, 48), (28, 13), (128, 3)])
def test_tiny_pictures_keep_hard_pixels(side: int, factor: int) -> None:
    picture = RNG.integers(0, 256, (side, side, 3), np.uint8)
    expected = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(fit_picture(picture, 384), expected)


def test_large_pictures_are_averaged() -> None:
    picture = RNG.integers(0, 256, (400, 800), np.uint8)
    small = fit_picture(picture, 200)
    assert small.shape == (100, 200, 3)
    means = picture.reshape(100, 4, 200, 4).mean(axis=(1, 3))
    assert np.abs(small[:, :, 0] - means).max() <= 0.51  # rounding to a byte


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((224, 224), (384, 384)),
        ((300, 451), (255, 384)),
        ((1, 2000), (1, 384)),
        ((2000, 1), (384, 1)),
        ((1, 1), (384, 384)),
    ],
)
def test_shown_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(*size, 384) == shown
    assert fit_picture(np.zeros(size, np.uint8), 384).shape == (*shown, 3)


def test_a_picture_of_the_right_size_is_untouched() -> None:
    picture = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(fit_picture(picture, 30), picture)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_maps_shrink_by_averaging_at_any_magnitude(scale: float) -> None:
    values = RNG.standard_normal((12, 20)) * scale
    means = values.reshape(4, 3, 5, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(shrink_map(values, 4, 5) / scale, means / scale, atol=2e-6)  # float32 inside


def test_maps_shrink_along_one_axis_only_where_they_are_larger() -> None:
    values = RNG.standard_normal((12, 5))
    assert shrink_map(values, 4, 9).shape == (4, 5)
    assert shrink_map(values, 12, 5) is values
    assert shrink_map(np.zeros((6, 6)), 1, 1).shape == (1, 1)


def test_maps_grow_between_pixel_centres_without_overshoot() -> None:
    grown = enlarge_map(np.float32([[0, 1]]), 1, 4)
    # Half-pixel centres: sources at 1 and 3 of 4, targets at 0.5, 1.5, 2.5, 3.5.
    np.testing.assert_allclose(grown, [[0, 0.25, 0.75, 1]], atol=1e-6)
    step = enlarge_map(np.float32([[0, 0, 1, 1]]), 8, 99)
    assert step.min() >= 0
    assert step.max() <= 1
    assert enlarge_map(np.float32([[0, 1]]), 2, 4, hard=True).tolist() == [[0, 0, 1, 1]] * 2


def test_refusals() -> None:
    with pytest.raises(OptionError, match="positive"):
        fit_picture(np.zeros((4, 4), np.uint8), 0)
    with pytest.raises(InputError, match="NaN"):
        shrink_map(np.full((2, 2), np.nan), 1, 1)
