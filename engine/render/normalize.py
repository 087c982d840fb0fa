"""Display ranges: which value gets the first colour of a map and which the last.

This is for the eye alone; the numbers of an explanation are never changed. Guarantees: zero sits exactly in the
middle of a diverging range; a constant map becomes a flat map instead of a division by zero or a picture of rounding
noise; a sparse map whose percentile is zero is still shown; magnitudes from 1e-300 to 1e300 neither overflow nor
vanish; NaN and infinity are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import finite_array

DEFAULT_PERCENTILE = 99.0

# A spread below this many units of rounding is noise around a constant, not contrast.
_NOISE_ULPS = 8

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class DisplayRange:
    """The values that the two ends of a colour map stand for.

    Attributes:
        low: Value of the first colour.
        high: Value of the last colour; equal to ``low`` for a map without contrast.
        signed: Diverging: ``low == -high``, zero is the centre.
        clips_low: Some value lies below ``low`` and is drawn like it.
        clips_high: Some value lies above ``high`` and is drawn like it.
    """

    low: float
    high: float
    signed: bool
    clips_low: bool = False
    clips_high: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            raise OptionError(f"a display range needs finite low <= high, not {self.low} and {self.high}")
        if self.signed and self.low != -self.high:
            raise OptionError(f"a signed display range is symmetric about zero, not {self.low} to {self.high}")

    def to_unit(self, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Values to [0, 1], clipped: ``low`` to 0, ``high`` to 1; a range without contrast to 0 (0.5 if signed).

        Raises:
            InputError: NaN or infinity in the values.
        """
        array = finite_array(values, "map")
        if self.low == self.high:
            return np.full(array.shape, 0.5 if self.signed else 0.0, np.float32)
        # Everything relative to the larger end: high - low itself can overflow, or be subnormal.
        scale = max(abs(self.low), abs(self.high))
        low, high = self.low / scale, self.high / scale
        flat, unit = array.reshape(-1), np.empty(array.size, np.float32)
        # In pieces, so that the float64 copies stay small for a map of many megapixels.
        for start in range(0, array.size, _PIECE):
            piece = np.clip(flat[start : start + _PIECE].astype(np.float64), self.low, self.high)
            unit[start : start + _PIECE] = np.clip((piece / scale - low) / (high - low), 0.0, 1.0)
        return unit.reshape(array.shape)


def _check_percentile(percentile: float) -> None:
    if not 0.0 < percentile <= 100.0:
        raise OptionError(f"percentile is {percentile}; pass a number above 0 and up to 100 (100: no clipping)")


def sequential_range(
    values: npt.ArrayLike, *, percentile: float = DEFAULT_PERCENTILE, low_percentile: float = 0.0
) -> DisplayRange:
    """Range of a map without sign: from its smallest value to a high percentile.

    Args:
        values: Map of any shape.
        percentile: Values above this percentile share the last colour; 100 keeps the maximum. Where the percentile
            falls onto the lower end (a map that is almost everywhere constant) the maximum is taken instead.
        low_percentile: The same for the first colour; 0 keeps the minimum.

    Raises:
        InputError: NaN, infinity or no value at all.
        OptionError: Percentiles out of order or outside 0..100.
    """
    _check_percentile(percentile)
    if not 0.0 <= low_percentile < percentile:
        raise OptionError(f"low_percentile is {low_percentile}; pass a number from 0 to below percentile={percentile}")
    array = finite_array(values, "map")
    smallest, largest = float(array.min()), float(array.max())
    scale = max(abs(smallest), abs(largest))
    if largest - smallest <= _NOISE_ULPS * float(np.finfo(array.dtype).eps) * scale:
        return DisplayRange(smallest, smallest, signed=False)
    low, high = smallest, largest
    if percentile < 100.0 or low_percentile > 0.0:
        cut = np.percentile(array.astype(np.float64) / scale, [low_percentile, percentile]) * scale
        low, high = float(np.clip(cut[0], smallest, largest)), float(np.clip(cut[1], smallest, largest))
    if not high > low:
        low, high = smallest, largest
    return DisplayRange(low, high, False, clips_low=smallest < low, clips_high=largest > high)


def diverging_range(values: npt.ArrayLike, *, percentile: float = DEFAULT_PERCENTILE) -> DisplayRange:
    """Range of a signed map: symmetric about zero, up to a percentile of the magnitudes.

    Args:
        values: Map of any shape.
        percentile: Magnitudes above this percentile share the end colours; 100 keeps the largest. Where it falls onto
            zero (a sparse map) the largest magnitude is taken instead.

    Raises:
        InputError: NaN, infinity or no value at all.
        OptionError: Percentile outside 0..100.
    """
    _check_percentile(percentile)
    array = finite_array(values, "map")
    magnitude = np.abs(array)
    largest = float(magnitude.max())
    span = float(np.percentile(magnitude, percentile)) if percentile < 100.0 else largest
    if not 0.0 < span <= largest:
        span = largest
    # 0.0 - span, not -span: a map of zeros has no negative zero in its legend.
    return DisplayRange(
        0.0 - span, span, True, clips_low=bool(float(array.min()) < -span), clips_high=bool(float(array.max()) > span)
    )


def display_range(values: npt.ArrayLike, *, signed: bool, percentile: float = DEFAULT_PERCENTILE) -> DisplayRange:
    """:func:`diverging_range` for signed maps, :func:`sequential_range` for the others."""
    if signed:
        return diverging_range(values, percentile=percentile)
    return sequential_range(values, percentile=percentile)


def shared_range(ranges: Iterable[DisplayRange]) -> DisplayRange:
    """The smallest range that holds all of ``ranges``, for maps that share one colour bar.

    Raises:
        InputError: No range, or signed and unsigned ones mixed.
    """
    members = list(ranges)
    if not members or len({member.signed for member in members}) > 1:
        raise InputError("a shared range needs at least one map, and maps that are all signed or all unsigned")
    low, high = min(member.low for member in members), max(member.high for member in members)
    return DisplayRange(
        low,
        high,
        members[0].signed,
        clips_low=any(member.clips_low and member.low == low for member in members),
        clips_high=any(member.clips_high and member.high == high for member in members),
    )


def normalize(
    values: npt.ArrayLike, *, signed: bool, percentile: float = DEFAULT_PERCENTILE
) -> npt.NDArray[np.float32]:
    """A map scaled to [0, 1] for a colour map; for signed maps zero becomes exactly 0.5.

    Raises:
        InputError: NaN, infinity or no value at all.
        OptionError: Percentile outside 0..100.
    """
    return display_range(values, signed=signed, percentile=percentile).to_unit(values)
