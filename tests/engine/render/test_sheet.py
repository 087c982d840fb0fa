"""A page of one picture by many methods: where panels stand, that nothing is cut off, that bytes are the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxplain.engine.errors import InputError
from onnxplain.engine.render.canvas import Style
from onnxplain.engine.render.grid import Cell
from onnxplain.engine.render.png import read_text
from onnxplain.engine.render.sheet import sheet

RED = np.full((8, 8, 3), (200, 30, 30), np.uint8)


def page(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)


def cells(count: int, scale: float = 1.0) -> list[Cell]:
    """Unsigned maps of nothing: they leave the picture as it is, faded."""
    return [Cell(np.eye(8) * scale * 10.0**k, k % 2 == 0, "residual 1e-5") for k in range(count)]


def red_panels(image: np.ndarray) -> list[tuple[int, int]]:
    """Corners of what is exactly the picture's own red: the input, which no map covers."""
    mask = (image == (200, 30, 30)).all(axis=2).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    return [(int(s[0]), int(s[1])) for s in stats[1:count] if s[4] > 1000]


def test_the_picture_stands_once_and_first() -> None:
    image = page(sheet(RED, cells(9), [f"method {k}" for k in range(9)], panel=64, across=4))
    ((x, y),) = red_panels(image)
    style = Style.of(64)
    assert abs(x - style.margin) <= 1
    assert y < image.shape[0] / 3


@pytest.mark.parametrize(
    ("maps", "across", "columns", "lines"), [(1, 7, 2, 1), (6, 7, 7, 1), (7, 7, 4, 2), (41, 7, 7, 6)]
)
def test_lines_are_filled_evenly(maps: int, across: int, columns: int, lines: int) -> None:
    """Sizes are whole multiples of one panel with its bar: all stand in columns whatever their bars say."""

    def size(count: int) -> tuple[int, int]:
        same = [Cell(np.eye(8), False, "x")] * count
        return page(sheet(RED, same, ["name"] * count, panel=64, across=across)).shape[:2]

    step_x = size(2)[1] - size(1)[1]
    height = size(1)[0]
    step_y = page(sheet(RED, [Cell(np.eye(8), False, "x")] * 3, ["n"] * 3, panel=64, across=2)).shape[0] - height
    assert size(maps) == (height + (lines - 1) * step_y, size(1)[1] + (columns - 2) * step_x)


def test_a_long_name_is_cut_and_a_wide_range_has_room() -> None:
    image = page(sheet(RED, cells(5, 1e-7), ["a_very_long_name_of_a_method_that_nobody_reads"] * 5, panel=64, across=3))
    assert (image[:, -8:] == 255).all() and (image[:, :8] == 255).all(), "nothing reaches the margins"


def test_the_same_arguments_give_the_same_bytes() -> None:
    one, two = (sheet(RED, cells(3), list("abc"), title="t", metadata={"onnxplain": "[]"}) for _ in range(2))
    assert one == two
    assert read_text(one)["onnxplain"] == "[]"


def test_names_have_to_fit() -> None:
    with pytest.raises(InputError, match="2 maps and 1 names"):
        sheet(RED, cells(2), ["a"])
    with pytest.raises(InputError, match="at least one map"):
        sheet(RED, [], [])
