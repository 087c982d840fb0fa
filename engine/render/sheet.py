"""One picture by many methods on one page, which is filled line by line; the picture itself stands first.

Guarantees: all maps have the same size and stand in columns, whatever their bars say; every map has its name above
it and its own range beside it; the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy.typing as npt

from onnxplain.engine.errors import InputError
from onnxplain.engine.render.arrays import RGB
from onnxplain.engine.render.canvas import MUTED, RULE, Canvas, Style
from onnxplain.engine.render.colorbar import bar_size, draw_bar
from onnxplain.engine.render.frame import Frame
from onnxplain.engine.render.grid import Cell, Drawn, drawn
from onnxplain.engine.render.overlay import Look
from onnxplain.engine.render.png import encode
from onnxplain.engine.render.resize import fit_picture
from onnxplain.engine.render.text import ellipsize, wrap


def sheet(
    picture: npt.ArrayLike,
    cells: Sequence[Cell],
    names: Sequence[str],
    *,
    title: str = "",
    caption: str = "",
    input_label: str = "input",
    input_caption: str = "",
    across: int = 7,
    panel: int = 256,
    look: Look | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A page of overlays of one picture.

    Args:
        picture: uint8 ``(H, W, 3)`` RGB; grey and RGBA are taken too.
        cells: The maps.
        names: A name for each, above it.
        title: Bold, above all.
        caption: Small, below all.
        input_label: Name above the picture itself.
        input_caption: A few words below it, at most two lines.
        across: Panels side by side, the picture among them; fewer where fewer fill the lines as well.
        panel: Side in pixels of the box that the picture is fitted into.
        look: Colours, opacity, range.
        metadata: Text to embed in the PNG.

    Returns:
        PNG bytes.

    Raises:
        InputError: No map, not one name per map, a bad picture or map.
        OptionError: A bad option, or a page beyond 120 million pixels.
    """
    if not cells or len(cells) != len(names):
        raise InputError(f"{len(cells)} maps and {len(names)} names; pass one name for each of at least one map")
    page = _Page(picture, cells, names, (input_label, input_caption), across, panel, look or Look())
    return encode(page.draw(title, caption), metadata)


class _Page:
    """Sizes first, then drawing; both read the same numbers."""

    def __init__(
        self,
        picture: npt.ArrayLike,
        cells: Sequence[Cell],
        names: Sequence[str],
        given: tuple[str, str],
        across: int,
        panel: int,
        look: Look,
    ) -> None:
        self.look, self.style, self.sources = look, Style.of(panel), cells
        self.rgb = fit_picture(picture, panel)
        self.height, self.width = self.rgb.shape[:2]
        self.cells = [drawn(cell, picture, self.rgb, look, self.style) for cell in cells]
        sizes = [bar_size(cell.shown, self.height, self.style) for cell in self.cells]
        self.bar_width = max(width for width, _ in sizes) + self.style.gap // 2
        self.has_power = any(power for _, power in sizes)
        self.names = [ellipsize(name, self.style.label, self.width + self.bar_width) for name in (given[0], *names)]
        self.caption = wrap(given[1], self.style.small, self.width, lines=2)
        lines = -(-(len(cells) + 1) // max(across, 1))
        self.across = -(-(len(cells) + 1) // lines)
        self.lines = -(-(len(cells) + 1) // self.across)

    def draw(self, title: str, caption: str) -> RGB:
        """The page."""
        style = self.style
        small = style.line(style.small)
        head = style.line(style.label) + style.gap // 4 + (small if self.has_power else 0)
        words = max([len(self.caption), *(len(cell.caption) for cell in self.cells)])
        step_x = self.width + self.bar_width + style.gap
        step_y = head + self.height + words * small + style.gap
        frame = Frame(title, [caption], self.across * step_x - style.gap, style)
        canvas, left, top = frame.open(self.lines * step_y - style.gap)
        for k, name in enumerate(self.names):
            line, column = divmod(k, self.across)
            x, y = left + column * step_x, top + line * step_y
            canvas.text(x, y + 0.5 * style.line(style.label), name, size=style.label, bold=k == 0)
            if k == 0:
                self._panel(canvas, x, y + head, self.rgb, self.caption)
            else:
                self._map(canvas, x, y + head, self.cells[k - 1], self.sources[k - 1])
        return canvas.finish()

    def _map(self, canvas: Canvas, x: int, y: int, cell: Drawn, source: Cell) -> None:
        self._panel(canvas, x, y, cell.rgb, cell.caption)
        colors = self.look.bar_colors(source.signed)
        draw_bar(canvas, x + self.width + self.style.gap // 2, y, self.height, cell.shown, colors, self.style)

    def _panel(self, canvas: Canvas, x: int, y: int, rgb: RGB, caption: Sequence[str]) -> None:
        canvas.picture(x, y, rgb, edge=RULE)
        line = self.style.line(self.style.small)
        for k, words in enumerate(caption):
            middle = y + self.height + (k + 0.5) * line + 2
            canvas.text(x, middle, words, size=self.style.small, color=MUTED)
