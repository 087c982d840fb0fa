"""A row of a table with its attribution: one bar per column, the largest first.

Guarantees: the same colours and ranges as everywhere else; bars are as long as their numbers, from one zero line; what
is not drawn is counted and summed in a line of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import RGB, Real, finite_array
from onnxplain.engine.render.canvas import MUTED, Canvas, Style
from onnxplain.engine.render.colormaps import STEPS, table, unit_index
from onnxplain.engine.render.frame import Frame
from onnxplain.engine.render.normalize import display_range
from onnxplain.engine.render.png import encode
from onnxplain.engine.render.text import ellipsize, text_width

#: The name of a column takes this part of the page at most.
_NAMES = 0.4
#: What is smaller than this part of the largest is what float32 leaves of zero, and is written as zero.
_ROUNDING = 1e-6


def figure_bars(
    names: Sequence[str],
    values: npt.ArrayLike,
    *,
    signed: bool,
    most: int = 20,
    title: str = "",
    caption: str = "",
    note: str = "",
    width: int = 760,
    colormap: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Horizontal bars, the largest magnitude first.

    Args:
        names: A name per column.
        values: ``(F,)`` attribution.
        signed: Whether its sign means something.
        most: Bars at most; what is left over is one line.
        title: Bold, above.
        caption: Small, below (:func:`onnxplain.engine.render.overlay.caption_text`).
        note: One more sentence.
        width: Pixels of names, bars and numbers, 320 to 4096.
        colormap: Name of a colour map; None: one made for the sign.
        metadata: Text to embed in the PNG.

    Returns:
        PNG bytes; the same for the same arguments.

    Raises:
        InputError: No column, not one value for each, NaN or infinity.
        OptionError: An unknown colour map, no bar, or a width out of range.
    """
    if not 320 <= width <= 4096 or most < 1:
        raise OptionError(f"{most} bars on {width} pixels; pass at least one bar, and a width of 320 to 4096")
    amounts = finite_array(values, "attribution")
    if amounts.shape != (len(names),) or not len(names):
        raise InputError(f"attribution has shape {amounts.shape} for {len(names)} columns; pass one value per column")
    shown = display_range(amounts, signed=signed, percentile=100.0)
    colors = table(colormap or ("polar_gray" if signed else "blush_gray"))[unit_index(shown.to_unit(amounts), STEPS)]
    order = np.argsort(-np.abs(amounts), kind="stable")
    kept = order[:most]
    left_out = order[most:]
    rounding = _ROUNDING * float(np.abs(amounts).max())
    rest = (
        f"{len(left_out)} others: {_number(amounts[left_out].sum(), rounding, signed)} together"
        if len(left_out)
        else ""
    )
    numbers = [_number(value, rounding, signed) for value in amounts[kept]]
    page = _draw([names[i] for i in kept], numbers, amounts[kept], colors[kept], width, title, [caption, note], rest)
    return encode(page, metadata)


def _number(value: float, rounding: float, signed: bool) -> str:
    return f"{float(value):{'+' if signed else ''}.3g}" if abs(value) > rounding else "0"


def _draw(
    names: Sequence[str],
    numbers: Sequence[str],
    amounts: Real,
    colors: RGB,
    width: int,
    title: str,
    captions: Sequence[str],
    rest: str,
) -> RGB:
    sizes = Style.of(384)
    step = round(1.7 * sizes.line(sizes.small))
    name_room = min(_NAMES * width, max(text_width(name, sizes.small) for name in names))
    number_room = max(text_width(text, sizes.small) for text in numbers)
    start = math.ceil(name_room) + sizes.gap
    room = width - start - math.ceil(number_room) - sizes.gap
    low, high = min(0.0, float(amounts.min())), max(0.0, float(amounts.max()))
    span = (high - low) or 1.0
    height = step * (len(names) + bool(rest))
    canvas, left, top = Frame(title, captions, width, sizes).open(height)
    zero = left + start + round(room * -low / span)
    for k, (name, value, number) in enumerate(zip(names, amounts, numbers, strict=True)):
        middle = top + (k + 0.5) * step
        label = ellipsize(name, sizes.small, name_room)
        canvas.text(left + name_room, middle, label, size=sizes.small, align="right")
        canvas.text(left + width, middle, number, size=sizes.small, color=MUTED, align="right")
        _bar(canvas, zero, round(room * float(value) / span), top + k * step, step, colors[k])
    canvas.lines([[(zero, top), (zero, top + step * len(names))]], colors=MUTED)
    if rest:
        canvas.text(left + start, top + (len(names) + 0.5) * step, rest, size=sizes.small, color=MUTED)
    return canvas.finish()


def _bar(canvas: Canvas, zero: int, length: int, top: int, step: int, color: RGB) -> None:
    """A bar from the zero line, a little air above and below."""
    air = max(2, step // 6)
    if length:
        block = np.broadcast_to(color, (step - 2 * air, abs(length), 3))
        canvas.backdrop(zero + min(length, 0), top + air, np.ascontiguousarray(block))
