"""Ticks are round and right, and bars show the colours of their values."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.render.canvas import Canvas, Style
from onnxplain.engine.render.colorbar import (
    bar_size,
    draw_bar,
    draw_flat_bar,
    flat_bar_height,
    round_ticks,
    short_number,
)
from onnxplain.engine.render.colormaps import table
from onnxplain.engine.render.normalize import DisplayRange


@pytest.mark.parametrize(
    ("low", "high", "count", "labels", "power"),
    [
        (0.0, 1.0, 6, "0.0 0.2 0.4 0.6 0.8 1.0", ""),
        (-1.0, 1.0, 3, "−1 0 1", ""),
        (0.003, 0.98, 5, "0.00 0.25 0.50 0.75", ""),
        (0.0, 3e-5, 4, "0 1 2 3", "×10⁻⁵"),
        (-250000.0, 250000.0, 5, "−2 0 2", "×10⁵"),
        (5.0, 5.0, 4, "5", ""),
        (0.0, 0.0, 4, "0", ""),
    ],
)
def test_known_ticks(low: float, high: float, count: int, labels: str, power: str) -> None:
    ticks = round_ticks(low, high, count)
    assert " ".join(ticks.labels) == labels
    assert ticks.power == power


def test_labels_say_the_values_for_any_range() -> None:
    rng = np.random.default_rng(0)
    scales = [1e-300, 1e-20, 1e-3, 1.0, 37.0, 1e3, 1e20, 1e300]
    digits = str.maketrans("−⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789")
    for scale in scales:
        for _ in range(20):
            low, high = np.sort(rng.standard_normal(2)) * scale
            ticks = round_ticks(float(low), float(high), 5)
            assert 2 <= len(ticks.values) <= 7
            factor = float("1e" + ticks.power.removeprefix("×10").translate(digits)) if ticks.power else 1.0
            shown = [float(label.translate(digits)) * factor for label in ticks.labels]
            np.testing.assert_allclose(shown, ticks.values, rtol=1e-9, atol=1e-9 * scale)
            assert len(set(ticks.labels)) == len(ticks.labels)
            reach = 0.05 * (high - low)
            assert min(ticks.values) >= low - reach
            assert max(ticks.values) <= high + reach


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (11.3271, "11.33"),
        (0.0, "0"),
        (-0.02, "−0.02"),
        (3.2e-7, "3.2×10⁻⁷"),
        (1.5e30, "1.5×10³⁰"),
        (float("nan"), "nan"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) in (text, text.replace("3.2×", "3.200×"))


def test_the_bar_shows_low_below_and_high_above() -> None:
    style, colors = Style.of(384), table("polar")
    for shown in (DisplayRange(-2.0, 2.0, True), DisplayRange(-2.0, 2.0, True, clips_low=True, clips_high=True)):
        canvas = Canvas(120, 300)
        draw_bar(canvas, 20, 40, 200, shown, colors, style)
        strip = canvas.finish()[:, 20 + style.bar // 2].astype(int)
        middle = strip[139:141].mean(axis=0)
        assert np.abs(middle - colors[255]).max() <= 4
        tip = 10 if shown.clips_high else 0  # three quarters of the bar's width
        # 16: two of 180 pixels into an arm of the map, whose green runs over 233 levels in 90 pixels.
        assert np.abs(strip[40 + tip + 1] - colors[-1]).max() <= 16
        assert np.abs(strip[239 - tip - 1] - colors[0]).max() <= 16
        assert strip[60][0] > strip[60][2]
        assert strip[220][2] > strip[220][0]
        assert (strip[:39] == 255).all()
        assert (strip[242:] == 255).all()


def test_the_flat_bar_runs_from_left_to_right() -> None:
    style, colors = Style.of(384), table("blush")
    canvas = Canvas(300, 100)
    draw_flat_bar(canvas, 20, 20, 200, DisplayRange(0.0, 1.0, False, clips_high=True), colors, style)
    page = canvas.finish()
    strip = page[20 + style.bar // 2].astype(int)
    assert np.all(np.diff(strip[21:200].sum(axis=1)) <= 1)
    assert np.abs(strip[20] - colors[0]).max() <= 3
    assert np.abs(strip[212] - colors[-1]).max() <= 3
    assert (page[20 + flat_bar_height(style) + 3 :] == 255).all()


def test_a_bar_without_contrast_has_one_colour() -> None:
    style, colors = Style.of(384), table("polar")
    for shown, entry in ((DisplayRange(0.0, 0.0, True), 255), (DisplayRange(3.0, 3.0, False), 0)):
        canvas = Canvas(120, 120)
        draw_bar(canvas, 20, 10, 100, shown, colors, style)
        assert (canvas.finish()[10:110, 20 : 20 + style.bar] == colors[entry]).all()


def test_size_reported_is_enough() -> None:
    style = Style.of(384)
    for shown in (
        DisplayRange(-2.5e-7, 2.5e-7, True),
        DisplayRange(0.0, 123456.0, False),
        DisplayRange(0.0, 0.1, False),
    ):
        width, power = bar_size(shown, 200, style)
        canvas = Canvas(200, 280)
        draw_bar(canvas, 20, 40, 200, shown, table("inferno"), style)
        page = canvas.finish()
        columns = np.flatnonzero((page < 250).any(axis=(0, 2)))
        assert columns[-1] <= 20 + width
        assert bool((page[10:38] < 250).any()) == power
