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
        domain = "" if entry["domain"] == "ai.onnx" else f"{entry['domain']}::"
        assert domain + entry["operator"] in lines


def test_a_part_of_the_name_filters_in_any_case() -> None:
    shown = json.loads(call("operators", "POOL", "--json").stdout)
    assert {"MaxPool", "AveragePool", "GlobalAveragePool"} <= {entry["operator"] for entry in shown}
    assert all("pool" in entry["operator"].lower() for entry in shown)


def test_flat_operators_say_so_with_a_remedy() -> None:
    result = call("operators", "Round")
    assert "zero" in result.stdout
    (entry,) = json.loads(call("operators", "Round", "--json").stdout)
    assert (entry["gradient"], entry["bias"]) == ("zero", False)


def test_no_match_is_a_no() -> None:
    result = call("operators", "Convolve")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Convolve" in result.stderr
    assert json.loads(call("operators", "Convolve", "--json").stdout) == []
