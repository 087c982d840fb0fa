"""`onnxplain operators`: the generated table, filtered by name."""

from __future__ import annotations

import json

from command_line import call

import onnxplain


def test_all_operators_are_listed() -> None:
    result = call("operators")
    assert result.exit_code == 0
    lines = [line.split()[0] for line in result.stdout.splitlines() if line and line[0].isalpha()]
    for entry in onnxplain.operators():
        assert entry["operator"] in lines
        assert entry["domain"] in lines, "each domain has a table of its own"


def test_a_part_of_the_name_filters_in_any_case() -> None:
    shown = json.loads(call("operators", "POOL", "--json").stdout)
    assert {"MaxPool", "AveragePool", "GlobalAveragePool"} <= {entry["operator"] for entry in shown}
    assert all("pool" in entry["operator"].lower() for entry in shown)


def test_flat_operators_say_so_with_a_remedy() -> None:
    result = call("operators", "Round")
    assert "zero" in result.stdout
    (entry,) = json.loads(call("operators", "Round", "--json").stdout)
    assert (entry["gradient"], entry["bias"]) == ("zero", False)


def test_versions_and_refusals_with_their_reasons() -> None:
    result = call("operators", "Resize")
    assert "10 11 13 18 19" in result.stdout
    text = " ".join(result.stdout.split())
    assert "its region of interest depends" in text
    assert "tags the region of interest as not differentiable" in text
    (entry,) = json.loads(call("operators", "Resize", "--json").stdout)
    assert [refusal["reason"] for refusal in entry["refused"]]
    assert "refused" not in call("operators", "LeakyRelu").stdout
    assert "10..19" in call("operators").stdout


def test_no_match_is_a_no() -> None:
    result = call("operators", "Convolve")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Convolve" in result.stderr
    assert json.loads(call("operators", "Convolve", "--json").stdout) == []
