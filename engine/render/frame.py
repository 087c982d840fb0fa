"""What all figures have in common: a title above, captions below, the same margins around.

Guarantees: words never leave the page and never overlap what they frame; an absent title or caption takes no room.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplain.engine.render.canvas import MUTED, Canvas, Style
from onnxplain.engine.render.text import wrap


class Frame:
    """Title and captions around a content of known width.

    Args:
        title: Bold, at most two lines.
        captions: Small, at most three lines each; empty ones are left out.
        width: Pixels of the content; words are wrapped to it.
        style: Sizes.
    """

    def __init__(self, title: str, captions: Sequence[str], width: int, style: Style) -> None:
        self.width, self.style = width, style
        self._titles = wrap(title, style.title, width, lines=2, bold=True)
        self._captions = [line for text in captions for line in wrap(text, style.small, width, lines=3)]

    def open(self, height: int) -> tuple[Canvas, int, int]:
        """A page with the words on it, and the left and top edge of the room for a content of that height."""
        style = self.style
        title_line, caption_line = style.line(style.title), style.line(style.small)
        top = style.margin + len(self._titles) * title_line + (style.gap // 2 if self._titles else 0)
        below = top + height + (style.gap * 3 // 4 if self._captions else 0)
        canvas = Canvas(self.width + 2 * style.margin, below + len(self._captions) * caption_line + style.margin)
        for k, line in enumerate(self._titles):
            canvas.text(style.margin, style.margin + (k + 0.5) * title_line, line, size=style.title, bold=True)
        for k, line in enumerate(self._captions):
            canvas.text(style.margin, below + (k + 0.5) * caption_line, line, size=style.small, color=MUTED)
        return canvas, style.margin, top
