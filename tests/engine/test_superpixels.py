"""Superpixels: of a picture in two halves, whatever its scale and number of channels."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.engine.errors import OptionError
from onnxplain.engine.superpixels import superpixels


@pytest.mark.parametrize("kind", ["slic", "felzenszwalb"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_no_region_crosses_an_edge(kind: str, channels: int) -> None:
    picture = np.zeros((24, 32, channels))
    picture[:, 16:] = np.linspace(300.0, 900.0, channels)
    found = superpixels(picture, kind, 4)
    assert found.shape == (24, 32) and found.dtype == np.int64
    assert sorted(set(found.flat)) == list(range(found.max() + 1)), "numbered without gaps"
    # Blurring by felzenszwalb's own pre-smoothing moves an edge by a pixel at most.
    assert not set(found[:, :15].flat) & set(found[:, 17:].flat)


def test_the_amount_is_about_the_number_of_regions() -> None:
    y, x = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 40), indexing="ij")
    picture = np.stack([y, x, y * x], axis=-1)
    few, many = (superpixels(picture, "slic", n).max() + 1 for n in (4, 40))
    assert 2 <= few <= 8 < 20 <= many <= 60


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_tiny_and_constant_pictures(size: tuple[int, int]) -> None:
    for kind in ("slic", "felzenszwalb"):
        assert superpixels(np.full((*size, 3), 7.0), kind).shape == size


@pytest.mark.parametrize(("kind", "amount"), [("quickshift", None), ("slic", 0)])
def test_what_does_not_exist_is_refused(kind: str, amount: float | None) -> None:
    with pytest.raises(OptionError):
        superpixels(np.zeros((4, 4, 3)), kind, amount)
