"""A one-dimensional signal with its attribution: as the colour of its line, or as the ground it runs over.

Guarantees: the same colours and ranges as everywhere else; no spike is lost when a long signal has more samples than
the page has columns (each column keeps its extremes and its largest attribution); neutral stays visible on white.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import RGB, Real, finite_array
from onnxplain.engine.render.canvas import INK, MUTED, RULE, Canvas, Style
from onnxplain.engine.render.colorbar import Ticks, bar_size, draw_bar, round_ticks
from onnxplain.engine.render.colormaps import STEPS, table, unit_index
from onnxplain.engine.render.frame import Frame
from onnxplain.engine.render.normalize import DEFAULT_PERCENTILE, DisplayRange, display_range
from onnxplain.engine.render.png import encode
from onnxplain.engine.render.text import ellipsize, text_width

STYLES = ("line", "background")
_MOST_CHANNELS = 32
_LARGEST = 1e300
_COLORMAPS = {
    ("line", True): "polar_gray",
    ("line", False): "blush_gray",
    ("background", True): "polar",
    ("background", False): "blush",
}
# A full colour behind a dark line would drown it.
_GROUND_OPACITY = 0.75


def figure_series(
    signal: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    signed: bool,
    style: str = "line",
    times: npt.ArrayLike | None = None,
    x_label: str = "sample",
    channels: Sequence[str] = (),
    title: str = "",
    caption: str = "",
    note: str = "",
    width: int = 960,
    colormap: str | None = None,
    percentile: float = DEFAULT_PERCENTILE,
    limits: DisplayRange | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A signal coloured by its attribution, one plot per channel, with a colour bar for all.

    Args:
        signal: ``(T,)`` or ``(T, C)``, at most 32 channels.
        values: Attribution, ``(T,)`` (the same for all channels) or ``(T, C)``.
        signed: Whether the attribution's sign means something.
        style: ``line``: the line takes the colour and gets thicker with the magnitude; ``background``: a dark line
            over a coloured ground.
        times: ``(T,)`` strictly increasing abscissae; the sample number when not given.
        x_label: What the abscissa is, with its unit.
        channels: A name per channel.
        title: Bold, above.
        caption: Small, below (:func:`onnxplain.engine.render.overlay.caption_text`).
        note: One more sentence.
        width: Pixels of the plots, 320 to 8192.
        colormap: Name of a colour map; None takes one made for the style.
        percentile: Where the range is clipped.
        limits: Range to use instead of the attribution's own.
        metadata: Text to embed in the PNG.

    Returns:
        PNG bytes; the same for the same arguments.

    Raises:
        InputError: Shapes that do not fit, NaN or infinity, times out of order.
        OptionError: An unknown style or colour map, or a width out of range.
    """
    if style not in STYLES or not 320 <= width <= 8192:
        raise OptionError(
            f"style '{style}' at {width} pixels; pass one of {', '.join(STYLES)} and a width of 320 to 8192"
        )
    if limits is not None and limits.signed != signed:
        raise OptionError("limits and attribution must both be signed or both unsigned; make limits with display_range")
    lines, amounts, at = _checked(signal, values, times, channels)
    shown = limits or display_range(amounts, signed=signed, percentile=percentile)
    colors = table(colormap or _COLORMAPS[style, signed])
    if style == "background":
        colors = np.rint(255 - _GROUND_OPACITY * (255.0 - colors)).astype(np.uint8)
    page = _Page(lines, amounts, at, shown, colors, channels, width, behind=style == "background")
    return encode(page.draw(title, [caption, note], x_label), metadata)


