"""Display ranges at known points and at the edges of floating point."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.normalize import (
    DisplayRange,
    display_range,
    diverging_range,
    normalize,
    sequential_range,
    shared_range,
)


def test_sequential_is_min_max_without_clipping() -> None:
    values = np.array([[2.0, 4.0], [6.0, 10.0]])
    shown = sequential_range(values, percentile=100)
    assert (shown.low, shown.high, shown.clips_low, shown.clips_high) == (2.0, 10.0, False, False)
    np.testing.assert_array_equal(shown.to_unit(values), np.float32([[0, 0.25], [0.5, 1]]))


def test_sequential_clips_at_the_percentile() -> None:
    values = np.arange(101.0)
    shown = sequential_range(values, percentile=90, low_percentile=10)
    # The p-th percentile of 0..100 is p.
    np.testing.assert_allclose([shown.low, shown.high], [10, 90], rtol=1e-14)
    assert shown.clips_low
    assert shown.clips_high
    assert shown.to_unit(values)[[0, 5, 50, 95, 100]].tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("percentile", [50, 99, 100])
def test_zero_is_exactly_the_centre_of_a_signed_map(percentile: float) -> None:
    values = np.random.default_rng(0).standard_normal(1000) * 3 + 1
    values[17] = 0.0
    unit = normalize(values, signed=True, percentile=percentile)
    assert unit[17] == 0.5
    assert np.all((unit > 0.5) == (values > 0))
    assert np.all((unit < 0.5) == (values < 0))


def test_signed_map_is_symmetric() -> None:
    assert normalize([-2.0, -1.0, 0.0, 1.0], signed=True, percentile=100).tolist() == [0, 0.25, 0.5, 0.75]
    shown = diverging_range(np.array([-2.0, 1.0]), percentile=100)
    assert (shown.low, shown.high) == (-2.0, 2.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_constant_maps_are_flat(dtype: type, value: float) -> None:
    values = np.full((4, 5), value, dtype)
    assert normalize(values, signed=False).tolist() == np.zeros((4, 5)).tolist()
    assert normalize(values, signed=True).tolist() == np.full((4, 5), 0.5 + 0.5 * np.sign(value)).tolist()


def test_rounding_noise_is_no_contrast() -> None:
    values = np.float32(5.0) + np.float32([0, 1, 2]) * np.float32(4.8e-7)  # one unit in the last place each
    assert len(set(values.tolist())) == 3
    assert normalize(values, signed=False).tolist() == [0, 0, 0]


def test_a_sparse_map_is_still_shown() -> None:
    values = np.zeros(1000)
    values[3] = 7.0  # the 99th percentile is zero
    assert normalize(values, signed=False)[3] == 1
    assert normalize(values, signed=True)[3] == 1
    assert normalize(-values, signed=True)[3] == 0


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-30, 1e30, 1e307])
@pytest.mark.parametrize("percentile", [99, 100])
def test_any_magnitude_works(scale: float, percentile: float) -> None:
    values = np.array([-8.0, 0.0, 4.0, 8.0]) * scale
    # 1e-320 is subnormal: its multiples carry some 2**-11 of relative rounding.
    np.testing.assert_allclose(normalize(values, signed=True, percentile=100), [0, 0.5, 0.75, 1], atol=1e-3)
    unit = normalize(values, signed=False, percentile=percentile)
    np.testing.assert_allclose(unit, [0, 0.5, 0.75, 1], atol=0.02)  # 0.02: what the 99th of four values cuts off
    assert np.all(np.isfinite(unit))


def test_large_maps_go_through_in_pieces() -> None:
    values = np.linspace(0, 1, 2_500_000, dtype=np.float32).reshape(2, -1)
    np.testing.assert_allclose(normalize(values, signed=False, percentile=100), values, atol=1e-7)


def test_bad_input_is_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for signed in (True, False):
            with pytest.raises(InputError, match="1 NaN or infinite"):
                normalize([0.0, bad], signed=signed)
    with pytest.raises(InputError, match="NaN"):
        DisplayRange(0.0, 1.0, False).to_unit([np.nan])
    with pytest.raises(InputError, match="nothing to draw"):
        display_range([], signed=False)
    for percentile in (0, -1, 101, np.nan):
        with pytest.raises(OptionError, match="percentile"):
            normalize([1.0], signed=False, percentile=percentile)
    with pytest.raises(OptionError, match="low_percentile"):
        sequential_range([1.0, 2.0], percentile=50, low_percentile=60)
    with pytest.raises(OptionError, match="symmetric"):
        DisplayRange(-1.0, 2.0, True)
    with pytest.raises(OptionError, match="low <= high"):
        DisplayRange(2.0, 1.0, False)


def test_shared_range_holds_all() -> None:
    one, two = DisplayRange(0.0, 5.0, False, clips_high=True), DisplayRange(-1.0, 7.0, False)
    shared = shared_range([one, two])
    assert (shared.low, shared.high, shared.clips_high) == (-1.0, 7.0, False)
    with pytest.raises(InputError, match="all signed or all unsigned"):
        shared_range([one, DisplayRange(-1.0, 1.0, True)])
    with pytest.raises(InputError, match="at least one"):
        shared_range([])
