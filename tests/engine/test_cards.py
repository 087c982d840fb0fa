"""Where a preprocessing comes from: precedence, the forms a value may take, and what every mistake is answered with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxplain.engine.cards import PREPROCESS_KEY, from_mapping, from_metadata, load_card, read_card, resolve
from onnxplain.engine.errors import OptionError
from onnxplain.engine.preprocessing import Preprocessing


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_declared_is_nothing() -> None:
    assert resolve() is None
    assert resolve(None, {"size": None}, {"other": "1"}) is None


def test_knobs_over_preset_over_metadata() -> None:
    metadata = {PREPROCESS_KEY: json.dumps({"size": 28, "scale": "1/255", "channel_order": "GRAY"})}
    own = resolve(None, None, metadata)
    assert own == Preprocessing(size=(28, 28), scale=1 / 255, channel_order="GRAY")
    named = resolve("imagenet", None, metadata)
    assert named == load_card("imagenet").preprocessing
    turned = resolve("imagenet", {"size": "192x160", "layout": "nhwc"}, metadata)
    assert turned is not None
    assert (turned.size, turned.layout, turned.mean) == ((192, 160), "NHWC", (0.485, 0.456, 0.406))
    over = resolve(None, {"size": "32"}, metadata)
    assert over is not None
    assert (over.size, over.channel_order) == ((32, 32), "GRAY")


def test_a_named_preset_hides_broken_metadata() -> None:
    assert resolve("unit", None, {PREPROCESS_KEY: "{"}) == load_card("unit").preprocessing


def test_knobs_alone_must_state_the_range() -> None:
    with pytest.raises(OptionError, match="scale=1/255"):
        resolve(None, {"mean": "0.5", "std": "0.5"})
    assert resolve(None, {"mean": "0.5", "std": "0.5", "scale": "1/255"}) == Preprocessing(
        scale=1 / 255, mean=(0.5,), std=(0.5,)
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("size", 224, (224, 224)),
        ("size", [224, 192], (224, 192)),
        ("size", "224,192", (224, 192)),
        ("size", "original", None),
        ("crop_ratio", "224/256", 0.875),
        ("scale", "1/255", 1 / 255),
        ("mean", "0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("std", [1, 2, 3], (1.0, 2.0, 3.0)),
        ("std", 2, (2.0,)),
        ("channel_order", "bgr", "BGR"),
        ("interpolation", "Bicubic", "bicubic"),
        ("antialias", "no", False),
        ("invert", True, True),
        ("pad", 114, 114),
    ],
)
def test_forms_of_a_value(key: str, value: object, expected: object) -> None:
    assert getattr(from_mapping({key: value}, "test"), key) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "big"),
        ("size", [1, 2, 3]),
        ("size", 22.5),
        ("size", True),
        ("scale", "1/0"),
        ("scale", "1/2/3"),
        ("scale", [1]),
        ("mean", "a,b"),
        ("mean", {}),
        ("layout", 3),
        ("layout", "HWC"),
        ("invert", "maybe"),
        ("pad", 1.5),
        ("crop_ratio", None),
    ],
)
def test_bad_values_name_place_and_key(key: str, value: object) -> None:
    with pytest.raises(OptionError, match=rf"^here: .*'{key}'"):
        from_mapping({key: value}, "here")


def test_unknown_key_offers_the_near_ones() -> None:
    with pytest.raises(OptionError, match=r"unknown key 'chanel_order'; did you mean channel_order"):
        from_mapping({"chanel_order": "RGB"}, "here")


def test_unknown_preset_offers_the_near_ones() -> None:
    with pytest.raises(OptionError, match=r"unknown preset 'imagnet'; did you mean imagenet"):
        resolve("imagnet")


def test_a_users_card(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'description = "d"\nsource = "s"\nlabels = "names.txt"\n[preprocess]\npreset = "imagenet"\nsize = 192\n',
    )
    card = read_card(path)
    assert (card.name, card.description, card.source, card.labels) == ("mine", "d", "s", tmp_path / "names.txt")
    expected = load_card("imagenet").preprocessing
    assert card.preprocessing == from_mapping({"size": 192}, "test", expected)
    assert resolve(path) == resolve(str(path)) == card.preprocessing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[preprocess\n", "not valid TOML"),
        ('description = "d"\n', r"table \[preprocess\] is missing"),
        ("size = 3\n[preprocess]\n", r"unknown key 'size'; write it under \[preprocess\]"),
        ("author = 3\n[preprocess]\n", "unknown key 'author'; use description"),
        ("labels = 3\n[preprocess]\n", "'labels' is 3"),
        ("[preprocess]\nmaen = 1\n", "unknown key 'maen'; did you mean mean"),
        ("[preprocess]\nstd = 0\n", "'std'"),
        ("[preprocess]\npreset = 3\n", "'preset' is 3"),
        ('[preprocess]\npreset = "nope"\n', "unknown preset 'nope'"),
    ],
)
def test_a_malformed_card(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_card(write(tmp_path, text))


def test_an_unreadable_card(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        resolve(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'description = "\xe9"\n')
    with pytest.raises(OptionError, match="UTF-8"):
        read_card(path)


@pytest.mark.parametrize("text", ["{", "[1]", '"imagenet"', '{"sise": 3}'])
def test_bad_metadata_names_its_key(text: str) -> None:
    with pytest.raises(OptionError, match=f"model metadata '{PREPROCESS_KEY}'"):
        from_metadata({PREPROCESS_KEY: text})
