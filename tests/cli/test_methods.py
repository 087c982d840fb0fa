"""`onnxplain methods`: the registry as a table, and what each option means."""

from __future__ import annotations

import json

import pytest
from command_line import call, refused

import onnxplain
from onnxplain.cli.literals import value_of
from onnxplain.cli.methods import literal, meanings
from onnxplain.engine.method import METHODS

NAMES = [entry["name"] for entry in onnxplain.methods()]


def test_all_methods_are_listed() -> None:
    result = call("methods")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in NAMES)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_json() -> None:
    listed = json.loads(call("methods", "--json").stdout)
    assert [entry["name"] for entry in listed] == NAMES
    assert next(entry for entry in listed if entry["name"] == "fullgrad")["options"]["rescale"] == "minmax"
    (one,) = json.loads(call("methods", "integrated_gradients", "--json").stdout)
    assert one["options"]["steps"] == 50


@pytest.mark.parametrize("name", NAMES)
def test_one_method_with_the_meaning_of_every_option(name: str) -> None:
    result = call("methods", name)
    assert result.exit_code == 0
    entry = next(entry for entry in onnxplain.methods() if entry["name"] == name)
    words = meanings(METHODS.get(name).__doc__ or "")
    for option, default in entry["options"].items():
        assert option in result.stdout
        assert words.get(option), f"{name}: {option} is not explained"
        shown = value_of(literal(default))
        assert (tuple(shown) if isinstance(shown, list) else shown) == default


def test_meanings_are_read_from_the_docstring() -> None:
    text = """A method.

    Args:
        one, two: What both
            mean; see :mod:`some.module`.
        three: ``x`` or ``y``.

    More text: not an option.
    """
    both = "What both mean; see some.module."
    assert meanings(text) == {"one": both, "two": both, "three": "x or y."}
    assert meanings("No options here.") == {}


def test_unknown_method() -> None:
    assert "did you mean fullgrad" in refused("methods", "fulgrad")
