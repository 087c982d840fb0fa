"""Where a declared preprocessing comes from: a shipped card, a user's TOML card, the model's metadata, single knobs.

Precedence, strongest first: single knobs, then the card that was named, then the model's own metadata. Nothing
declared is nothing done: :func:`resolve` then returns None and never falls back to a likely guess. Guarantee: a
misspelt name, key or value is refused with the place where it stands, never ignored.

A card is a TOML file::

    description = "one line"
    source = "where the numbers come from"
    labels = "classes.txt"          # optional, beside the card

    [preprocess]
    preset = "imagenet"             # optional: start from a shipped card
    size = [224, 224]
    scale = "1/255"                 # a number, or a fraction as text
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import OptionError
from onnxplain.engine.preprocessing import Preprocessing
from onnxplain.models import cards as shipped_cards

PREPROCESS_KEY = "onnxplain.preprocess"
CARD_KEYS = ("description", "source", "labels", "preprocess")


@dataclass(frozen=True)
class Card:
    """One declared preprocessing with its origin.

    Args:
        name: File name without ``.toml``.
        description: One line.
        source: Where the numbers come from.
        labels: File of class names, or None.
        preprocessing: The numbers.
    """

    name: str
    description: str
    source: str
    labels: Path | None
    preprocessing: Preprocessing


def _number(value: Any) -> float:
    """A number, or text holding one or a fraction: ``1/255``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    if isinstance(value, str) and "/" in value:
        above, below = value.split("/")
        return float(above) / float(below)
    return float(value)


def _numbers(value: Any) -> tuple[float, ...]:
    """One number or several: a list, or text separated by commas."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, (list, tuple)):
        return tuple(_number(item) for item in value)
    return (_number(value),)


def _integer(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _size(value: Any) -> tuple[int, int] | None:
    """224, [224, 192], "224x192" or "224,192" (height first); "original" keeps the picture's own size."""
    if isinstance(value, str):
        if value == "original":
            return None
        value = value.lower().replace("x", ",").split(",")
    items = [_integer(item) for item in value] if isinstance(value, (list, tuple)) else [_integer(value)]
    if len(items) not in (1, 2):
        raise ValueError
    return items[0], items[-1]


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    named = {"true": True, "yes": True, "false": False, "no": False}
    if not isinstance(value, str) or value.lower() not in named:
        raise ValueError
    return named[value.lower()]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _lower(value: Any) -> str:
    return _text(value).lower()


def _upper(value: Any) -> str:
    return _text(value).upper()


READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "size": (_size, "height and width such as [224, 224], one side, or 'original'"),
    "resize": (_lower, "a name"),
    "crop_ratio": (_number, "a number or a fraction such as '224/256'"),
    "interpolation": (_lower, "a name"),
    "antialias": (_flag, "true or false"),
    "pad": (_integer, "a whole number"),
    "scale": (_number, "a number or a fraction such as '1/255'"),
    "mean": (_numbers, "one number or a list of three"),
    "std": (_numbers, "one number or a list of three"),
    "layout": (_upper, "NCHW or NHWC"),
    "channel_order": (_upper, "RGB, BGR or GRAY"),
    "dtype": (_lower, "a name"),
    "invert": (_flag, "true or false"),
}


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return ", ".join(difflib.get_close_matches(name, names, n=3) or names)


