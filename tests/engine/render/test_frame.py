"""The frame around a content: room for words that are there, none for words that are not."""

from __future__ import annotations

import numpy as np

from onnxplain.engine.render.canvas import Style
from onnxplain.engine.render.frame import Frame

STYLE = Style.of(384)


def test_without_words_there_are_only_margins() -> None:
    canvas, left, top = Frame("", ["", ""], 300, STYLE).open(100)
    assert (left, top) == (STYLE.margin, STYLE.margin)
    assert (canvas.width, canvas.height) == (300 + 2 * STYLE.margin, 100 + 2 * STYLE.margin)
    assert (canvas.finish() == 255).all()


def test_words_stay_clear_of_the_content_and_the_margins() -> None:
    for words in ("short", "gÄy|" * 3, "long words " * 60):
        canvas, left, top = Frame(words, [words, words], 300, STYLE).open(100)
        inked = (canvas.finish() < 250).any(axis=2)
        rows, columns = np.nonzero(inked)
        assert not inked[top : top + 100].any()
        assert rows.min() < top
        assert rows.max() >= top + 100
        assert columns.min() >= left - 2  # a letter's own overhang
        assert columns.max() <= left + 300
        assert rows.min() >= STYLE.margin - 2
        assert rows.max() < canvas.height - STYLE.margin + 2
