"""Words on a picture: fonts, measuring, wrapping, and what to do with characters that no font has.

Guarantees: a label is drawn as it is written (``$`` and ``_`` are no mathematics, line breaks and control characters
are shown, not obeyed); a character that neither the bundled font nor an installed fallback has becomes a box instead
of a warning; the user's matplotlib settings play no part.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

ELLIPSIS = "…"
_BOX = "□"
_VISIBLE = {"\n": "↵", "\r": "↵", "\t": "⇥"}

# Asked in this order, for what the bundled DejaVu Sans lacks (Chinese, Japanese, Korean, ...).
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "Segoe UI Symbol",
)


@lru_cache(maxsize=16)
def _glyphs(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=2)
def _bundled(bold: bool) -> str:
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(mpl.get_data_path(), "fonts", "ttf", name))


@lru_cache(maxsize=1)
def _fallbacks() -> tuple[tuple[str, str], ...]:
    """Installed fallback families with the file of their regular face."""
    from matplotlib.font_manager import fontManager

    installed = {entry.name: entry.fname for entry in sorted(fontManager.ttflist, key=lambda entry: entry.fname)}
    return tuple((family, installed[family]) for family in _FALLBACKS if family in installed)


def printable(text: str) -> str:
    """``text`` with visible signs for line breaks, tabs, control characters and characters without a glyph."""
    known = _glyphs(_bundled(False))
    shown = []
    for character in text:
        sign = _VISIBLE.get(character, character)
        if unicodedata.category(sign) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp"):
            sign = _BOX
        elif ord(sign) not in known and not any(ord(sign) in _glyphs(path) for _, path in _fallbacks()):
            # Joiners and variation selectors draw nothing by themselves.
            sign = "" if unicodedata.category(sign) in ("Cf", "Mn", "Me") else _BOX
        shown.append(sign)
    return "".join(shown)


def font(text: str, size: float, *, bold: bool = False) -> FontProperties:
    """The font for an already :func:`printable` text; ``size`` in pixels."""
    from matplotlib.font_manager import FontProperties

    known = _glyphs(_bundled(bold))
    if all(ord(character) in known for character in text):
        return FontProperties(fname=_bundled(bold), size=size)
    families = ["DejaVu Sans", *(family for family, _ in _fallbacks())]
    return FontProperties(family=families, weight="bold" if bold else "normal", size=size)


@lru_cache(maxsize=1)
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    make: Any = RendererAgg  # matplotlib leaves it untyped
    return make(1, 1, 72.0)  # 72 dots per inch: a point is a pixel


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a text in pixels as it will be drawn."""
    shown = printable(text)
    if not shown:
        return 0.0
    width, _, _ = _renderer().get_text_width_height_descent(shown, font(shown, size, bold=bold), False)
    return float(width)


def ellipsize(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """``text``, cut with an ellipsis where it is wider than ``width`` pixels."""
    if text_width(text, size, bold=bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + ELLIPSIS, size, bold=bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS


def wrap(text: str, size: float, width: float, *, lines: int, bold: bool = False) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels, broken at blanks; the last one is cut if need be.

    A line break in the text is a line break here.
    """
    result: list[str] = []
    for paragraph in text.splitlines():
        current = ""
        for word in paragraph.split():
            longer = f"{current} {word}" if current else word
            if current and text_width(longer, size, bold=bold) > width:
                result.append(current)
                longer = word
            current = longer
        if current:
            result.append(current)
    if len(result) > lines:
        result = [*result[: lines - 1], " ".join(result[lines - 1 :])]
    return [ellipsize(line, size, width, bold=bold) for line in result]
