"""Values as they stand on a command line."""

from __future__ import annotations

from typing import Any

import pytest

from onnxplain.cli.literals import options_of, rows_of, target_of, value_of
from onnxplain.engine.errors import InputError, OptionError, TargetError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50", 50),
        ("-3", -3),
        ("0.25", 0.25),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("abs", "abs"),
        ('"50"', "50"),
        ("[1, 2.5]", [1, 2.5]),
        ('["a", "b*"]', ["a", "b*"]),
        ("{steps = 20, baseline = 'mean'}", {"steps": 20, "baseline": "mean"}),
        ("noise:10", "noise:10"),
        ("1/255", "1/255"),
        ("2024-05-01", "2024-05-01"),
        ("1\nother = 2", "1\nother = 2"),
        ("", ""),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_options_go_to_the_methods_that_have_them() -> None:
    given = ["reduction=sum", "steps=9", "gradient.reduction=l2", "max-steps=10"]
    assert options_of(given, ["gradient", "integrated_gradients"]) == {
        "gradient": {"reduction": "l2"},
        "integrated_gradients": {"reduction": "sum", "steps": 9, "max_steps": 10},
    }


def test_options_inside_an_option() -> None:
    """Key by key, or as a table; both for a method by name and for whichever has the option."""
    table = {"inner": {"steps": 9, "baseline": "mean"}}
    by_key = ["smoothed.around=integrated_gradients", "smoothed.inner.steps=9", "inner.baseline=mean"]
    assert options_of(by_key, ["smoothed", "gradient"]) == {
        "smoothed": {"around": "integrated_gradients", **table},
        "gradient": {},
    }
    assert options_of(['inner={steps = 9, baseline = "mean"}'], ["smoothed"]) == {"smoothed": table}
    with pytest.raises(OptionError, match="sets a part of 'inner'"):
        options_of(["inner=3", "inner.steps=9"], ["smoothed"])
    with pytest.raises(OptionError, match="names the method 'fullgrad', which is not asked for"):
        options_of(["fullgrad.sign=pos"], ["smoothed"])


def test_options_that_nobody_has() -> None:
    with pytest.raises(OptionError, match="none of gradient, fullgrad has an option 'steps'"):
        options_of(["steps=3"], ["gradient", "fullgrad"])
    with pytest.raises(OptionError, match="unknown method"):
        options_of([], ["gradiant"])


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        (None, None, None),
        ("argmax", None, "argmax"),
        ("3", None, 3),
        ("1,2, 3", None, [1, 2, 3]),
        ("4,", None, [4]),
        ("Cat", ["dog", "cat"], 1),
        ("tench, Tinca tinca", ["goldfish", "tench, Tinca tinca"], 1),
        ("tinca tinca", ["goldfish", "tench, Tinca tinca"], 1),
        ("dog,cat,0", ["dog", "cat"], [0, 1, 0]),
        ("1", ["1", "0"], 1),
    ],
)
def test_targets(text: str | None, labels: list[str] | None, expected: Any) -> None:
    assert target_of(text, labels) == expected


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("cat", None, "--labels FILE"),
        ("cta", ["cat", "dog"], "did you mean 'cat'"),
        ("0,bird", ["cat", "dog"], "'bird'"),
        ("crane", ["crane, bird", "crane, machine"], "several classes"),
        ("", ["cat"], "neither"),
    ],
)
def test_targets_that_do_not_exist(text: str, labels: list[str] | None, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        target_of(text, labels)


@pytest.mark.parametrize(
    ("text", "rows"), [("3", [3]), ("0:3", [0, 1, 2]), (":2", [0, 1]), ("8:", [8, 9]), ("0,5,-1", [0, 5, 9])]
)
def test_rows(text: str, rows: list[int]) -> None:
    assert rows_of(text, 10) == rows


@pytest.mark.parametrize("text", ["10", "x", "1:2:3", "", "5:5"])
def test_rows_that_are_not_there(text: str) -> None:
    with pytest.raises(InputError, match="--rows"):
        rows_of(text, 10)


def test_targets_of_other_kinds() -> None:
    several = target_of("top:3", None)
    assert [t.value for t in several] == [0, 1, 2]
    assert target_of("rank:1", None).value == 1
    assert target_of("margin: dog, 0", ["cat", "dog"]).words == "margin of 1 over 0"
    assert target_of("top:3", ["cat", "top:3"]) == 1, "a label of that name comes first"
    for text in ("top:x", "margin:1", "margin:1,unicorn", "rank:-1"):
        with pytest.raises(TargetError, match="is not understood"):
            target_of(text, ["cat", "dog"])
