"""Channel reductions against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.reduce import REDUCTIONS, SIGNED_REDUCTIONS, reduce_channels

# Three channels of a 1x2 map; the columns are (3, -4, 0) and (-1, 1, -1).
MAP = np.array([[[3.0, -1.0]], [[-4.0, 1.0]], [[0.0, -1.0]]], np.float32)
EXPECTED = {
    "sum_abs": [7.0, 3.0],
    "max_abs": [4.0, 1.0],
    "sum": [-1.0, -1.0],
    "l2": [5.0, 3.0**0.5],
    "mean": [-1 / 3, -1 / 3],
    "largest": [-4.0, -1.0],
}


@pytest.mark.parametrize("how", sorted(EXPECTED))
@pytest.mark.parametrize("layout", ["CHW", "HWC", "NCHW", "TD"])
def test_known_values_in_every_layout(how: str, layout: str) -> None:
    expected = np.array(EXPECTED[how])
    if layout == "CHW":
        got = reduce_channels(MAP, how, channel_axis=0)[0]
    elif layout == "HWC":
        got = reduce_channels(np.moveaxis(MAP, 0, -1), how, channel_axis=-1)[0]
    elif layout == "NCHW":
        got = reduce_channels(np.stack([MAP, 2 * MAP]), how, channel_axis=1)[1, 0] / 2
    else:
        got = reduce_channels(MAP[:, 0].T, how, channel_axis=1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=3e-7)  # a float32 rounding or two


def test_every_reduction_is_covered_here() -> None:
    assert set(REDUCTIONS) == set(EXPECTED)


def test_only_signed_reductions_change_sign_with_the_attribution() -> None:
    for how in REDUCTIONS:
        plus, minus = reduce_channels(MAP, how, channel_axis=0), reduce_channels(-MAP, how, channel_axis=0)
        # A tie between channels (the second column) is broken by order, so only the first column is compared.
        assert (plus[0, 0] == -minus[0, 0]) == (how in SIGNED_REDUCTIONS), how


def test_float16_sums_do_not_overflow_and_integers_become_float() -> None:
    half = np.full((3, 1), 60000.0, np.float16)
    assert reduce_channels(half, "sum", channel_axis=0)[0] == 3 * float(half[0, 0])
    assert reduce_channels(np.array([[1], [2]]), "mean", channel_axis=0)[0] == 1.5


def test_l2_survives_extreme_magnitudes() -> None:
    np.testing.assert_allclose(reduce_channels(np.array([3e200, 4e200]), "l2", channel_axis=0), 5e200, rtol=1e-15)
    np.testing.assert_allclose(reduce_channels(np.array([3e-200, 4e-200]), "l2", channel_axis=0), 5e-200, rtol=1e-15)
    assert reduce_channels(np.zeros(4), "l2", channel_axis=0) == 0


@pytest.mark.parametrize("how", sorted(EXPECTED))
def test_nan_stays_visible(how: str) -> None:
    assert np.isnan(reduce_channels(np.array([1.0, np.nan, 5.0]), how, channel_axis=0))


def test_refusals_name_the_remedy() -> None:
    with pytest.raises(OptionError, match=r"'median'.*sum_abs"):
        reduce_channels(MAP, "median", channel_axis=0)
    with pytest.raises(InputError, match=r"axis 3 does not exist.*-3\.\.2"):
        reduce_channels(MAP, "sum", channel_axis=3)
    with pytest.raises(InputError, match="no channel"):
        reduce_channels(np.zeros((0, 4)), "max_abs", channel_axis=0)
    with pytest.raises(InputError, match="complex128"):
        reduce_channels(np.zeros(3, np.complex128), "sum", channel_axis=0)
