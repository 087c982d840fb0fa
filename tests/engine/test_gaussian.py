"""Blur by matrices against scipy's filter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from onnxplain.engine.gaussian import blurred, kernel

MODES = {"zero": "constant", "mirror": "reflect"}


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.3, 4.0, 25.0])
def test_against_scipy(border: str, sigma: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 12, 3))
    wanted = gaussian_filter1d(
        gaussian_filter1d(x, sigma, axis=1, mode=MODES[border]), sigma, axis=2, mode=MODES[border]
    )
    np.testing.assert_allclose(blurred(x, [1, 2], sigma, border=border), wanted, atol=1e-12)


def test_no_blur_is_the_input() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5))
    np.testing.assert_array_equal(blurred(x, [1], 0.0), x)


@pytest.mark.parametrize("sigma", [0.0, 0.7, 3.0, 30.0])
def test_a_kernel_holds_the_whole_blur_with_zeros_around(sigma: float) -> None:
    x = np.random.default_rng(0).normal(size=9)
    apart = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    np.testing.assert_allclose(kernel(9, sigma)[apart] @ x, blurred(x, [0], sigma, border="zero"), atol=1e-14)
