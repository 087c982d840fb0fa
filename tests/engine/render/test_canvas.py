"""The page: pixels where they were asked for, and nothing of the user's settings."""

from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np
import pytest

from onnxplain.engine.errors import OptionError
from onnxplain.engine.render.canvas import Canvas, Style


def draw() -> np.ndarray:
    canvas = Canvas(200, 120)
    canvas.rectangle(20, 30, 50, 40, fill="#ff0000")
    canvas.rectangle(100, 10, 60, 30, fill="#00ff00", rounding=6)
    canvas.polygon([(150, 100), (170, 100), (160, 80)], fill="#0000ff")
    canvas.lines([[(10, 110), (100, 110)]], colors="#000000", widths=2.0)
    canvas.text(20, 90, "words $x$", size=16)
    canvas.backdrop(80, 50, np.full((20, 30, 3), 77, np.uint8))
    canvas.picture(120, 50, np.full((10, 10, 3), 99, np.uint8), edge="#ff00ff")
    return canvas.finish()


def test_things_lie_where_they_were_put() -> None:
    page = draw()
    assert page.shape == (120, 200, 3)
    assert page.dtype == np.uint8
    red = (page == [255, 0, 0]).all(axis=2)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 69, 20, 69)
    assert (page[50:70, 80:110] == 77).all()
    assert (page[50:60, 120:130] == 99).all()
    frame = page[49:61, 119:131].copy()
    frame[1:-1, 1:-1] = [255, 0, 255]
    assert (frame == [255, 0, 255]).all()
    assert page[95, 160].tolist() == [0, 0, 255]
    assert page[0, 0].tolist() == [255, 255, 255]


def test_later_things_lie_above_earlier_ones() -> None:
    canvas = Canvas(40, 40)
    canvas.lines([[(0, 20), (40, 20)]], colors="#ff0000", widths=6.0)
    canvas.rectangle(10, 10, 20, 20, fill="#00ff00")
    canvas.backdrop(15, 15, np.zeros((10, 10, 3), np.uint8))
    canvas.lines([[(20, 0), (20, 40)]], colors="#0000ff", widths=2.0)
    page = canvas.finish()
    assert page[20, 5].tolist() == [255, 0, 0]
    assert page[20, 12].tolist() == [0, 255, 0]
    assert page[20, 17].tolist() == [0, 0, 0]
    assert page[20, 20].tolist() == [0, 0, 255]


def test_user_settings_change_nothing() -> None:
    plain = draw()
    hostile = {
        "font.size": 40.0,
        "font.family": ["serif"],
        "figure.facecolor": "red",
        "figure.dpi": 300,
        "savefig.dpi": 30,
        "text.color": "green",
        "lines.antialiased": False,
        "lines.linewidth": 9,
        "image.origin": "lower",
        "axes.unicode_minus": False,
        "text.parse_math": True,
    }
    with mpl.rc_context(hostile):
        np.testing.assert_array_equal(draw(), plain)


def test_pyplot_is_not_touched() -> None:
    draw()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_pages_and_panels_have_limits() -> None:
    with pytest.raises(OptionError, match="fewer panels"):
        Canvas(20_000, 20_000)
    with pytest.raises(OptionError, match="64 to 4096"):
        Style.of(10)
    assert Style.of(64).small >= 11
