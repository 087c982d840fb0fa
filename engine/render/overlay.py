"""An attribution over the picture it belongs to.

The colour says how much, and so does the opacity: where nothing is attributed the picture stands as it is, faded
towards grey so that its own colours are not taken for attribution. Guarantees: a value of zero leaves the (faded)
picture untouched; maps of any size fit pictures of any size; memory stays within a few times the picture's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import OptionError
from onnxplain.engine.render.arrays import RGB, rgb_picture
from onnxplain.engine.render.canvas import RULE, Style
from onnxplain.engine.render.colorbar import bar_size, draw_bar, short_number
from onnxplain.engine.render.colormaps import DIVERGING, DIVERGING_OVERLAY, SEQUENTIAL, STEPS, apply, table, unit_index
from onnxplain.engine.render.frame import Frame
from onnxplain.engine.render.normalize import DEFAULT_PERCENTILE, DisplayRange, display_range
from onnxplain.engine.render.png import encode
from onnxplain.engine.render.resize import enlarge_map, fit_picture, has_hard_pixels, shrink_map
from onnxplain.engine.render.text import wrap

INTERPOLATIONS = ("auto", "linear", "nearest")
PANELS = ("picture", "overlay", "map")

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_ROWS_AT_ONCE = 256
# The grey that a colour bar is laid over: a photograph's usual middle.
_BAR_TONE = 168.0


@dataclass(frozen=True, slots=True)
class Look:
    """How a map is laid over a picture; the defaults were chosen by eye on photographs.

    Attributes:
        colormap: Name for :func:`onnxplain.engine.render.colormaps.apply`; None takes ``inferno``, or ``polar_gray``
            when signed.
        alpha: Opacity of the largest magnitude, 0 to 1.
        gamma: Opacity is ``alpha * magnitude ** gamma``; below 1 shows small values more.
        fade: How far the picture is taken towards grey, 0 (its own colours) to 1.
        percentile: Where the range is clipped, see :mod:`onnxplain.engine.render.normalize`.
        interpolation: ``linear``, ``nearest``, or ``auto``: hard pixels where the map has one value per pixel of a
            picture that is itself shown with hard pixels, else linear.

    Raises:
        OptionError: A value out of its range.
    """

    colormap: str | None = None
    alpha: float = 0.8
    gamma: float = 0.6
    fade: float = 0.8
    percentile: float = DEFAULT_PERCENTILE
    interpolation: str = "auto"

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("fade", self.fade)):
            if not 0.0 <= value <= 1.0:
                raise OptionError(f"{name} is {value}; pass a number from 0 to 1")
        if not 0.0 < self.gamma < np.inf:
            raise OptionError(f"gamma is {self.gamma}; pass a positive number")
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(f"unknown interpolation '{self.interpolation}'; choose {', '.join(INTERPOLATIONS)}")

    def colors(self, signed: bool) -> RGB:
        """The colour table, ``(511, 3)``."""
        return table(self.colormap or (DIVERGING_OVERLAY if signed else SEQUENTIAL))

    def opacity(self, signed: bool) -> npt.NDArray[np.float32]:
        """Opacity of each table entry, ``(511,)``."""
        unit = np.linspace(0.0, 1.0, STEPS)
        magnitude = np.abs(2.0 * unit - 1.0) if signed else unit
        return (self.alpha * magnitude**self.gamma).astype(np.float32)

    def bar_colors(self, signed: bool) -> RGB:
        """The table as it looks over a middle grey: what a colour bar beside an overlay must show."""
        opacity = self.opacity(signed)[:, np.newaxis]
        return np.rint(self.colors(signed) * opacity + _BAR_TONE * (1 - opacity)).astype(np.uint8)


def overlay(
    picture: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    signed: bool,
    colormap: str | None = None,
    alpha: float = 0.8,
    gamma: float = 0.6,
    fade: float = 0.8,
    percentile: float = DEFAULT_PERCENTILE,
    interpolation: str = "auto",
    limits: DisplayRange | None = None,
    size: int | None = None,
) -> RGB:
    """A map laid over its picture.

    Args:
        picture: uint8 ``(H, W, 3)`` RGB; grey and RGBA are taken too.
        values: ``(h, w)`` map of any size and scale; resized to the picture.
        signed: Diverging colours, transparent at zero; otherwise sequential, transparent at the lower end.
        colormap: See :class:`Look`, as for ``alpha``, ``gamma``, ``fade``, ``percentile`` and ``interpolation``.
        alpha: Opacity of the largest magnitude.
        gamma: Exponent of the opacity.
        fade: How far the picture is taken towards grey.
        percentile: Where the range is clipped.
        interpolation: How a smaller map is spread.
        limits: Range to use instead of the map's own, to compare pictures.
        size: Longest side of the result; None keeps the picture's size. A picture that is enlarged three times or
            more keeps hard pixels, at the largest whole factor that fits.

    Returns:
        uint8 RGB, the picture's size unless ``size`` is given.

    Raises:
        InputError: Not a uint8 picture, or not a finite 2-D map.
        OptionError: An option out of its range, ``limits`` whose sign does not fit, or an unknown colour map.
    """
    look = Look(colormap, alpha, gamma, fade, percentile, interpolation)
    rgb = rgb_picture(picture) if size is None else fit_picture(picture, size)
    unit, _ = fitted_map(picture, values, rgb.shape[:2], signed=signed, look=look, limits=limits)
    return blend(rgb, unit, signed=signed, look=look)


def fitted_map(
    picture: npt.ArrayLike,
    values: npt.ArrayLike,
    shown: tuple[int, ...],
    *,
    signed: bool,
    look: Look,
    limits: DisplayRange | None = None,
) -> tuple[npt.NDArray[np.float32], DisplayRange]:
    """A map normalized and resized to a picture that is shown at the size ``shown``, and the range used."""
    if limits is not None and limits.signed != signed:
        raise OptionError("limits and map must both be signed or both unsigned; make limits with display_range")
    height, width = shown
    # Averaged down first: the range must be that of what is seen.
    small = shrink_map(values, height, width)
    limits = limits or display_range(small, signed=signed, percentile=look.percentile)
    rows, columns = np.shape(picture)[:2]
    hard = look.interpolation == "nearest" or (
        look.interpolation == "auto"
        and np.shape(values) == (rows, columns)
        and has_hard_pixels(rows, columns, max(height, width))
    )
    return enlarge_map(limits.to_unit(small), height, width, hard=hard), limits


def blend(rgb: RGB, unit: npt.NDArray[np.float32], *, signed: bool, look: Look) -> RGB:
    """Picture and normalized map of one size to the overlay."""
    colors, opacity = look.colors(signed).astype(np.float32), look.opacity(signed)
    result = np.empty(rgb.shape, np.uint8)
    # In bands of rows: the float32 copies would be several times the picture.
    for start in range(0, len(rgb), _ROWS_AT_ONCE):
        band = slice(start, start + _ROWS_AT_ONCE)
        index = unit_index(unit[band], STEPS)
        under = rgb[band].astype(np.float32)
        grey = (under @ _LUMA.astype(np.float32))[..., np.newaxis]
        under += np.float32(look.fade) * (grey - under)
        over = opacity[index][..., np.newaxis]
        result[band] = np.clip(np.rint(under + over * (colors[index] - under)), 0, 255).astype(np.uint8)
    return result


def caption_text(
    *,
    class_name: str | None = None,
    score: float | None = None,
    head: str | None = None,
    method: str | None = None,
    residual: float | None = None,
) -> str:
    """One line of what was explained, how, and how well it proves itself; absent parts are left out.

    Args:
        class_name: What the target is called.
        score: f(x).
        head: What the score is ("logit", "probability", ...); "score" when not given.
        method: Name of the method.
        residual: Relative completeness residual.
    """
    parts = [class_name or ""]
    if score is not None:
        parts.append(f"{head or 'score'} {short_number(score)}")
    parts.append(method or "")
    if residual is not None:
        parts.append(f"residual {short_number(residual, digits=2)}")
    return "  ·  ".join(part for part in parts if part)


def figure_overlay(
    picture: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    signed: bool,
    title: str = "",
    class_name: str | None = None,
    score: float | None = None,
    head: str | None = None,
    method: str | None = None,
    residual: float | None = None,
    note: str = "",
    panels: Sequence[str] = ("picture", "overlay"),
    panel: int = 448,
    look: Look | None = None,
    limits: DisplayRange | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A titled figure: the picture, the overlay, a colour bar, and a caption.

    Args:
        picture: uint8 ``(H, W, 3)`` RGB; grey and RGBA are taken too.
        values: ``(h, w)`` map.
        signed: Whether the map's sign means something.
        title: Bold, above; may take two lines.
        class_name: For the caption, see :func:`caption_text`, as for ``score``, ``head``, ``method``, ``residual``.
        score: f(x).
        head: What the score is.
        method: Name of the method.
        residual: Relative completeness residual.
        note: One more sentence under the caption (a warning, say).
        panels: Which panels, from ``picture``, ``overlay``, ``map`` (the map alone in full colours).
        panel: Side in pixels of the box that each picture is fitted into; words grow with it.
        look: Colours, opacity, range.
        limits: Range to use instead of the map's own.
        metadata: Text to embed in the PNG.

    Returns:
        PNG bytes; the same for the same arguments.

    Raises:
        InputError: Not a uint8 picture, or not a finite 2-D map.
        OptionError: An option out of its range.
    """
    if not panels or any(name not in PANELS for name in panels):
        raise OptionError(f"panels are {tuple(panels)}; pass one or more of {', '.join(PANELS)}")
    look, style = look or Look(), Style.of(panel)
    rgb = fit_picture(picture, panel)
    unit, shown = fitted_map(picture, values, rgb.shape[:2], signed=signed, look=look, limits=limits)
    pictures: list[tuple[str, RGB]] = []
    for name in panels:
        if name == "picture":
            pictures.append(("input", rgb))
        elif name == "overlay":
            pictures.append((method or "attribution", blend(rgb, unit, signed=signed, look=look)))
        else:
            pictures.append(("map", apply(np.clip(unit, 0, 1), look.colormap or _default(signed))))
    colors = look.bar_colors(signed) if "overlay" in panels else table(look.colormap or _default(signed))
    caption = caption_text(class_name=class_name, score=score, head=head, method=method, residual=residual)
    page = _compose(pictures, shown, colors, title, [caption, note], style, panel, bar=tuple(panels) != ("picture",))
    return encode(page, metadata)


def _default(signed: bool) -> str:
    return DIVERGING if signed else SEQUENTIAL


def _compose(
    pictures: Sequence[tuple[str, RGB]],
    shown: DisplayRange,
    colors: RGB,
    title: str,
    captions: Sequence[str],
    style: Style,
    panel: int,
    *,
    bar: bool,
) -> RGB:
    """Pictures in a row under their labels, and a colour bar, framed by title and captions."""
    height, width = pictures[0][1].shape[:2]
    bar_width = style.gap + bar_size(shown, height, style)[0] if bar else 0
    content = max(len(pictures) * (width + style.gap) - style.gap + bar_width, panel)
    label_line = style.line(style.label)
    head = label_line + style.gap // 4
    frame = Frame(title, captions, content, style)
    canvas, x, top = frame.open(head + height)
    for label, rgb in pictures:
        words = wrap(label, style.label, width, lines=1)
        canvas.text(x, top + 0.5 * label_line, words[0] if words else "", size=style.label)
        canvas.picture(x, top + head, rgb, edge=RULE)
        x += width + style.gap
    if bar:
        draw_bar(canvas, x, top + head, height, shown, colors, style)
    return canvas.finish()
