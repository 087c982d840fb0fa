"""Insertion: both ends of the curve, the blurred start, and the area by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from scipy.ndimage import convolve
from tiny_models import fullgrad_net

from onnxplain.engine.loading import load


def test_a_linear_model_by_hand() -> None:
    x = np.array([[3.0, 1.0, 2.0, 4.0]])
    # Without blur the start is the input itself: nothing changes on the way.
    found = measured(given(linear(np.ones(4)), x, x), "insertion", steps=4, sigma=0.0)
    assert found.curves["score"][1] == pytest.approx(np.full((1, 5), 10.0))
    # A kernel of three nearly equal weights (sigma 1000, radius 1): the start is the mean of three neighbours.
    found = measured(given(linear(np.ones(4)), x, x), "insertion", steps=4, sigma=1000.0, radius=1)
    start = np.array([4, 6, 7, 6]) / 3
    steps = np.cumsum([start.sum(), 4 - start[3], 3 - start[0], 2 - start[2], 1 - start[1]])
    assert found.curves["score"][1] == pytest.approx(steps[None], rel=1e-5)
    assert found.values == pytest.approx([(steps.sum() - steps[0] / 2 - steps[-1] / 2) / 4], rel=1e-5)


def test_ends_are_the_blurred_and_the_clean_picture() -> None:
    proto, x = fullgrad_net()
    x = np.concatenate([x, 0.5 - x])
    case = by_method(load(proto, threads=1), x, "gradient", score="probability")
    _, curve = measured(case, "insertion", steps=5).curves["score"]
    line = np.exp(-0.5 * (np.arange(-5, 6) / 5) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2  # 11 by 11, sigma 5, zero beyond the border
    blurred = convolve(x.astype(np.float64), kernel[None, None], mode="constant")
    assert curve[:, 0] == pytest.approx(case.scorer.scores(blurred, case.target), rel=1e-5)
    assert curve[:, -1] == pytest.approx(case.scorer.scores(x, case.target), rel=1e-6)
