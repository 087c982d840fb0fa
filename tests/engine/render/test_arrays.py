"""What the renderers accept and refuse."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.errors import InputError
from onnxplain.engine.render.arrays import finite_array, map_2d, rgb_picture


def test_grey_and_rgba_become_rgb() -> None:
    grey = np.array([[0, 200]], np.uint8)
    assert rgb_picture(grey).tolist() == [[[0] * 3, [200] * 3]]
    assert rgb_picture(grey[:, :, None]).tolist() == rgb_picture(grey).tolist()
    # Transparent black over white is white; half transparent, half way.
    rgba = np.array([[[0, 0, 0, 0], [10, 20, 30, 255], [0, 0, 0, 128]]], np.uint8)
    assert rgb_picture(rgba).tolist() == [[[255] * 3, [10, 20, 30], [127] * 3]]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32.*before preprocessing"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
    ],
)
def test_other_pictures_are_refused(picture: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rgb_picture(picture)


def test_maps_must_be_finite_real_and_two_dimensional() -> None:
    with pytest.raises(InputError, match="2 NaN or infinite values of 3"):
        finite_array([1.0, np.nan, np.inf], "map")
    with pytest.raises(InputError, match="nothing to draw"):
        finite_array(np.zeros((0, 3)), "map")
    with pytest.raises(InputError, match="reduce_channels"):
        map_2d(np.zeros((3, 4, 4)))
    with pytest.raises(InputError, match="bool"):
        map_2d(np.zeros((2, 2), bool))
    assert finite_array(np.float16([1.5]), "map").dtype == np.float32
