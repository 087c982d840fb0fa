"""Numbers in [0, 1] to colours.

Maps made here have a lightness that is linear in the number, built in the OKLab space (Ottosson 2020), so that equal
steps look equal: ``polar`` runs blue - white - red for signed maps; ``polar_gray`` has a grey centre, for photographs
and for coloured lines on white; ``blush`` and ``blush_gray`` are their upper halves, for maps without sign on a light
page. Every matplotlib colour map is served by its own name. Guarantee: 0.5 gets the exact centre of a diverging map.
"""

from __future__ import annotations

import difflib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import RGB, finite_array

Values = npt.NDArray[np.float64]

SEQUENTIAL = "inferno"
"""Default for maps without sign on photographs."""
DIVERGING = "polar"
"""Default for signed maps on a light page."""
DIVERGING_OVERLAY = "polar_gray"
"""Default for signed maps on photographs, where a white centre would lie over dark parts like haze."""

STEPS = 511
"""Colours per table. Odd, so that 0.5 is an entry of its own."""

# Lightness, chroma and hue (degrees) of the ends. Red and blue stay distinct for all common colour deficiencies.
_END_LIGHTNESS, _RED, _BLUE = 0.52, (0.205, 27.0), (0.17, 259.0)
_WHITE, _GRAY = 0.985, 0.75
# Chroma rises faster than linearly at first, more so around grey: half the magnitude must be a colour already.
_CHROMA_POWER_WHITE, _CHROMA_POWER_GRAY = 0.75, 0.6
_OWN = ("blush", "blush_gray", "polar", "polar_gray")


def _oklch_to_rgb(lightness: Values, chroma: Values, hue: float) -> Values:
    """OKLCh to sRGB in [0, 1]; the inverse of the two matrices of Ottosson's definition."""
    a, b = chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))
    cone = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear @ cone**3, 0.0, 1.0)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(coded.T, np.float64)


def _arm(gray: bool, end: tuple[float, float], steps: int) -> Values:
    """From the neutral centre to the end colour, ``(steps, 3)``."""
    centre, power = (_GRAY, _CHROMA_POWER_GRAY) if gray else (_WHITE, _CHROMA_POWER_WHITE)
    way = np.linspace(0.0, 1.0, steps)
    return _oklch_to_rgb(centre + (_END_LIGHTNESS - centre) * way, end[0] * way**power, end[1])


def _own(name: str) -> Values:
    gray = name.endswith("_gray")
    if name.startswith("blush"):
        return _arm(gray, _RED, STEPS)
    half = STEPS // 2 + 1
    return np.concatenate([_arm(gray, _BLUE, half)[:0:-1], _arm(gray, _RED, half)])


def _matplotlib(name: str) -> Values:
    from matplotlib import colormaps

    if name not in colormaps:
        near = difflib.get_close_matches(name, [*_OWN, *colormaps], n=3) or [SEQUENTIAL, DIVERGING]
        raise OptionError(f"unknown colour map '{name}'; did you mean {', '.join(near)}?")
    # Interpolated, not looked up: a table of 256 has no entry for 0.5.
    coarse = np.asarray(colormaps[name](np.linspace(0.0, 1.0, 256)), np.float64)[:, :3]
    where = np.linspace(0.0, 255.0, STEPS)
    return np.stack([np.interp(where, np.arange(256), coarse[:, k]) for k in range(3)], axis=1)


@lru_cache(maxsize=64)
def table(name: str) -> RGB:
    """The colours of a map, ``(511, 3)`` uint8, read-only.

    Raises:
        OptionError: Unknown name; the message offers the nearest ones.
    """
    colours = _own(name) if name in _OWN else _matplotlib(name)
    result = np.rint(colours * 255.0).astype(np.uint8)
    result.flags.writeable = False
    return result


def apply(map01: npt.ArrayLike, name: str = SEQUENTIAL) -> RGB:
    """Colours of numbers in [0, 1].

    Args:
        map01: Any shape; for signed maps 0.5 stands for zero (:func:`onnxplain.engine.render.normalize.normalize`).
        name: ``polar``, ``polar_gray``, ``blush``, ``blush_gray`` or any matplotlib colour map.

    Returns:
        uint8 RGB, shape of ``map01`` plus a last axis of 3.

    Raises:
        InputError: NaN, or a number outside [0, 1].
        OptionError: Unknown name.
    """
    return table(name)[unit_index(map01, STEPS)]


def unit_index(map01: npt.ArrayLike, steps: int) -> npt.NDArray[np.uint16]:
    """Numbers in [0, 1] to the nearest of ``steps`` table entries.

    Raises:
        InputError: NaN, or a number outside [0, 1].
    """
    values = finite_array(map01, "map")
    # Not 1e-9: a float32 1.0 that went through an interpolation may exceed 1 by a few units of rounding.
    if float(values.min()) < -1e-5 or float(values.max()) > 1.0 + 1e-5:
        raise InputError(
            f"map runs from {values.min():.6g} to {values.max():.6g} but colours are defined on 0..1; "
            "normalize it first"
        )
    index = np.clip(values, 0.0, 1.0) * (steps - 1)
    return np.asarray(np.rint(index), np.uint16)
