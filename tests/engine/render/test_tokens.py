"""Tokens: marks of tokenisers, the order on the page, contrast, and odd characters."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.colormaps import table
from onnxplain.engine.render.normalize import DisplayRange
from onnxplain.engine.render.png import read_text
from onnxplain.engine.render.tokens import figure_tokens, ink_on, pieces


def page(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["[CLS]", "un", "##even", ".", "[SEP]"], "[CLS] un|even . [SEP]"),
        (["▁The", "▁ca", "f", "é", "</s>"], "The ca|f|é </s>"),
        (["The", "Ġca", "f", "Ã©", "<|end|>"], "The ca|f|é <|end|>"),
        (["The", " ca", "fé", "!"], "The ca|fé|!"),
        (["the", "café", "##"], "the café ##"),
    ],
    ids=["wordpiece", "sentencepiece", "byte_level", "blanks", "words"],
)
def test_marks_become_blanks_again(tokens: list[str], shown: str) -> None:
    joined = "".join((" " if piece.starts_word else "|") + piece.text for piece in pieces(tokens))
    assert joined[1:] == shown


def test_line_breaks_and_blanks_stay_visible() -> None:
    newline = pieces(["a", "Ċ", "Ġ", "b"])
    assert [piece.text for piece in newline] == ["a", "\n", "␣", "b"]
    assert newline[1].ends_line
    assert pieces([""], "words")[0].text == "␣"


def test_bytes_that_are_no_whole_character_do_not_fail() -> None:
    assert pieces(["Ġa", "æĹ", "¥"])[1].text == "\ufffd"


def test_every_byte_has_a_stand_in() -> None:
    # The alphabet as published for byte-level vocabularies: blank, line break, tabulator, delete.
    assert [piece.text for piece in pieces(["xĠ", "xĊ", "xĉ", "xġ"], "byte_level")] == ["x ", "x\n", "x\t", "x\x7f"]


@pytest.mark.parametrize("signed", [True, False])
def test_same_bytes_twice_with_metadata(signed: bool) -> None:
    values = np.linspace(-1, 1, 5)
    one, two = (figure_tokens(list("abcde"), values, signed=signed, metadata={"k": "v"}) for _ in range(2))
    assert one == two
    assert read_text(one) == {"k": "v"}


def test_grounds_have_the_colours_of_the_values_in_order() -> None:
    data = page(figure_tokens(["alpha", "beta", "gamma"], [1.0, 0.0, -1.0]))
    row = data[24 + 2]  # just below the upper edge of the first line: ground without letters
    colors = table("polar")
    places = [np.flatnonzero((row == colors[entry]).all(axis=1)) for entry in (-1, 255, 0)]
    assert all(len(place) > 20 for place in places)
    assert places[0].max() < places[1].min() < places[1].max() < places[2].min()


def test_long_texts_are_wrapped_and_stay_on_the_page() -> None:
    words = ["word"] * 200 + ["x" * 400] + ["##" + "y" * 30] * 20
    data = page(figure_tokens(words, np.ones(len(words)), width=400, title="t"))
    assert data.shape[1] <= 400 + 2 * 24
    assert (data[:, :20] == 255).all()
    assert (data[:, -20:] == 255).all()
    assert data.shape[0] > 1000


def test_a_word_is_not_torn_apart() -> None:
    # Two pieces of one word that fit a line together, but not behind the word before them.
    together = page(figure_tokens(["a" * 20, "b" * 10, "##" + "c" * 10], np.ones(3), width=400))
    apart = page(figure_tokens(["a" * 20, "b" * 10, "c" * 10], np.ones(3), width=400, scheme="words"))
    assert together.shape[0] == apart.shape[0]
    red = (together == table("polar")[-1]).all(axis=2)
    first, second = red[26], red[26 + 39]
    assert np.ptp(np.flatnonzero(first)) < np.ptp(np.flatnonzero(second)) * 1.5
    assert np.count_nonzero(np.diff(np.flatnonzero(second)) > 1) >= 1  # two boxes in the second line


def test_odd_characters_draw_without_warnings() -> None:
    tokens = ["日本", "🎉", "$x_{$", "\x00", "\u200d", "a\tb", "שלום"]
    assert page(figure_tokens(tokens, np.arange(7.0))).ndim == 3


@pytest.mark.parametrize("name", ["polar", "blush", "inferno", "viridis"])
def test_letters_stand_out_on_every_ground(name: str) -> None:
    def luminance(rgb: np.ndarray) -> float:
        coded = np.asarray(rgb) / 255
        linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for ground in table(name)[::5]:
        ink = ink_on(ground)
        ink_rgb = np.array([int(ink[k : k + 2], 16) for k in (1, 3, 5)])
        light, dark = sorted([luminance(ground), luminance(ink_rgb)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.9  # WCAG asks 3 for letters of this size in bold, 4.5 for small ones


def test_refusals() -> None:
    with pytest.raises(InputError, match="for 2 tokens"):
        figure_tokens(["a", "b"], [1.0])
    with pytest.raises(InputError, match="reduced over the embedding"):
        figure_tokens(["a", "b"], np.zeros((2, 768)))
    with pytest.raises(InputError, match="nothing to draw"):
        figure_tokens([], [])
    with pytest.raises(InputError, match="NaN"):
        figure_tokens(["a"], [np.nan])
    with pytest.raises(OptionError, match="'bpe'"):
        figure_tokens(["a"], [1.0], scheme="bpe")
    with pytest.raises(OptionError, match="width"):
        figure_tokens(["a"], [1.0], width=10)
    with pytest.raises(OptionError, match="both be signed"):
        figure_tokens(["a"], [1.0], limits=DisplayRange(0.0, 1.0, False))
