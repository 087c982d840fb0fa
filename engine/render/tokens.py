"""A text with its attribution: every token on a ground of the colour of its value, laid out like the text it was.

Tokenisers mark where words begin in their own ways; here the marks become blanks again. Guarantees: tokens stand in
their order and none is left out; letters keep their contrast on every ground; a token without a glyph shows a box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import RGB, finite_array
from onnxplain.engine.render.canvas import INK, Style
from onnxplain.engine.render.colorbar import draw_flat_bar, flat_bar_height
from onnxplain.engine.render.colormaps import STEPS, table, unit_index
from onnxplain.engine.render.frame import Frame
from onnxplain.engine.render.normalize import DisplayRange, display_range
from onnxplain.engine.render.png import encode
from onnxplain.engine.render.text import ellipsize, text_width

SCHEMES = ("auto", "words", "wordpiece", "sentencepiece", "byte_level", "blanks")

_SIZE = 20.0
_PAD = 4
_BOX_HEIGHT = 31
_LINE_HEIGHT = 39
_BAR_LENGTH = 200
_LEAST_WIDTH = 480


@dataclass(frozen=True, slots=True)
class Piece:
    """A token as it is shown.

    Attributes:
        text: Without the tokeniser's marks.
        starts_word: Whether a blank stands before it.
        ends_line: Whether the text's own line ends after it.
    """

    text: str
    starts_word: bool
    ends_line: bool = False


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of byte-level tokenisers: a character for each of the 256 bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + k): byte for k, byte in enumerate(others)}


def _scheme_of(tokens: Sequence[str]) -> str:
    if any(token.startswith("##") and len(token) > 2 for token in tokens):
        return "wordpiece"
    if any(token.startswith("▁") for token in tokens):
        return "sentencepiece"
    if any("Ġ" in token or token == "Ċ" for token in tokens):
        return "byte_level"
    return "blanks" if any(token[:1] == " " and token.strip() for token in tokens) else "words"


def pieces(tokens: Sequence[str], scheme: str = "auto") -> list[Piece]:
    """Tokens without their tokeniser's marks.

    Args:
        tokens: As the tokeniser names them.
        scheme: ``wordpiece`` (``##`` glues), ``sentencepiece`` (``▁`` starts a word), ``byte_level`` (``Ġ`` is a
            blank, ``Ċ`` a line break, other bytes likewise), ``blanks`` (a blank in front starts a word), ``words``
            (every token is one), or ``auto``: by the marks that occur. Tokens in angle or square brackets always
            start a word.

    Raises:
        OptionError: Unknown scheme.
    """
    if scheme not in SCHEMES:
        raise OptionError(f"unknown token scheme '{scheme}'; choose one of {', '.join(SCHEMES)}")
    chosen = _scheme_of(tokens) if scheme == "auto" else scheme
    alphabet = _byte_alphabet() if chosen == "byte_level" else {}
    result: list[Piece] = []
    for token in tokens:
        special = len(token) > 2 and token[0] + token[-1] in ("[]", "<>")
        text, starts = token, True
        if chosen == "wordpiece" and token.startswith("##") and len(token) > 2:
            text, starts = token[2:], False
        elif chosen == "sentencepiece" and not special:
            text, starts = token.replace("▁", " "), token.startswith("▁")
        elif chosen == "byte_level" and not special and all(character in alphabet for character in token):
            text = bytes(alphabet[character] for character in token).decode("utf-8", errors="replace")
            starts = text[:1] == " "
        elif chosen in ("blanks", "byte_level") and not special:
            starts = token[:1] == " "
        shown = (text[1:] if starts and text[:1] == " " else text) or " "
        result.append(Piece(shown if shown.strip(" ") else "␣" * len(shown), starts, ends_line=shown.endswith("\n")))
    return result


def figure_tokens(
    tokens: Sequence[str],
    values: npt.ArrayLike,
    *,
    signed: bool = True,
    scheme: str = "auto",
    title: str = "",
    caption: str = "",
    note: str = "",
    width: int = 860,
    colormap: str | None = None,
    percentile: float = 100.0,
    limits: DisplayRange | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A text whose tokens are coloured by their attribution, with a colour bar below.

    Args:
        tokens: T tokens as the tokeniser names them.
        values: ``(T,)`` attribution.
        signed: Whether its sign means something.
        scheme: See :func:`pieces`.
        title: Bold, above.
        caption: Small, below (:func:`onnxplain.engine.render.overlay.caption_text`).
        note: One more sentence.
        width: Pixels of a line of text, 320 to 4096.
        colormap: Name of a colour map; None: ``polar``, ``blush`` without sign.
        percentile: Where the range is clipped; 100, as a text has few tokens.
        limits: Range to use instead of the values' own.
        metadata: Text to embed in the PNG.

    Returns:
        PNG bytes; the same for the same arguments.

    Raises:
        InputError: No token, not one value for each, NaN or infinity.
        OptionError: An unknown scheme or colour map, or a width out of range.
    """
    if not 320 <= width <= 4096:
        raise OptionError(f"width is {width} pixels; pass 320 to 4096")
    if limits is not None and limits.signed != signed:
        raise OptionError("limits and values must both be signed or both unsigned; make limits with display_range")
    amounts = finite_array(values, "attribution")
    if amounts.shape != (len(tokens),):
        raise InputError(
            f"attribution has shape {amounts.shape} for {len(tokens)} tokens; pass one value per token, "
            "reduced over the embedding with reduce_channels"
        )
    shown = limits or display_range(amounts, signed=signed, percentile=percentile)
    colors = table(colormap or ("polar" if signed else "blush"))
    page = _draw(pieces(tokens, scheme), shown.to_unit(amounts), shown, colors, width, title, [caption, note])
    return encode(page, metadata)


