"""Many pictures by many methods on one page: rows are pictures, columns are methods, the input stands first.

Guarantees: every cell says in which range it is shown, by a bar of its own or by one that holds for all; methods whose
maps have a sign and methods whose maps have none may stand side by side; memory is that of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import RGB, map_2d
from onnxplain.engine.render.canvas import MUTED, RULE, Canvas, Style
from onnxplain.engine.render.colorbar import bar_size, draw_bar
from onnxplain.engine.render.frame import Frame
from onnxplain.engine.render.normalize import DisplayRange, display_range, shared_range
from onnxplain.engine.render.overlay import Look, blend, fitted_map
from onnxplain.engine.render.png import encode
from onnxplain.engine.render.resize import fit_picture, shrink_map
from onnxplain.engine.render.text import ellipsize, wrap

BARS = ("cell", "shared", "relative")

_EMPTY = 246


@dataclass(frozen=True, slots=True)
class Cell:
    """One map of one method.

    Attributes:
        values: ``(h, w)`` map.
        signed: Whether its sign means something.
        caption: A few words below it, at most two lines.
    """

    values: npt.ArrayLike
    signed: bool
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture with its maps.

    Attributes:
        picture: uint8 ``(H, W, 3)`` RGB; grey and RGBA are taken too.
        cells: One per column; None leaves the place empty.
        label: Written along the left edge.
        caption: A few words below the picture, at most two lines.
    """

    picture: npt.ArrayLike
    cells: Sequence[Cell | None]
    label: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A cell as it will be copied onto the page."""

    rgb: RGB
    shown: DisplayRange
    caption: list[str]


def drawn(
    cell: Cell, picture: npt.ArrayLike, rgb: RGB, look: Look, style: Style, limits: DisplayRange | None = None
) -> Drawn:
    """A cell over its picture.

    Args:
        cell: The map.
        picture: As it was given.
        rgb: As it is shown.
        look: Colours, opacity, range.
        style: Sizes of words.
        limits: Range in place of the map's own.
    """
    unit, shown = fitted_map(picture, map_2d(cell.values), rgb.shape[:2], signed=cell.signed, look=look, limits=limits)
    words = wrap(cell.caption, style.small, rgb.shape[1], lines=2)
    return Drawn(blend(rgb, unit, signed=cell.signed, look=look), shown, words)


def grid(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    title: str = "",
    caption: str = "",
    input_label: str = "input",
    bars: str = "cell",
    panel: int = 256,
    look: Look | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A page of overlays.

    Args:
        rows: Pictures with their maps.
        columns: A name for each method, above its column.
        title: Bold, above all.
        caption: Small, below all.
        input_label: Name above the first column.
        bars: ``cell``: every map its own range and bar; ``shared``: one range and one bar for all maps (one for those
            with sign, one for those without), to compare magnitudes; ``relative``: every map its own range, one bar
            from least to most, to compare places.
        panel: Side in pixels of the box that each picture is fitted into.
        look: Colours, opacity, range.
        metadata: Text to embed in the PNG.

    Returns:
        PNG bytes; the same for the same arguments.

    Raises:
        InputError: No row, a row whose cells do not match the columns, a bad picture or map.
        OptionError: Unknown ``bars``, a bad option, or a page beyond 120 million pixels.
    """
    if bars not in BARS:
        raise OptionError(f"unknown bars '{bars}'; choose one of {', '.join(BARS)}")
    if not rows:
        raise InputError("the grid has no row; pass at least one picture")
    for k, row in enumerate(rows):
        if len(row.cells) != len(columns):
            raise InputError(
                f"row {k} has {len(row.cells)} cells for {len(columns)} columns; pass None where a map is missing"
            )
    layout = _Layout(rows, columns, input_label, bars, panel, look or Look())
    return encode(layout.draw(title, caption), metadata)