def from_mapping(values: Mapping[str, Any], where: str, base: Preprocessing | None = None) -> Preprocessing:
    """Read the fields of a :class:`Preprocessing` as TOML, JSON or a command line give them.

    Args:
        values: Field name -> value; text forms are understood (``"1/255"``, ``"224x224"``, ``"0.5,0.5,0.5"``). The key
            ``preset`` names a shipped card to start from.
        where: What to call the place in messages.
        base: What the values change; a plain :class:`Preprocessing` by default.

    Raises:
        OptionError: Unknown key, or a value that cannot be read or does not fit; the message names the key.
    """
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key == "preset":
            continue
        if key not in READERS:
            raise OptionError(f"{where}: unknown key '{key}'; did you mean {_near(key, [*READERS, 'preset'])}?")
        reader, wanted = READERS[key]
        try:
            fields[key] = reader(value)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise OptionError(f"{where}: '{key}' is {value!r}; give {wanted}") from None
    if "preset" in values:
        if not isinstance(values["preset"], str):
            raise OptionError(f"{where}: 'preset' is {values['preset']!r}; give the name of a preset")
        base = load_card(values["preset"]).preprocessing
    try:
        return dataclasses.replace(base or Preprocessing(), **fields)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def read_card(path: Path) -> Card:
    """Read one TOML card.

    Raises:
        OptionError: The file cannot be read, is no TOML, or has an unknown or misshapen key, which the message names.
    """
    where = f"card '{path}'"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{where} cannot be read ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError:
        raise OptionError(f"{where} is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{where} is not valid TOML: {error}; correct that line") from None
    for key in content:
        if key not in CARD_KEYS:
            hint = f"write it under [preprocess] as '{key}'" if key in READERS else f"use {', '.join(CARD_KEYS)}"
            raise OptionError(f"{where}: unknown key '{key}'; {hint}")
    texts = {key: content.get(key, "") for key in ("description", "source", "labels")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise OptionError(f"{where}: '{key}' is {value!r}; give text")
    if not isinstance(content.get("preprocess"), dict):
        raise OptionError(
            f"{where}: the table [preprocess] is missing; add it with size, scale, mean, std, layout, ..."
        )
    return Card(
        name=path.stem,
        description=texts["description"],
        source=texts["source"],
        labels=path.parent / texts["labels"] if texts["labels"] else None,
        preprocessing=from_mapping(content["preprocess"], where),
    )


def load_card(preset: str | Path) -> Card:
    """A shipped card by name, or a user's card by path (ends in ``.toml``, or has a folder in it).

    Raises:
        OptionError: No such preset (the message offers the nearest names), or a bad card.
    """
    known = shipped_cards()
    if isinstance(preset, str) and preset in known:
        return read_card(known[preset])
    path = Path(preset)
    if path.suffix.lower() == ".toml" or len(path.parts) > 1:
        return read_card(path)
    raise OptionError(
        f"unknown preset '{preset}'; did you mean {_near(str(preset), known)}? A card of your own ends in .toml"
    )


def from_metadata(metadata: Mapping[str, str]) -> Preprocessing | None:
    """What the model itself declares under ``onnxplain.preprocess`` (a JSON object), or None.

    Raises:
        OptionError: The entry is no JSON object or holds a wrong key or value.
    """
    text = metadata.get(PREPROCESS_KEY)
    if text is None:
        return None
    where = f"model metadata '{PREPROCESS_KEY}'"
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"{where} is not valid JSON ({error}); name a preset instead, or correct the model") from None
    if not isinstance(values, dict):
        raise OptionError(f"{where} is {text!r}, not a JSON object; name a preset instead, or correct the model")
    return from_mapping(values, where)


def resolve(
    preset: str | Path | None = None,
    knobs: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Preprocessing | None:
    """The preprocessing that was declared, or None when none was.

    Args:
        preset: Name of a shipped card, or path of a TOML card; takes the place of the model's metadata.
        knobs: Single fields that override the rest; a value of None counts as not given.
        metadata: ``metadata_props`` of the model.

    Raises:
        OptionError: Unknown name, key or value; or knobs alone that do not say ``scale``, without which nobody
            can know whether mean and std are meant for 0..1 or for 0..255.
    """
    given = {key: value for key, value in (knobs or {}).items() if value is not None}
    base = load_card(preset).preprocessing if preset is not None else from_metadata(metadata or {})
    if not given:
        return base
    if base is None and "preset" not in given and "scale" not in given:
        raise OptionError(
            "single preprocessing options without a preset leave the pixel range open; "
            "add scale=1/255 (pixels in 0..1) or scale=1 (0..255), or name a preset"
        )
    return from_mapping(given, "preprocessing options", base)
