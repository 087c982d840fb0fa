"""A page measured in pixels, on which figures are composed.

matplotlib draws the words and lines (its Agg renderer, never pyplot, no global state); pictures are copied onto the
page afterwards, pixel by pixel, so that nothing resamples them. Guarantees: the same calls give the same pixels;
positions are pixels from the top left corner; nothing depends on the user's matplotlib settings or display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import OptionError
from onnxplain.engine.render.arrays import RGB
from onnxplain.engine.render.text import font, printable

INK = "#1f2328"
MUTED = "#59636e"
RULE = "#d0d7de"

# Capitals of the bundled font are 0.73 of its size high: a baseline this far below the middle centres them.
_HALF_CAPITAL = 0.365
_LARGEST_PAGE = 120_000_000


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels, all from the side of one panel, so that words stay in proportion to pictures."""

    title: float
    label: float
    small: float
    margin: int
    gap: int
    bar: int

    @classmethod
    def of(cls, panel: int) -> Style:
        """The style for panels of that side.

        Raises:
            OptionError: Smaller than what words fit under, or larger than any page.
        """
        if not 64 <= panel <= 4096:
            raise OptionError(f"the panel size is {panel} pixels; pass 64 to 4096")
        # Words stay readable under the smallest panels.
        unit = min(max(panel / 384.0, 0.8), 4.0)
        return cls(
            title=round(21 * unit),
            label=round(16 * unit),
            small=round(14 * unit),
            margin=round(24 * unit),
            gap=round(16 * unit),
            bar=round(14 * unit),
        )

    def line(self, size: float) -> int:
        """Height of one line of words of that size."""
        return round(1.42 * size)


class Canvas:
    """One page.

    Args:
        width: Pixels.
        height: Pixels.

    Raises:
        OptionError: A page of more than 120 million pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        if width * height > _LARGEST_PAGE:
            raise OptionError(
                f"the figure would be {width}x{height} pixels; draw fewer panels at once or pass a smaller panel size"
            )
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        # 72 dots per inch: a point is a pixel.
        self._figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="#ffffff", edgecolor="none")
        # Any: matplotlib leaves its methods untyped.
        self._agg: Any = FigureCanvasAgg(self._figure)
        self._pictures: list[tuple[int, int, RGB]] = []
        self._drawn = 0

    def _add(self, artist: Any) -> None:
        artist.set_clip_on(False)
        # matplotlib would draw all patches before all lines; here what comes later lies above.
        self._drawn += 1
        artist.set_zorder(self._drawn)
        self._figure.add_artist(artist)

    def _flip(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        array = np.array(points, np.float64)
        array[..., 1] = self.height - array[..., 1]
        return array

    def text(
        self,
        x: float,
        middle: float,
        words: str,
        *,
        size: float,
        color: str = INK,
        bold: bool = False,
        align: Literal["left", "center", "right"] = "left",
        upright: bool = False,
    ) -> None:
        """One line of words, its capitals centred on ``middle``; ``upright`` turns it to read from below."""
        from matplotlib.text import Text
        from matplotlib.transforms import IdentityTransform

        shown = printable(words)
        if not shown:
            return
        drop = 0.0 if upright else _HALF_CAPITAL * size
        artist = Text(
            x,
            self.height - middle - drop,
            shown,
            color=color,
            fontproperties=font(shown, size, bold=bold),
            horizontalalignment=align,
            verticalalignment="center" if upright else "baseline",
            rotation=90 if upright else 0,
            parse_math=False,
            usetex=False,
            antialiased=True,
        )
        artist.set_transform(IdentityTransform())
        self._add(artist)

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str | None = None,
        edge: str | None = None,
        rounding: float = 0.0,
    ) -> None:
        """A rectangle; ``edge`` is one pixel wide and lies just inside."""
        from matplotlib.patches import FancyBboxPatch
        from matplotlib.transforms import IdentityTransform

        inset = 0.5 if edge else 0.0
        self._add(
            FancyBboxPatch(
                (x + inset, self.height - y - height + inset),
                width - 2 * inset,
                height - 2 * inset,
                boxstyle=f"round,pad=0,rounding_size={rounding}" if rounding else "square,pad=0",
                facecolor=fill or "none",
                edgecolor=edge or "none",
                linewidth=1.0 if edge else 0.0,
                antialiased=bool(rounding),
                transform=IdentityTransform(),
                mutation_scale=1.0,
            )
        )

    def polygon(self, points: Sequence[tuple[float, float]], *, fill: str) -> None:
        """A filled polygon."""
        from matplotlib.patches import Polygon
        from matplotlib.transforms import IdentityTransform

        self._add(
            Polygon(
                self._flip(points),
                closed=True,
                facecolor=fill,
                edgecolor="none",
                linewidth=0,
                transform=IdentityTransform(),
            )
        )

    def lines(
        self, segments: npt.ArrayLike, *, colors: npt.ArrayLike | str, widths: npt.ArrayLike | float = 1.0
    ) -> None:
        """Many straight or broken lines.

        Args:
            segments: ``(lines, points, 2)``.
            colors: One colour, or RGB in [0, 1] per line, ``(lines, 3)``.
            widths: Pixels, one or per line.
        """
        from matplotlib.collections import LineCollection
        from matplotlib.transforms import IdentityTransform

        self._add(
            LineCollection(
                list(self._flip(segments)),
                colors=colors,
                linewidths=widths,
                capstyle="round",
                joinstyle="round",
                antialiaseds=True,
                transform=IdentityTransform(),
            )
        )

    def picture(self, x: int, y: int, rgb: RGB, *, edge: str | None = None) -> None:
        """A picture with its top left corner at (x, y), above all that is drawn; ``edge``: a one-pixel frame."""
        height, width = rgb.shape[:2]
        if edge:
            self.rectangle(x - 1, y - 1, width + 2, height + 2, fill=edge)
        self._pictures.append((x, y, rgb))

    def backdrop(self, x: int, y: int, rgb: RGB) -> None:
        """A picture that later lines and words are drawn over."""
        image = self._figure.figimage(rgb, xo=x, yo=self.height - y - rgb.shape[0], origin="upper", resize=False)
        self._drawn += 1
        image.set_zorder(self._drawn)

    def finish(self) -> RGB:
        """The page, uint8 ``(height, width, 3)``."""
        self._agg.draw()
        page = np.array(np.asarray(self._agg.buffer_rgba())[:, :, :3], np.uint8)
        for x, y, rgb in self._pictures:
            page[y : y + rgb.shape[0], x : x + rgb.shape[1]] = rgb
        return page
