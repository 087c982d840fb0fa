"""Signals: colours stand where the attribution is, spikes survive thinning, shapes are checked."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.normalize import DisplayRange
from onnxplain.engine.render.png import read_text
from onnxplain.engine.render.series import STYLES, figure_series, thin

RNG = np.random.default_rng(0)
SIGNAL = np.sin(np.linspace(0, 12, 300))


def page(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


def colored(data: np.ndarray, *, red: bool) -> np.ndarray:
    """Columns of the plot (not of the bar beside it) that hold clearly red, or clearly blue, pixels."""
    plot = data[:, : int(data.shape[1] * 0.9)]
    excess = plot[:, :, 0] - plot[:, :, 2] if red else plot[:, :, 2] - plot[:, :, 0]
    return np.flatnonzero((excess > 110).any(axis=0))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("signed", [True, False])
def test_same_bytes_twice_with_metadata(style: str, signed: bool) -> None:
    arguments = {"signed": signed, "style": style, "title": "t", "caption": "c", "metadata": {"k": "v"}}
    one, two = (figure_series(SIGNAL, SIGNAL**2, **arguments) for _ in range(2))
    assert one == two
    assert read_text(one) == {"k": "v"}


@pytest.mark.parametrize("style", STYLES)
def test_colour_stands_where_the_attribution_is(style: str) -> None:
    values = np.zeros(300)
    values[60:75], values[210:225] = 1.0, -1.0
    data = page(figure_series(SIGNAL, values, signed=True, style=style, percentile=100))
    red, blue = colored(data, red=True), colored(data, red=False)
    width = blue.mean() - red.mean()
    # The centres lie 150 of 299 sample steps apart, on 960 pixels.
    assert abs(width - 960 * 150 / 299) < 4
    assert 30 < np.ptp(red) < 70


def test_unsigned_zero_is_neutral() -> None:
    data = page(figure_series(SIGNAL, np.zeros(300), signed=True))
    assert len(colored(data, red=True)) == len(colored(data, red=False)) == 0


def test_thinning_keeps_extremes_and_strongest_attribution() -> None:
    line, amounts = RNG.standard_normal(10_007), RNG.standard_normal(10_007) * 0.1
    line[[5000, 7001]], amounts[[1234, 9999]] = [50.0, -60.0], [3.0, -4.0]
    at = np.linspace(0.0, 1.0, 10_007)
    thin_line, thin_amounts, thin_at = thin(line, amounts, at, 400)
    assert len(thin_line) == len(thin_amounts) == len(thin_at) == 800
    assert np.all(np.diff(thin_at) >= 0)
    assert (thin_line.max(), thin_line.min(), thin_amounts.max(), thin_amounts.min()) == (50.0, -60.0, 3.0, -4.0)
    for value, place in ((50.0, 5000), (-60.0, 7001)):
        assert thin_at[thin_line == value].tolist() == [at[place]]
    assert thin(line[:800], amounts[:800], at[:800], 400)[0] is not None
    np.testing.assert_array_equal(thin(line[:800], amounts[:800], at[:800], 400)[0], line[:800])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("length", [1, 2, 3, 100_000])
def test_any_length(style: str, length: int) -> None:
    signal = RNG.standard_normal(length)
    data = page(figure_series(signal, signal, signed=True, style=style))
    assert (data[:, :8] == 255).all()
    assert (data[:, -8:] == 255).all()


@pytest.mark.parametrize("channels", [2, 12, 32])
def test_channels_stand_below_one_another(channels: int) -> None:
    signal = RNG.standard_normal((50, channels)) * 10.0 ** np.arange(-channels // 2, channels - channels // 2)
    names = [f"lead {k}" for k in range(channels)]
    tall = page(figure_series(signal, signal, signed=True, channels=names))
    assert tall.shape[0] > 100 * channels
    shared = page(figure_series(signal, signal[:, 0], signed=True))
    assert shared.shape[1] > 900


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e300])
def test_extreme_signals(scale: float) -> None:
    assert page(figure_series(SIGNAL * scale, SIGNAL, signed=True)).ndim == 3


def test_irregular_times_move_the_colour() -> None:
    values = np.zeros(300)
    values[150] = 1.0
    times = np.concatenate([np.arange(150.0), 150 + 9 * np.arange(150.0)])
    data = page(figure_series(SIGNAL, values, signed=True, times=times, style="background", percentile=100))
    even = page(figure_series(SIGNAL, values, signed=True, style="background", percentile=100))
    shift = colored(even, red=True).mean() - colored(data, red=True).mean()
    assert abs(shift - 960 * (150 / 299 - 150 / times[-1])) < 6  # the labels' widths differ by a digit


def test_refusals() -> None:
    with pytest.raises(InputError, match="time first"):
        figure_series(SIGNAL, SIGNAL[:-1], signed=True)
    with pytest.raises(InputError, match="time first"):
        figure_series(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), signed=True)
    with pytest.raises(InputError, match="at most 32"):
        figure_series(np.zeros((4, 300)), np.zeros((4, 300)), signed=True)
    with pytest.raises(InputError, match="NaN"):
        figure_series(SIGNAL, SIGNAL * np.nan, signed=True)
    with pytest.raises(InputError, match="1 channel names for 2"):
        figure_series(np.zeros((5, 2)), np.zeros(5), signed=True, channels=["a"])
    for times in (np.arange(299), np.zeros(300)):
        with pytest.raises(InputError, match="strictly increasing"):
            figure_series(SIGNAL, SIGNAL, signed=True, times=times)
    with pytest.raises(InputError, match="rescale"):
        figure_series(SIGNAL * 1e308, SIGNAL, signed=True)
    with pytest.raises(OptionError, match="line, background"):
        figure_series(SIGNAL, SIGNAL, signed=True, style="dots")
    with pytest.raises(OptionError, match="both be signed"):
        figure_series(SIGNAL, SIGNAL, signed=True, limits=DisplayRange(0.0, 1.0, False))
