"""Random smooth masks: their range, their share and their smoothness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain.engine.coarse_masks import CoarseMasks
from onnxplain.engine.places import Labels

Array = np.ndarray[Any, Any]
PICTURE: Labels = ("batch", None, "y", "x")


@pytest.mark.parametrize(("shape", "cells"), [((3, 50, 70), 7), ((1, 224, 224), 8), ((2, 9, 9), 8)])
def test_masks_are_smooth_and_keep_their_share(shape: tuple[int, ...], cells: int) -> None:
    how = CoarseMasks(shape, PICTURE, cells, 0.3)
    masks = np.stack([how.mask(np.random.default_rng(k)) for k in range(200)])
    assert how.size == masks.shape[1:] and how.grid == (1, cells, cells)
    assert masks.shape == (200, 1, *shape[1:])
    assert masks.min() >= 0 and masks.max() <= 1
    # 200 masks of some 60 independent cells: the share is known to about 0.005, a single place to 0.03.
    assert abs(masks.mean() - 0.3) < 0.02
    assert np.abs(masks.mean(axis=0) - 0.3).max() < 0.16
    steps = np.abs(np.diff(masks, axis=3)).max()
    assert steps <= 1.0 / (-(-shape[2] // cells)) * (cells + 1) + 1e-6


def test_short_axes_and_tables_are_drawn_place_by_place() -> None:
    def mask(shape: tuple[int, ...], labels: Labels) -> Array:
        return CoarseMasks(shape, labels, 8, 0.5).mask(np.random.default_rng(0))

    assert set(mask((1, 4, 4), PICTURE).flat) == {0.0, 1.0}
    assert set(mask((100,), ("batch", "t")).flat) == {0.0, 1.0}
    tokens = mask((50, 8), ("batch", "t", None))
    assert tokens.shape == (50, 1) and set(tokens.flat) == {0.0, 1.0}
    mixed = mask((1, 4, 100), PICTURE)
    assert mixed.shape == (1, 4, 100) and len(set(mixed.flat)) > 10
