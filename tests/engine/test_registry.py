"""The registry: found by being there, refused twice, helpful where a name is wrong."""

from __future__ import annotations

from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from onnxplain.engine import discover as module
from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import METHODS
from onnxplain.engine.registry import Registry


@pytest.fixture
def empty() -> Registry[int]:
    return Registry("thing", "onnxplain.engine.session", "onnxplain.things")


def test_names_are_sorted_and_entries_found(empty: Registry[int]) -> None:
    empty.add("b", 2)
    assert empty.register("a")(1) == 1
    assert empty.names() == ["a", "b"]
    assert list(empty) == [("a", 1), ("b", 2)]
    assert empty.get("b") == 2


def test_a_second_entry_of_a_name_is_an_error_naming_both(empty: Registry[int]) -> None:
    empty.add("a", 1)
    with pytest.raises(ValueError, match="thing 'a' is registered twice: 1 and 2"):
        empty.add("a", 2)


@pytest.mark.parametrize(
    ("asked", "offered"), [("gradeint", "gradient"), ("integrated_gradient", "integrated_gradients")]
)
def test_unknown_name_offers_the_nearest(asked: str, offered: str) -> None:
    with pytest.raises(OptionError, match=f"unknown method '{asked}'; did you mean .*{offered}"):
        METHODS.get(asked)


def test_unknown_name_far_from_all_offers_all(empty: Registry[int]) -> None:
    empty.add("a", 1)
    empty.add("b", 2)
    with pytest.raises(OptionError, match="did you mean a, b"):
        empty.get("zzzzzz")


def test_what_is_no_name_is_unknown_too(empty: Registry[int]) -> None:
    empty.add("a", 1)
    with pytest.raises(OptionError, match="unknown thing '3'"):
        empty.get(3)  # type: ignore[arg-type]


def test_plug_ins_are_loaded_once_and_only_on_use(monkeypatch: pytest.MonkeyPatch) -> None:
    empty: Registry[int] = Registry("thing", "onnxplain.engine.session", "onnxplain.things_of_a_plug_in")
    loaded: list[str] = []

    def points(*, group: str) -> list[Any]:
        assert group == "onnxplain.things_of_a_plug_in"
        return [SimpleNamespace(name="plug-in", load=lambda: loaded.append("plug-in") or empty.add("plugged", 7))]

    assert module.entry_points is metadata.entry_points
    monkeypatch.setattr(module, "entry_points", points)
    assert loaded == []
    assert empty.get("plugged") == 7
    assert empty.names() == ["plugged"]
    assert loaded == ["plug-in"]
