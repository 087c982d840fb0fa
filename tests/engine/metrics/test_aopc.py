"""AOPC: pixel by pixel and region by region, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured


def test_pixel_flipping_by_hand() -> None:
    x = np.array([[3.0, 1.0, 2.0, 4.0]])
    found = measured(given(linear(np.ones(4)), x, x), "aopc", steps=2, region=1, fill=0.0)
    assert found.curves["fall"][1] == pytest.approx(np.array([[0, 4, 7]]))
    assert found.values == pytest.approx([11 / 3])


def test_regions_go_by_their_mean_relevance() -> None:
    relevance = np.zeros((1, 1, 5, 5))
    relevance[0, 0, 0, 0] = 8.0  # tile of four places: mean 2
    relevance[0, 0, 4, 4] = 3.0  # tile of one place at the corner: mean 3
    x = np.ones((1, 1, 5, 5))
    found = measured(given(linear(np.ones((1, 5, 5))), x, relevance), "aopc", steps=3, region=2, fill=0.0)
    fall = found.curves["fall"][1][0]
    assert fall[:3] == pytest.approx([0, 1, 5])
    assert fall[3] in (pytest.approx(9), pytest.approx(7))  # one of the others, whole or cut at the border
    assert measured(given(linear(np.ones((1, 5, 5))), x, relevance), "aopc", region=2).facts["steps"] == 9


def test_default_regions_are_the_authors_share_of_the_picture() -> None:
    x = np.ones((1, 1, 50, 40))
    found = measured(given(linear(np.ones((1, 50, 40))), x, x), "aopc", steps=1)
    assert found.facts["region"] == 2