def _checked(
    signal: npt.ArrayLike, values: npt.ArrayLike, times: npt.ArrayLike | None, channels: Sequence[str]
) -> tuple[Real, Real, npt.NDArray[np.float64]]:
    """Signal and attribution as ``(T, C)``, abscissae as ``(T,)``."""
    lines, amounts = finite_array(signal, "signal"), finite_array(values, "attribution")
    lines = lines[:, np.newaxis] if lines.ndim == 1 else lines
    amounts = amounts[:, np.newaxis] if amounts.ndim == 1 else amounts
    if lines.ndim != 2 or amounts.ndim != 2 or amounts.shape not in (lines.shape, (len(lines), 1)):
        raise InputError(
            f"signal has shape {np.shape(signal)} and attribution {np.shape(values)}; "
            "pass (T,) or (T, C) for both, time first"
        )
    if lines.shape[1] > _MOST_CHANNELS:
        raise InputError(
            f"signal has shape {np.shape(signal)}, {lines.shape[1]} channels, but at most {_MOST_CHANNELS} are drawn; "
            "pass (T, C) with time first, or choose channels"
        )
    if channels and len(channels) != lines.shape[1]:
        raise InputError(f"{len(channels)} channel names for {lines.shape[1]} channels; pass one for each")
    at = np.arange(len(lines), dtype=np.float64) if times is None else finite_array(times, "times").astype(np.float64)
    if max(float(np.abs(lines).max()), float(np.abs(at).max())) > _LARGEST:
        raise InputError(f"signal or times exceed {_LARGEST:g}, too large for an axis; rescale them")
    if at.shape != (len(lines),) or bool(np.any(np.diff(at) <= 0)):
        raise InputError(f"times must be {len(lines)} strictly increasing numbers, one per sample of the signal")
    return lines.astype(np.float64), np.broadcast_to(amounts, lines.shape), at


def thin(line: Real, amounts: Real, at: Real, columns: int) -> tuple[Real, Real, Real]:
    """At most two points per column, so that a long signal keeps its extremes and its largest attribution.

    Args:
        line: ``(T,)`` signal.
        amounts: ``(T,)`` attribution.
        at: ``(T,)`` abscissae.
        columns: Columns of the plot.

    Returns:
        The same three; unchanged up to two samples per column.
    """
    if len(line) <= 2 * columns:
        return line, amounts, at
    starts = np.arange(columns) * len(line) // columns
    lowest, highest = np.minimum.reduceat(amounts, starts), np.maximum.reduceat(amounts, starts)
    strongest = np.where(np.abs(lowest) > np.abs(highest), lowest, highest)
    pieces = np.split(np.arange(len(line)), starts[1:])
    ends = np.array([sorted((p[np.argmin(line[p])], p[np.argmax(line[p])])) for p in pieces]).ravel()
    return line[ends], np.repeat(strongest, 2), at[ends]


