"""Bars: as long as their numbers, on their side of the zero line, the largest first; shapes are checked."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.bars import figure_bars
from onnxplain.engine.render.png import read_text

NAMES = ["a", "b", "c"]


def bars(values: Any, **how: Any) -> list[tuple[str, int]]:
    """Colour and length of each line's bar, from the top, by the pixels alone."""
    data = figure_bars(NAMES[: len(values)], values, **{"signed": True, **how})
    with Image.open(io.BytesIO(data)) as image:
        page = np.asarray(image.convert("RGB")).astype(int)
    red = (page[:, :, 0] - page[:, :, 2] > 25).sum(axis=1)
    blue = (page[:, :, 2] - page[:, :, 0] > 25).sum(axis=1)
    found: list[tuple[str, int]] = []
    before = 0
    for r, b in zip(red, blue, strict=True):
        length = int(max(r, b))
        if length and not before:
            found.append(("red" if r > b else "blue", length))
        before = length
    return found


def test_lengths_colours_and_order() -> None:
    found = bars([1.0, -4.0, 2.0])
    assert [color for color, _ in found] == ["blue", "red", "red"]
    longest = found[0][1]
    assert [length / longest for _, length in found] == pytest.approx([1.0, 0.5, 0.25], abs=0.01)  # whole pixels


def test_what_is_left_over_is_one_line() -> None:
    assert len(bars([1.0, -4.0, 2.0], most=2)) == 2
    one = figure_bars(NAMES, [1.0, -4.0, 2.0], signed=True, most=2)
    assert one != figure_bars(NAMES[:2], [-4.0, 2.0], signed=True)


@pytest.mark.parametrize("signed", [True, False])
def test_same_bytes_twice_with_metadata(signed: bool) -> None:
    values = [1.0, 4.0, 2.0]
    one, two = (figure_bars(NAMES, values, signed=signed, title="t", metadata={"k": "v"}) for _ in range(2))
    assert one == two
    assert read_text(one) == {"k": "v"}


def test_zeros_have_no_bars() -> None:
    assert bars([0.0, 0.0]) == []


@pytest.mark.parametrize("signed", [True, False])
def test_what_float32_rounds_to_is_written_as_zero(signed: bool) -> None:
    """Of two equal scores of about 0.3, the difference is a few 1e-8."""
    zero, rounded, small = (figure_bars(NAMES, [0.34, 0.1, v], signed=signed) for v in (0.0, 1.2e-8, 1e-5))
    assert rounded == zero
    assert small != zero


@pytest.mark.parametrize(
    ("names", "values", "how", "kind"),
    [
        (NAMES, [1.0, 2.0], {}, InputError), ([], [], {}, InputError), (NAMES, [1.0, np.nan, 2.0], {}, InputError),
        (NAMES, [1.0, 2.0, 3.0], {"width": 10}, OptionError), (NAMES, [1.0, 2.0, 3.0], {"most": 0}, OptionError),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn(
    names: list[str], values: list[float], how: dict[str, int], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        figure_bars(names, values, signed=True, **how)