def _places(words: Sequence[Piece], width: int) -> list[tuple[str, float, int, float]]:
    """Text, left edge, line and width of each token; a word that does not fit begins the next line, whole."""
    blank = 0.3 * _SIZE
    shown = [ellipsize(piece.text, _SIZE, width - 2 * _PAD) for piece in words]
    widths = [text_width(text, _SIZE) + 2 * _PAD for text in shown]
    result: list[tuple[str, float, int, float]] = []
    x, line, k = 0.0, 0, 0
    while k < len(words):
        stop = k + 1
        while stop < len(words) and not words[stop].starts_word and not words[stop - 1].ends_line:
            stop += 1
        gap = blank if x else 0.0
        if x and x + gap + sum(widths[k:stop]) > width:
            x, line, gap = 0.0, line + 1, 0.0
        x += gap
        for j in range(k, stop):
            if x and x + widths[j] > width:
                x, line = 0.0, line + 1
            result.append((shown[j], x, line, widths[j]))
            x += widths[j]
        if words[stop - 1].ends_line:
            x, line = 0.0, line + 1
        k = stop
    return result


def _draw(
    words: Sequence[Piece],
    unit: npt.NDArray[np.float32],
    shown: DisplayRange,
    colors: RGB,
    width: int,
    title: str,
    captions: Sequence[str],
) -> RGB:
    style = Style.of(384)
    places = _places(words, width)
    text_height = (places[-1][2] + 1) * _LINE_HEIGHT
    # A short text makes a narrow page, though not one too narrow for its title.
    used = max(math.ceil(max(x + room for _, x, _, room in places)), min(width, _LEAST_WIDTH))
    frame = Frame(title, captions, used, style)
    canvas, left, top = frame.open(text_height + style.gap // 2 + flat_bar_height(style))
    grounds = colors[unit_index(unit, STEPS)]
    for (text, x, line, room), ground in zip(places, grounds, strict=True):
        y = top + line * _LINE_HEIGHT
        fill = "#" + "".join(f"{int(part):02x}" for part in ground)
        # One pixel less than the room: neighbours of one word stay two.
        canvas.rectangle(left + x, y, room - 1, _BOX_HEIGHT, fill=fill, rounding=4)
        canvas.text(left + x + _PAD, y + _BOX_HEIGHT / 2, text, size=_SIZE, color=ink_on(ground))
    # The labels of the ends reach a little beyond the bar.
    bar_left = left + round(1.5 * style.small)
    draw_flat_bar(canvas, bar_left, top + text_height + style.gap // 2, _BAR_LENGTH, shown, colors, style)
    return canvas.finish()


def ink_on(ground: npt.NDArray[np.uint8]) -> str:
    """Dark or white letters, whichever stand out more on an RGB ground (WCAG 2.2, contrast ratio)."""
    coded = ground.astype(np.float64) / 255.0
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    dark = 0.0165  # of INK
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / (dark + 0.05) else INK
