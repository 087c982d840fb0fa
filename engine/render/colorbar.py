"""Colour bars: which value a colour stands for, in as few words as an eye needs.

Guarantees: ticks are round numbers inside the range, zero among them where the range holds it; labels of one bar have
one number of decimals; very large and very small values share one power of ten, written above the bar; a bar that
clips ends in a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxplain.engine.render.arrays import RGB
from onnxplain.engine.render.canvas import MUTED, RULE, Canvas, Style
from onnxplain.engine.render.normalize import DisplayRange
from onnxplain.engine.render.text import text_width

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
    first, last = math.ceil(start / step - 1e-9), math.floor(stop / step + 1e-9)
    numbers = [k * step for k in range(first, last + 1)]
    decimals = max(0, 1 - math.floor(math.log10(step)))
    while decimals and all(math.isclose(n, round(n, decimals - 1), abs_tol=step * 1e-6) for n in numbers):
        decimals -= 1
    if len(numbers) < 2:
        numbers, decimals = [start, stop], max(0, 2 - math.floor(math.log10(stop - start)))
    labels = tuple(minus(f"{n if abs(n) > step * 1e-6 else 0.0:.{decimals}f}") for n in numbers)
    return Ticks(tuple(_scaled(n, -power) for n in numbers), labels, sign)


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
    # Pixel k of the strip shows the value at its middle.
    at = (np.arange(bottom - top)[::-1] + 0.5) / max(bottom - top, 1)
    index = np.zeros(bottom - top, np.intp) if shown.low == shown.high else (at * len(colors)).astype(np.intp)
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
    span = shown.high - shown.low
    for value, label in zip(ticks.values, ticks.labels, strict=True):
        place = bottom - (bottom - top) * (0.0 if span <= 0 else (value / span - shown.low / span))
        canvas.lines([[(right, place), (right + 4, place)]], colors=MUTED)
        canvas.text(beside, min(max(place, y + half), y + height - half), label, size=style.small, color=MUTED)
    canvas.text(x, y - 0.75 * style.line(style.small), ticks.power, size=style.small, color=MUTED)


def _hex(rgb: RGB) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in rgb)
