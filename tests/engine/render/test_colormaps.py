"""Colour maps: known colours, symmetry, and lightness in CIELAB, a space other than the one they are made in."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.colormaps import STEPS, apply, table


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L* of sRGB bytes."""
    coded = rgb.astype(np.float64) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


@pytest.mark.parametrize("name", ["polar", "polar_gray"])
def test_zero_is_neutral_and_signs_have_their_colour(name: str) -> None:
    negative, zero, positive = apply([0.0, 0.5, 1.0], name).astype(int)
    assert zero.max() - zero.min() == 0
    assert positive[0] > positive[2] + 100  # red
    assert negative[2] > negative[0] + 100  # blue


@pytest.mark.parametrize("name", ["polar", "polar_gray"])
def test_both_signs_weigh_the_same_and_grow_evenly(name: str) -> None:
    light = lightness(table(name))
    # 4 of 100: OKLab and CIELAB disagree on saturated red and blue by about as much.
    assert np.abs(light - light[::-1]).max() < 4
    arm = light[STEPS // 2 :]
    # From one quantised colour to the next it may go the wrong way by a rounding, never over ten of them.
    assert np.all(np.diff(arm[::10]) < 0)
    even = np.linspace(arm[0], arm[-1], len(arm))
    assert np.abs(arm - even).max() < 3


def test_blush_is_the_positive_half() -> None:
    for suffix in ("", "_gray"):
        unit = np.linspace(0, 1, 256)
        np.testing.assert_array_equal(apply(unit, f"blush{suffix}"), apply(0.5 + unit / 2, f"polar{suffix}"))


def test_matplotlib_maps_are_matplotlibs() -> None:
    unit = np.arange(256) / 255
    expected = np.rint(mpl.colormaps["inferno"](np.arange(256))[:, :3] * 255)
    assert np.abs(apply(unit, "inferno").astype(int) - expected).max() == 0
    centre = apply(0.5, "RdBu_r").astype(int)
    assert centre.max() - centre.min() <= 2


def test_shape_and_dtype() -> None:
    got = apply(np.zeros((3, 4)), "viridis")
    assert got.shape == (3, 4, 3)
    assert got.dtype == np.uint8


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"'infernoo'.*inferno"):
        apply([0.0], "infernoo")
    with pytest.raises(InputError, match="NaN"):
        apply([np.nan])
    for outside in (-0.01, 1.01):
        with pytest.raises(InputError, match="normalize it first"):
            apply([outside])
    # What interpolation in float32 may add to one.
    assert apply(np.float32(1.0000002)).tolist() == apply(1.0).tolist()


def test_tables_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table("polar")[0] = 0
