"""Grids: everything is on the page, in its place, the same twice."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.grid import BARS, Cell, Row, grid
from onnxplain.engine.render.overlay import overlay
from onnxplain.engine.render.png import read_text

RNG = np.random.default_rng(0)


def page(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def contains(where: np.ndarray, what: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners at which ``what`` stands in ``where``."""
    height, width = what.shape[:2]
    corners = np.argwhere((where[: -height + 1, : -width + 1] == what[0, 0]).all(axis=2))
    return [(int(y), int(x)) for y, x in corners if (where[y : y + height, x : x + width] == what).all()]


def rows() -> list[Row]:
    one, two = (RNG.integers(0, 256, size, np.uint8) for size in ((20, 32, 3), (32, 16, 3)))
    maps = [RNG.standard_normal((20, 32)), RNG.random((5, 8)) * 1e-6, RNG.standard_normal((32, 16))]
    return [
        Row(one, [Cell(maps[0], True, "residual 0"), Cell(maps[1], False)], label="first", caption="logit 1"),
        Row(two, [Cell(maps[2], True), None], label="second " * 30),
    ]


@pytest.mark.parametrize("bars", BARS)
def test_same_bytes_twice_with_metadata(bars: str) -> None:
    content = rows()
    arguments = {"title": "Two", "bars": bars, "panel": 96, "metadata": {"k": "v"}}
    one, two = grid(content, ["a", "b"], **arguments), grid(content, ["a", "b"], **arguments)
    assert one == two
    assert read_text(one) == {"k": "v"}


@pytest.mark.parametrize("bars", ["cell", "relative"])
def test_rows_are_pictures_and_columns_are_methods(bars: str) -> None:
    content = rows()
    data = page(grid(content, ["a", "b"], bars=bars, panel=96))
    places = {}
    for r, row in enumerate(content):
        picture = np.repeat(np.repeat(row.picture, 3, axis=0), 3, axis=1)
        places[r, 0] = contains(data, picture)
        for c, cell in enumerate(row.cells, 1):
            if cell is not None:
                places[r, c] = contains(data, overlay(row.picture, cell.values, signed=cell.signed, size=96))
    assert all(len(found) == 1 for found in places.values())
    at = {key: found[0] for key, found in places.items()}
    assert at[0, 0][0] == at[0, 1][0] == at[0, 2][0] < at[1, 0][0] == at[1, 1][0]
    assert at[0, 0][1] == at[1, 0][1] < at[0, 1][1] == at[1, 1][1] < at[0, 2][1]


def test_a_shared_bar_uses_one_range() -> None:
    picture = np.full((32, 32), 255, np.uint8)
    values = np.zeros((32, 32))
    values[:, 16:] = 1.0
    cells = [Cell(values, False), Cell(10 * values, False)]
    data = page(grid([Row(picture, cells)], ["small", "large"], bars="shared", panel=96))
    alone = overlay(picture, 10 * values, signed=False, size=96)
    assert len(contains(data, alone)) == 1  # the large one; the small one is paler
    own = page(grid([Row(picture, cells)], ["small", "large"], bars="cell", panel=96))
    assert len(contains(own, alone)) == 2


def test_margins_stay_white_with_long_words() -> None:
    data = page(grid(rows(), ["name " * 40, "b"], title="t " * 300, caption="c " * 300, panel=96))
    for edge in (data[:8], data[-8:], data[:, :8], data[:, -8:]):
        assert (edge == 255).all()


def test_a_picture_without_methods_is_allowed() -> None:
    assert page(grid([Row(np.zeros((9, 9), np.uint8), [])], [], bars="shared")).ndim == 3


def test_refusals() -> None:
    with pytest.raises(InputError, match="no row"):
        grid([], ["a"])
    content = rows()
    with pytest.raises(InputError, match="row 1 has 2 cells for 3 columns") as caught:
        grid([Row(content[0].picture, [None] * 3), content[1]], ["a", "b", "c"])
    assert "None" in str(caught.value)
    with pytest.raises(OptionError, match="'none'"):
        grid(rows(), ["a", "b"], bars="none")
    with pytest.raises(InputError, match="NaN"):
        grid([Row(np.zeros((9, 9), np.uint8), [Cell(np.full((9, 9), np.nan), True)])], ["a"])
    with pytest.raises(OptionError, match="fewer panels"):
        grid([Row(np.zeros((9, 9), np.uint8), [])] * 40, [], panel=4096)