class _Layout:
    """Sizes first, then drawing; both read the same numbers."""

    def __init__(
        self, rows: Sequence[Row], columns: Sequence[str], input_label: str, bars: str, panel: int, look: Look
    ) -> None:
        self.rows, self.bars, self.look, self.style = rows, bars, look, Style.of(panel)
        style = self.style
        self.pictures = [fit_picture(row.picture, panel) for row in rows]
        self.common = self._common_ranges() if bars == "shared" else {}
        pairs = list(zip(rows, self.pictures, strict=True))
        self.cells = [[self._cell(row, rgb, cell) for cell in row.cells] for row, rgb in pairs]
        self.width = max(rgb.shape[1] for rgb in self.pictures)
        self.captions = [wrap(row.caption, style.small, rgb.shape[1], lines=2) for row, rgb in pairs]
        self.label_width = style.line(style.label) if any(row.label for row in rows) else 0
        self.heads = [wrap(name, style.label, self.width, lines=2) for name in (input_label, *columns)]
        self.bar_widths = [self._bar_width(k) for k in range(len(columns))] if bars == "cell" else [0] * len(columns)
        self.powers = [self._has_power(k) for k in range(len(rows))]

    def _common_ranges(self) -> dict[bool, DisplayRange]:
        ranges: dict[bool, list[DisplayRange]] = {}
        for row, rgb in zip(self.rows, self.pictures, strict=True):
            for cell in row.cells:
                if cell is not None:
                    small = shrink_map(cell.values, rgb.shape[0], rgb.shape[1])
                    own = display_range(small, signed=cell.signed, percentile=self.look.percentile)
                    ranges.setdefault(cell.signed, []).append(own)
        return {signed: shared_range(members) for signed, members in sorted(ranges.items())}

    def _cell(self, row: Row, rgb: RGB, cell: Cell | None) -> Drawn | None:
        if cell is None:
            return None
        return drawn(cell, row.picture, rgb, self.look, self.style, self.common.get(cell.signed))

    def _bar_width(self, column: int) -> int:
        drawn = [row[column] for row in self.cells]
        widths = [bar_size(cell.shown, cell.rgb.shape[0], self.style)[0] for cell in drawn if cell is not None]
        return max(widths, default=0) + self.style.gap // 2

    def _has_power(self, row: int) -> bool:
        cells = [cell for cell in self.cells[row] if cell is not None and self.bars == "cell"]
        return any(bar_size(cell.shown, cell.rgb.shape[0], self.style)[1] for cell in cells)

    def _row_height(self, row: int) -> int:
        """The picture, its captions, and the power of ten above a bar."""
        lines = max([len(self.captions[row]), *(len(cell.caption) for cell in self.cells[row] if cell is not None)])
        line = self.style.line(self.style.small)
        return int(self.pictures[row].shape[0]) + lines * line + (line if self.powers[row] else 0)

    def draw(self, title: str, caption: str) -> RGB:
        """The page."""
        style = self.style
        head = max(len(lines) for lines in self.heads) * style.line(style.label) + style.gap // 4
        height = head + sum(self._row_height(k) + style.gap for k in range(len(self.rows))) - style.gap
        body = self.label_width + self.width + sum(style.gap + self.width + bar for bar in self.bar_widths)
        kinds = self._common_bars()
        bar_height = min(height - head, 2 * self.pictures[0].shape[0])
        wide = [style.gap + bar_size(shown, bar_height, style, labels=words)[0] for _, shown, words in kinds]
        canvas, left, top = Frame(title, [caption], body + sum(wide), style).open(height)
        lefts = [left + self.label_width]
        for bar in (0, *self.bar_widths):
            lefts.append(lefts[-1] + self.width + bar + style.gap)
        for x, lines in zip(lefts[:-1], self.heads, strict=True):
            for k, line in enumerate(reversed(lines)):
                middle = top + head - style.gap // 4 - (k + 0.5) * style.line(style.label)
                canvas.text(x, middle, line, size=style.label)
        y = top + head
        for row in range(len(self.rows)):
            self._draw_row(canvas, row, left, lefts, y)
            y += self._row_height(row) + style.gap
        x = left + body + style.gap
        for (signed, shown, words), step in zip(kinds, wide, strict=True):
            first = top + head + (style.line(style.small) if self.powers[0] else 0)
            draw_bar(canvas, x, first, bar_height, shown, self.look.bar_colors(signed), style, labels=words)
            x += step
        return canvas.finish()

    def _common_bars(self) -> list[tuple[bool, DisplayRange, tuple[str, str] | None]]:
        """Bars that stand once for the whole page."""
        if self.bars == "shared":
            return [(signed, shown, None) for signed, shown in self.common.items()]
        if self.bars == "relative":
            kinds = sorted({cell.signed for row in self.rows for cell in row.cells if cell is not None})
            words = {True: ("against", "for"), False: ("least", "most")}
            return [(s, DisplayRange(-1.0 if s else 0.0, 1.0, s), words[s]) for s in kinds]
        return []

    def _draw_row(self, canvas: Canvas, row: int, left: int, lefts: Sequence[int], y: int) -> None:
        style, rgb = self.style, self.pictures[row]
        y += style.line(style.small) if self.powers[row] else 0
        height, width = rgb.shape[:2]
        label = ellipsize(self.rows[row].label, style.label, height)
        edge = left + 0.4 * style.line(style.label)
        canvas.text(edge, y + height / 2, label, size=style.label, align="center", upright=True)
        canvas.picture(lefts[0], y, rgb, edge=RULE)
        self._draw_caption(canvas, lefts[0], y + height, self.captions[row])
        for x, cell, source in zip(lefts[1:-1], self.cells[row], self.rows[row].cells, strict=True):
            if cell is None or source is None:
                canvas.picture(x, y, np.full(rgb.shape, _EMPTY, np.uint8), edge=RULE)
                continue
            canvas.picture(x, y, cell.rgb, edge=RULE)
            if self.bars == "cell":
                colors = self.look.bar_colors(source.signed)
                draw_bar(canvas, x + width + style.gap // 2, y, height, cell.shown, colors, style)
            self._draw_caption(canvas, x, y + height, cell.caption)

    def _draw_caption(self, canvas: Canvas, x: int, y: int, lines: Sequence[str]) -> None:
        line = self.style.line(self.style.small)
        for k, words in enumerate(lines):
            canvas.text(x, y + (k + 0.5) * line + 2, words, size=self.style.small, color=MUTED)