class _Page:
    """The plots of all channels below one another, on one abscissa."""

    def __init__(
        self,
        lines: Real,
        amounts: Real,
        at: Real,
        shown: DisplayRange,
        colors: RGB,
        channels: Sequence[str],
        width: int,
        *,
        behind: bool,
    ) -> None:
        self.lines, self.amounts, self.at, self.shown, self.colors = lines, amounts, at, shown, colors
        self.channels, self.width, self.behind, self.style = channels, width, behind, Style.of(384)
        count = lines.shape[1]
        self.height = 240 if count == 1 else 150 if count <= 3 else 100
        self.scales = [self._scale(lines[:, k]) for k in range(count)]

    def _scale(self, line: Real) -> tuple[float, float]:
        """Lower and upper edge of a plot, a little air around the line."""
        low, high = float(line.min()), float(line.max())
        air = 0.06 * (high / 2 - low / 2) * 2 or 0.5 * max(abs(high), 1.0)
        return low - air, high + air

    def draw(self, title: str, captions: Sequence[str], x_label: str) -> RGB:
        """The page."""
        sizes, count = self.style, self.lines.shape[1]
        ticks = [round_ticks(*scale, max(2, self.height // 55)) for scale in self.scales]
        name_line = sizes.line(sizes.small) if self.channels or any(t.power for t in ticks) else 0
        left_room = math.ceil(max(text_width(label, sizes.small) for t in ticks for label in t.labels)) + 10
        step = name_line + self.height + sizes.gap // 2
        stack = count * step - sizes.gap // 2
        axis = 2 * sizes.line(sizes.small)
        bar_width, bar_power = bar_size(self.shown, stack - name_line, sizes)
        above = sizes.line(sizes.small) if bar_power and not name_line else 0
        content = left_room + self.width + sizes.gap + bar_width
        canvas, left, top = Frame(title, captions, content, sizes).open(above + stack + axis)
        x, top = left + left_room, top + above
        for k in range(count):
            y = top + k * step + name_line
            self._grid(canvas, x, y, ticks[k], self.scales[k])
            name = self.channels[k] if self.channels else ""
            room = self.width - text_width(ticks[k].power, sizes.small) - sizes.gap
            middle = y - 0.6 * sizes.line(sizes.small)
            canvas.text(x, middle, ellipsize(name, sizes.small, room), size=sizes.small)
            canvas.text(x + self.width, middle, ticks[k].power, size=sizes.small, color=MUTED, align="right")
            self._signal(canvas, x, y, k)
        self._abscissa(canvas, x, top + stack, x_label)
        bar_top = top + name_line
        draw_bar(canvas, x + self.width + sizes.gap, bar_top, stack - name_line, self.shown, self.colors, sizes)
        return canvas.finish()

    def _grid(self, canvas: Canvas, x: int, y: int, ticks: Ticks, scale: tuple[float, float]) -> None:
        for value, label in zip(ticks.values, ticks.labels, strict=True):
            place = y + self.height * (scale[1] - value) / (scale[1] - scale[0])
            if not self.behind:
                canvas.lines([[(x, place), (x + self.width, place)]], colors=RULE)
            else:
                canvas.lines([[(x - 4, place), (x, place)]], colors=MUTED)
            canvas.text(x - 8, place, label, size=self.style.small, color=MUTED, align="right")

    def _signal(self, canvas: Canvas, x: int, y: int, channel: int) -> None:
        low, high = self.scales[channel]
        line, amounts, at = thin(self.lines[:, channel], self.amounts[:, channel], self.at, self.width)
        points = np.stack([self._columns(at, x), y + self.height * (high - line) / (high - low)], axis=1)
        unit = self.shown.to_unit(amounts)
        if self.behind:
            # Each column of pixels takes the sample nearest to it.
            edges = (points[1:, 0] + points[:-1, 0]) / 2
            nearest = np.searchsorted(edges, x + np.arange(self.width) + 0.5)
            row = self.colors[unit_index(unit, STEPS)][nearest]
            canvas.backdrop(x, y, np.repeat(row[np.newaxis], self.height, axis=0))
            canvas.lines(points[np.newaxis], colors=INK, widths=1.4)
            return
        # A sample's colour reaches half way to its neighbours.
        middles = (points[1:] + points[:-1]) / 2
        around = np.stack([np.vstack([points[:1], middles]), points, np.vstack([middles, points[-1:]])], axis=1)
        magnitude = np.abs(2 * unit - 1) if self.shown.signed else unit
        canvas.lines(around, colors=self.colors[unit_index(unit, STEPS)] / 255.0, widths=1.6 + 1.8 * magnitude)

    def _abscissa(self, canvas: Canvas, x: int, y: int, label: str) -> None:
        canvas.lines([[(x, y), (x + self.width, y)]], colors=MUTED)
        line = self.style.line(self.style.small)
        ticks = round_ticks(float(self.at[0]), float(self.at[-1]), max(3, self.width // 110))
        for place, words in zip(self._columns(np.array(ticks.values), x), ticks.labels, strict=True):
            canvas.lines([[(place, y), (place, y + 4)]], colors=MUTED)
            canvas.text(place, y + 0.75 * line, words, size=self.style.small, color=MUTED, align="center")
        words = f"{label} ({ticks.power})" if ticks.power else label
        canvas.text(x + self.width / 2, y + 1.6 * line, words, size=self.style.small, align="center")

    def _columns(self, at: Real, x: int) -> Real:
        """Abscissae to pixels."""
        span = self.at[-1] - self.at[0]
        if span <= 0:
            return np.full(len(at), x + self.width / 2)
        return np.asarray(x + np.clip((at - self.at[0]) / span, 0.0, 1.0) * self.width)
