"""Measuring and wrapping words, and characters that no font has."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from onnxplain.engine.render import text
from onnxplain.engine.render.canvas import Canvas


def test_control_characters_and_missing_glyphs_become_visible() -> None:
    assert text.printable("a\nb\tc\x07") == "a↵b⇥c□"
    assert text.printable("\ue000\ud800") == "□□"  # private use, lone surrogate
    assert text.printable("$x_1$ é ×10⁻⁷") == "$x_1$ é ×10⁻⁷"


def test_a_character_is_boxed_only_where_no_installed_font_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_fallbacks", lambda: ())
    assert text.printable("日\U000e0100") == "□"  # and a variation selector leaves nothing
    mono = text._bundled(False).replace("DejaVuSans.ttf", "STIXGeneral.ttf")
    monkeypatch.setattr(text, "_fallbacks", lambda: (("STIXGeneral", mono),))
    only_there = next(
        chr(code) for code in sorted(text._glyphs(mono)) if code not in text._glyphs(text._bundled(False))
    )
    assert text.printable(only_there) == only_there
    assert "STIXGeneral" in text.font(only_there, 12).get_family()


def test_width_is_that_of_the_ink() -> None:
    words, size = "Hamburgefonstiv $5_x$", 32
    canvas = Canvas(600, 60)
    canvas.text(10, 30, words, size=size)
    columns = np.flatnonzero((canvas.finish() < 128).any(axis=(0, 2)))
    # The side bearings of the first and the last letter, a tenth of the size each.
    assert abs(text.text_width(words, size) - (columns[-1] - columns[0])) <= 0.25 * size
    assert abs(columns[0] - 10) <= 4


def test_no_warning_whatever_the_text() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas = Canvas(300, 60)
        canvas.text(10, 30, "日本 \x00 🎉 $\\frac{$ ^_{", size=20)
        canvas.finish()


def test_ellipsize_takes_what_fits_and_no_less() -> None:
    words, size = "convolution of everything with everything", 14.0
    assert text.ellipsize(words, size, 1e9) == words
    for width in (30, 80, 200):
        cut = text.ellipsize(words, size, width)
        assert cut.endswith("…")
        assert text.text_width(cut, size) <= width
        longer = words[: len(cut)].rstrip() + "…"
        assert text.text_width(longer, size) > width or longer == cut


def test_wrap_keeps_words_lines_and_order() -> None:
    words, size, width = "one two three four five six seven eight nine ten", 14.0, 90.0
    lines = text.wrap(words, size, width, lines=20)
    assert " ".join(lines) == words
    assert len(lines) > 2
    assert all(text.text_width(line, size) <= width for line in lines)
    assert text.wrap("a\nb", size, width, lines=5) == ["a", "b"]
    assert text.wrap("", size, width, lines=5) == []
    cut = text.wrap(words, size, width, lines=2)
    assert len(cut) == 2
    assert cut[0] == lines[0]
    assert cut[1].endswith("…")
