"""Overlays: what zero, the extremes and odd sizes do to a picture. Figures: deterministic, sized, read by others."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.normalize import DisplayRange
from onnxplain.engine.render.overlay import Look, caption_text, figure_overlay, overlay
from onnxplain.engine.render.png import read_text

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (60, 80, 3), np.uint8)
BLOB = np.exp(-((np.mgrid[:60, :80][0] - 30) ** 2 + (np.mgrid[:60, :80][1] - 20) ** 2) / 90.0)


def page(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("signed", [True, False])
def test_zero_leaves_the_picture_as_it_is(signed: bool) -> None:
    values = np.zeros((60, 80))
    np.testing.assert_array_equal(overlay(PICTURE, values, signed=signed, fade=0), PICTURE)
    values[10, 10] = 1.0
    result = overlay(PICTURE, values, signed=signed, fade=0)
    changed = np.argwhere((result != PICTURE).any(axis=2))
    assert changed.tolist() == [[10, 10]]


def test_fade_alone_goes_to_grey() -> None:
    grey = overlay(PICTURE, np.zeros((60, 80)), signed=True, fade=1)
    expected = PICTURE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected[:, :, None]).max() <= 0.51


def test_known_blend() -> None:
    black = np.zeros((1, 3, 3), np.uint8)
    values = np.array([[0.0, 0.25, 1.0]])
    result = overlay(black, values, signed=False, colormap="Greys_r", alpha=0.5, gamma=0.5, percentile=100)
    # Over black: alpha * sqrt(v) * colour, the colour of Greys_r being close to 255 v.
    assert result[0, 0].tolist() == [0, 0, 0]
    assert result[0, 2].tolist() == [128, 128, 128]
    from matplotlib import colormaps

    np.testing.assert_allclose(result[0, 1], 0.25 * 255 * np.array(colormaps["Greys_r"](0.25))[:3], atol=1.5)


def test_signs_have_their_colours() -> None:
    grey = np.full((1, 3), 128, np.uint8)
    minus, zero, plus = overlay(grey, [[-1.0, 0.0, 1.0]], signed=True)[0].astype(int)
    assert plus[0] > plus[2] + 60
    assert minus[2] > minus[0] + 60
    assert zero.tolist() == [128] * 3


def test_a_small_map_is_spread_over_the_picture() -> None:
    values = np.array([[1.0, 0.0], [0.0, 0.0]])
    white = np.full((100, 100), 255, np.uint8)
    result = overlay(white, values, signed=False, colormap="Greys")
    darkness = 255.0 * 3 - result.sum(axis=2)
    assert result.shape == (100, 100, 3)
    assert darkness[5, 5] > darkness[40, 40] > 0
    assert darkness[95, 95] == 0


def test_a_large_map_is_averaged() -> None:
    values = np.kron(RNG.random((60, 80)), np.ones((3, 3)))
    small = values[::3, ::3]
    difference = overlay(PICTURE, values, signed=False).astype(int) - overlay(PICTURE, small, signed=False)
    assert np.abs(difference).max() <= 1


def test_limits_make_maps_comparable() -> None:
    limits = DisplayRange(0.0, 2.0, False)
    white = np.full((1, 2), 255, np.uint8)
    alone = overlay(white, [[0.0, 1.0]], signed=False, percentile=100)
    half = overlay(white, [[0.0, 1.0]], signed=False, limits=limits)
    full = overlay(white, [[0.0, 2.0]], signed=False, limits=limits)
    assert (alone == full).all()
    assert (half[0, 1] != full[0, 1]).any()
    with pytest.raises(OptionError, match="both be signed"):
        overlay(white, [[0.0, 1.0]], signed=True, limits=limits)


@pytest.mark.parametrize("side", [8, 28])
def test_tiny_pictures_keep_hard_pixels_and_so_do_their_maps(side: int) -> None:
    picture, values = RNG.integers(0, 256, (side, side), np.uint8), RNG.standard_normal((side, side))
    factor = 336 // side
    expected = overlay(picture, values, signed=True).repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(overlay(picture, values, signed=True, size=336), expected)


def test_big_pictures_do_not_explode_memory() -> None:
    picture = np.zeros((4000, 4000, 3), np.uint8)
    values = np.zeros((4000, 4000), np.float32)
    values[1000:2000] = 1
    tracemalloc.start()
    result = overlay(picture, values, signed=False, percentile=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    figure_overlay(picture, values, signed=True)
    figure_peak = tracemalloc.get_traced_memory()[1] - result.nbytes
    tracemalloc.stop()
    assert result.shape == (4000, 4000, 3)
    # Picture 48 MB, map 64 MB: result, normalized map and work space, no float copy of the picture.
    assert peak < 350e6
    assert figure_peak < 350e6


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3)])
@pytest.mark.parametrize("map_size", [(1, 1), (3, 700), (64, 64)])
def test_odd_sizes(size: tuple[int, int], map_size: tuple[int, int]) -> None:
    picture, values = np.full(size, 90, np.uint8), RNG.standard_normal(map_size)
    assert overlay(picture, values, signed=True).shape == (*size, 3)
    assert page(figure_overlay(picture, values, signed=False, title="odd", panel=128)).ndim == 3


@pytest.mark.parametrize("signed", [True, False])
def test_figures_are_deterministic_and_carry_metadata(signed: bool) -> None:
    arguments = {"title": "Why $5?", "class_name": "cat", "score": 1.5, "method": "fullgrad", "residual": 1e-7}
    metadata = {"method": "fullgrad", "sha": "abc"}
    one = figure_overlay(PICTURE, BLOB, signed=signed, metadata=metadata, **arguments)
    two = figure_overlay(PICTURE.copy(), BLOB.copy(), signed=signed, metadata=dict(metadata), **arguments)
    assert one == two
    assert read_text(one) == metadata


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib, numpy as np; from onnxplain.engine.render.overlay import figure_overlay as f;"
        "x = np.arange(2400) % 251; m = np.sin(x.reshape(40, 60) * 0.1);"
        "data = f(x.reshape(40, 60).astype(np.uint8), m, signed=True, title='t', metadata={'a': 'b', 'c': 'd'});"
        "print(hashlib.sha256(data).hexdigest())"
    )
    hashes = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        hashes.add(run.stdout)
    assert len(hashes) == 1
    assert len(hashes.pop().strip()) == 64


def test_the_figure_shows_the_picture_and_keeps_its_margins() -> None:
    data = page(figure_overlay(PICTURE, BLOB, signed=False, title="t " * 200, note="n " * 400, panel=160))
    assert (data[:10] == 255).all()
    assert (data[-10:] == 255).all()
    assert (data[:, :10] == 255).all()
    assert (data[:, -10:] == 255).all()
    # 160 is twice 80, below the factor of hard pixels: the picture is smooth, its mean stays.
    plain = page(figure_overlay(np.full((80, 80, 3), [200, 30, 60], np.uint8), BLOB, signed=False, panel=160))
    assert int((plain == [200, 30, 60]).all(axis=2).sum()) == 160 * 160


def test_panels_can_be_chosen() -> None:
    widths = [
        page(figure_overlay(PICTURE, BLOB, signed=True, panels=panels, panel=200)).shape[1]
        for panels in (("picture",), ("overlay",), ("picture", "overlay"), ("picture", "overlay", "map"))
    ]
    assert widths == sorted(set(widths))
    for panels in ((), ("heat",)):
        with pytest.raises(OptionError, match="picture, overlay, map"):
            figure_overlay(PICTURE, BLOB, signed=True, panels=panels)


def test_caption_leaves_out_what_is_absent() -> None:
    assert caption_text() == ""
    full = caption_text(class_name="cat", score=-2.0, head="logit", method="fullgrad", residual=3.2e-7)
    assert full == "cat  ·  logit −2  ·  fullgrad  ·  residual 3.2×10⁻⁷"
    assert caption_text(score=0.5) == "score 0.5"


def test_refusals() -> None:
    with pytest.raises(InputError, match="NaN"):
        overlay(PICTURE, np.full((2, 2), np.nan), signed=True)
    with pytest.raises(InputError, match="reduce_channels"):
        overlay(PICTURE, np.zeros((3, 60, 80)), signed=True)
    with pytest.raises(InputError, match="uint8"):
        overlay(PICTURE / 255.0, BLOB, signed=True)
    for options, words in (
        ({"alpha": 1.5}, "alpha"),
        ({"fade": -0.1}, "fade"),
        ({"gamma": 0.0}, "gamma"),
        ({"interpolation": "magic"}, "interpolation"),
        ({"colormap": "no such"}, "colour map"),
        ({"percentile": 0.0}, "percentile"),
        ({"size": 0}, "positive"),
    ):
        with pytest.raises(OptionError, match=words):
            overlay(PICTURE, BLOB, signed=True, **options)
    with pytest.raises(OptionError, match="alpha"):
        Look(alpha=float("nan"))
