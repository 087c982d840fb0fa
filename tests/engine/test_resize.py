"""Resampling against Pillow, against OpenCV where the two definitions coincide, and against closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnxplain.engine.resize import cover_window, letterbox_window, resample

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """Noise blurred a little and kept in 40..215: Pillow clips between its two passes, which must not happen here."""
    noise = np.random.default_rng(7).uniform(0, 255, (97, 141, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    scaled = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (40 + 175 * scaled).astype(np.uint8)


@pytest.mark.parametrize("interpolation", sorted(PILLOW))
@pytest.mark.parametrize("size", [(31, 37), (60, 141), (97, 50), (150, 200), (1, 1)])
def test_agrees_with_pillow(picture: NDArray[np.uint8], interpolation: str, size: tuple[int, int]) -> None:
    ours = resample(picture, size, interpolation=interpolation)
    theirs = np.asarray(Image.fromarray(picture).resize((size[1], size[0]), PILLOW[interpolation]))
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1  # Pillow rounds to 8 bits between its passes, we do once at the end
    assert difference.mean() < 0.35  # the half level of that rounding, seen by a fraction of the pixels


def test_window_is_part_of_the_whole(picture: NDArray[np.uint8]) -> None:
    whole = resample(picture, (40, 58), interpolation="bicubic")
    window = resample(picture, (40, 58), interpolation="bicubic", window=(5, 9, 24, 30))
    # a sum over fewer zeros may round differently in its last bit, which shows only on a tie
    assert np.abs(window.astype(int) - whole[5:29, 9:39].astype(int)).max() <= 1
    assert (window != whole[5:29, 9:39]).mean() < 1e-3
    unfiltered = resample(picture, (40, 58), antialias=False, window=(5, 9, 24, 30))
    np.testing.assert_array_equal(unfiltered, resample(picture, (40, 58), antialias=False)[5:29, 9:39])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_a_ramp_stays_a_ramp(interpolation: str, antialias: bool) -> None:
    """Linear and cubic filters keep a straight line: out(j) = in((j + 1/2) * scale - 1/2), away from the border."""
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    out = resample(ramp, (8, 100), interpolation=interpolation, antialias=antialias)
    expected = (np.arange(100) + 0.5) * 2.4 - 0.5
    assert np.abs(out[4, 5:-5, 1] - expected[5:-5]).max() <= 0.51  # half a level of rounding


def test_enlarging_bilinear_is_opencvs(picture: NDArray[np.uint8]) -> None:
    """Nothing to antialias when enlarging, so the two definitions are one; OpenCV computes with 11-bit weights."""
    ours = resample(picture, (200, 300))
    theirs = cv2.resize(picture, (300, 200), interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_antialiasing_removes_what_cannot_be_shown() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), 64)[None, :, None].repeat(64, axis=0).repeat(3, axis=2)
    filtered = resample(stripes, (8, 16))
    assert np.abs(filtered[:, 2:-2].astype(int) - 127).max() <= 6  # one-pixel stripes are grey from afar
    nearest = resample(stripes, (8, 16), interpolation="nearest")
    assert set(np.unique(nearest)) <= {0, 255}


def test_area_is_the_mean_of_the_block() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    blocks = picture.reshape(8, 3, 12, 3, 3).mean(axis=(1, 3))
    assert np.abs(resample(picture, (8, 12), interpolation="area") - blocks).max() <= 0.51


@pytest.mark.parametrize(
    ("height", "width", "size", "ratio", "whole", "window"),
    [
        (300, 451, (224, 224), 224 / 256, (256, 384), (16, 80, 224, 224)),  # int(256 * 451 / 300) = 384
        (451, 300, (224, 224), 224 / 256, (384, 256), (80, 16, 224, 224)),
        (100, 100, (50, 50), 1.0, (50, 50), (0, 0, 50, 50)),
        (100, 200, (50, 100), 1.0, (50, 100), (0, 0, 50, 100)),
        (100, 150, (50, 100), 1.0, (66, 100), (8, 0, 50, 100)),  # the width limits
        (10, 3000, (224, 224), 1.0, (224, 67200), (0, 33488, 224, 224)),
    ],
)
def test_cover(
    height: int,
    width: int,
    size: tuple[int, int],
    ratio: float,
    whole: tuple[int, int],
    window: tuple[int, int, int, int],
) -> None:
    assert cover_window(height, width, size, ratio) == (whole, window)


def test_the_crop_never_leaves_the_picture() -> None:
    draw = np.random.default_rng(3)
    for _ in range(300):
        height, width, *size = (int(n) for n in draw.integers(1, 400, 4))
        whole, (top, left, h, w) = cover_window(height, width, (size[0], size[1]), float(draw.uniform(0.5, 1)))
        assert [h, w] == size
        assert min(top, left) >= 0
        assert top + h <= whole[0]
        assert left + w <= whole[1]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, ((480, 640), (80, 0, 480, 640))),
        (1280, 640, ((640, 320), (0, 160, 640, 320))),
        (100, 133, ((481, 640), (79, 0, 481, 640))),  # 100 * 640 / 133 = 481.2
        (5000, 1, ((640, 1), (0, 319, 640, 1))),
    ],
)
def test_letterbox(height: int, width: int, expected: object) -> None:
    assert letterbox_window(height, width, (640, 640)) == expected
