"""Every card that ships reads, says what it is and where its numbers come from, and names files that exist."""

from __future__ import annotations

import tomllib

import pytest

from onnxplain.engine.cards import load_card
from onnxplain.engine.errors import OptionError
from onnxplain.engine.inputs import read_labels
from onnxplain.models import card_path, cards

EXPECTED = {"imagenet", "imagenet-tf", "efficientnet-lite", "raw", "unit", "keras-caffe", "clip", "vit", "digits"}


def test_the_promised_names_are_there() -> None:
    assert set(cards()) >= EXPECTED
    assert list(cards()) == sorted(cards())


@pytest.mark.parametrize("name", sorted(cards()))
def test_card(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert 20 < len(card.description) < 120
    assert "\n" not in card.description
    assert card.source
    if card.labels:
        assert read_labels(card.labels)
    stated = tomllib.loads(card_path(name).read_text(encoding="utf-8"))["preprocess"]
    # what decides the numbers is written down in the card itself, not left to a default
    assert {"scale", "layout", "channel_order"} <= set(stated)
    assert card.preprocessing.size is None or {"size", "resize", "interpolation"} <= set(stated)


def test_unknown_card() -> None:
    with pytest.raises(OptionError, match="unknown preset 'image-net'; did you mean imagenet"):
        card_path("image-net")
