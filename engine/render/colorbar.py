"""Colour bars: which value a colour stands for, in as few words as an eye needs.

Guarantees: ticks are round numbers inside the range (or invisibly outside), zero among them where the range holds it;
labels of one bar have one number of decimals; very large and very small values share one power of ten, written above
the bar; a bar whose range clips ends in a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxplain.engine.render.arrays import RGB
from onnxplain.engine.render.canvas import MUTED, RULE, Canvas, Style
from onnxplain.engine.render.normalize import DisplayRange
from onnxplain.engine.render.text import text_width

# How far outside its range a tick may lie, in steps.
_NEAR = 0.04
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks of one axis: the values, a label each, and the power of ten that all labels are to be multiplied with."""

    values: tuple[float, ...]
    labels: tuple[str, ...]
    power: str = ""


def minus(number: str) -> str:
    """A number with a true minus sign instead of a hyphen."""
    return number.replace("-", "\u2212")


def short_number(value: float, *, digits: int = 4) -> str:
    """A number in few characters: ``11.33``, ``−0.02``, ``3.2×10⁻⁷``, ``nan``."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    if not exponent and value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return minus(mantissa) + (f"×10{str(int(exponent)).translate(_SUPERSCRIPT)}" if exponent else "")


def round_ticks(low: float, high: float, count: int) -> Ticks:
    """About ``count`` round numbers in [low, high], at least two where the range is not empty.

    Args:
        low: Lower end.
        high: Upper end; equal to ``low`` gives that one value.
        count: Ticks wanted at most, at least 2.
    """
    largest = max(abs(low), abs(high))
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    power = exponent if largest > 0 and (largest >= 1e4 or largest < 1e-2) else 0
    # Relative to 10**power by way of the exponent, as 10.0**-320 is not exact and 10.0**-330 is zero.
    start, stop = _scaled(low, power), _scaled(high, power)
    sign = f"×10{str(power).translate(_SUPERSCRIPT)}" if power else ""
    if stop - start <= 1e-6 * max(abs(start), abs(stop)):
        return Ticks((low,), (minus(f"{start:.6g}"),), sign)
    step = _round_step((stop - start) / max(count - 1, 1))
    numbers = _multiples(start, stop, step)
    while len(numbers) < 2:
        step = _round_step(step * 0.45)
        numbers = _multiples(start, stop, step)
    decimals = max(0, 1 - math.floor(math.log10(step)))
    while decimals and all(math.isclose(n, round(n, decimals - 1), abs_tol=step * 1e-6) for n in numbers):
        decimals -= 1
    labels = tuple(minus(f"{n if abs(n) > step * 1e-6 else 0.0:.{decimals}f}") for n in numbers)
    return Ticks(tuple(_scaled(n, -power) for n in numbers), labels, sign)


def _multiples(start: float, stop: float, step: float) -> list[float]:
    # A map that starts at 0.003 still gets its zero: the eye cannot tell the places apart.
    first, last = math.ceil(start / step - _NEAR), math.floor(stop / step + _NEAR)
    return [k * step for k in range(first, last + 1)]


def _scaled(value: float, power: int) -> float:
    """``value / 10**power``, in two steps where the power itself has no float64."""
    half = power // 2
    return value / 10.0**half / 10.0 ** (power - half)


def _round_step(step: float) -> float:
    unit = 10.0 ** math.floor(math.log10(step))
    return next(k * unit for k in (1.0, 2.0, 2.5, 5.0, 10.0) if k * unit >= step * (1 - 1e-9))


def _bar_ticks(shown: DisplayRange, height: int, style: Style) -> Ticks:
    return round_ticks(shown.low, shown.high, max(2, min(6, round(height / (3.2 * style.small)))))


def bar_size(
    shown: DisplayRange, height: int, style: Style, *, labels: tuple[str, str] | None = None
) -> tuple[int, bool]:
    """Width that a bar takes with its labels, and whether a power of ten stands above it."""
    ticks = _bar_ticks(shown, height, style)
    words = labels or ticks.labels
    power = "" if labels else ticks.power
    beside = style.bar + round(0.5 * style.small) + max(text_width(word, style.small) for word in words)
    return math.ceil(max(beside, text_width(power, style.small))), bool(power)


def draw_bar(
    canvas: Canvas,
    x: int,
    y: int,
    height: int,
    shown: DisplayRange,
    colors: RGB,
    style: Style,
    *,
    labels: tuple[str, str] | None = None,
) -> None:
    """A vertical bar beside a picture.

    Args:
        canvas: The page.
        x: Left edge.
        y: Top edge; the power of ten, where there is one, stands above it.
        height: That of the picture beside it.
        shown: The range.
        colors: ``(steps, 3)``, from the lower end to the upper.
        style: Sizes.
        labels: Words for the lower and the upper end, instead of numbers.
    """
    tip = round(0.75 * style.bar)
    top = y + (tip if shown.clips_high and not labels else 0)
    bottom = y + height - (tip if shown.clips_low and not labels else 0)
    index = _entries(bottom - top, len(colors), shown)[::-1]
    strip = np.repeat(colors[index][:, np.newaxis], style.bar, axis=1)
    canvas.picture(x, top, strip, edge=RULE)
    middle, right = x + style.bar / 2, x + style.bar
    if top > y:
        canvas.polygon([(x - 1, top), (middle, y), (right + 1, top)], fill=_hex(colors[-1]))
    if bottom < y + height:
        canvas.polygon([(x - 1, bottom), (middle, y + height), (right + 1, bottom)], fill=_hex(colors[0]))
    beside = right + round(0.5 * style.small)
    half = 0.5 * style.small
    if labels:
        canvas.text(beside, bottom - half, labels[0], size=style.small, color=MUTED)
        canvas.text(beside, top + half, labels[1], size=style.small, color=MUTED)
        return
    ticks = _bar_ticks(shown, height, style)
    for value, label in zip(ticks.values, ticks.labels, strict=True):
        place = bottom - (bottom - top) * _share(value, shown)
        canvas.lines([[(right, place), (right + 4, place)]], colors=MUTED)
        canvas.text(beside, min(max(place, y + half), y + height - half), label, size=style.small, color=MUTED)
    canvas.text(x, y - 0.75 * style.line(style.small), ticks.power, size=style.small, color=MUTED)


def flat_bar_height(style: Style) -> int:
    """Height that :func:`draw_flat_bar` takes with its labels."""
    return style.bar + round(1.6 * style.small)


def draw_flat_bar(canvas: Canvas, x: int, y: int, width: int, shown: DisplayRange, colors: RGB, style: Style) -> None:
    """A bar that lies on its side, labels below it; the arguments are those of :func:`draw_bar`."""
    tip = round(0.75 * style.bar)
    left, right = x + (tip if shown.clips_low else 0), x + width - (tip if shown.clips_high else 0)
    strip = colors[_entries(right - left, len(colors), shown)][np.newaxis]
    canvas.picture(left, y, np.repeat(strip, style.bar, axis=0), edge=RULE)
    bottom, middle = y + style.bar, y + style.bar / 2
    if left > x:
        canvas.polygon([(left, y - 1), (x, middle), (left, bottom + 1)], fill=_hex(colors[0]))
    if right < x + width:
        canvas.polygon([(right, y - 1), (x + width, middle), (right, bottom + 1)], fill=_hex(colors[-1]))
    ticks = round_ticks(shown.low, shown.high, max(2, min(6, round(width / (4.5 * style.small)))))
    words = y + style.bar + 0.95 * style.small
    for value, label in zip(ticks.values, ticks.labels, strict=True):
        place = left + _share(value, shown) * (right - left)
        canvas.lines([[(place, bottom), (place, bottom + 4)]], colors=MUTED)
        canvas.text(place, words, label, size=style.small, color=MUTED, align="center")
    canvas.text(x + width + style.gap // 2, middle, ticks.power, size=style.small, color=MUTED)


def _entries(pixels: int, steps: int, shown: DisplayRange) -> npt.NDArray[np.intp]:
    """Table entry of each pixel of a bar, from the lower end: that of the value at the pixel's middle."""
    if shown.low == shown.high:
        return np.full(pixels, steps // 2 if shown.signed else 0, np.intp)
    return ((np.arange(pixels) + 0.5) / max(pixels, 1) * steps).astype(np.intp)


def _share(value: float, shown: DisplayRange) -> float:
    """Where a value lies between the ends, 0 to 1."""
    largest = max(abs(shown.low), abs(shown.high))
    if shown.low == shown.high:
        return 0.5 if shown.signed else 0.0
    # Relative to the larger end: the difference itself may overflow.
    share = (value / largest - shown.low / largest) / (shown.high / largest - shown.low / largest)
    return min(max(share, 0.0), 1.0)


def _hex(rgb: RGB) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in rgb)
