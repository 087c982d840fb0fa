"""`onnxplain metrics`: the registry as a table, and what each option means."""

from __future__ import annotations

import json

import pytest
from command_line import call, refused

import onnxplain
from onnxplain.cli.methods import meanings
from onnxplain.engine.evaluation.metric import METRICS, create_metric

ENTRIES = {entry["name"]: entry for entry in onnxplain.metrics()}


def test_all_metrics_are_listed() -> None:
    result = call("metrics")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ENTRIES)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_metrics_that_are_promised() -> None:
    promised = """pixel_perturbation insertion deletion road sensitivity_n infidelity max_sensitivity completeness_error
        faithfulness_correlation mu_fidelity mif_lif aopc pointing_game energy_localisation sparseness complexity
        agreement time memory"""
    assert set(promised.split()) <= set(ENTRIES)


def test_json() -> None:
    assert [entry["name"] for entry in json.loads(call("metrics", "--json").stdout)] == list(ENTRIES)
    (one,) = json.loads(call("metrics", "sensitivity_n", "--json").stdout)
    assert one["better"] == "higher" and one["options"]["subsets"] == 100


@pytest.mark.parametrize("name", ENTRIES)
def test_one_metric_with_the_meaning_of_every_option(name: str) -> None:
    result = call("metrics", name)
    assert result.exit_code == 0
    words = meanings(METRICS.get(name).__doc__ or "")
    assert ENTRIES[name]["summary"] and ENTRIES[name]["source"]
    assert create_metric(name).options() == ENTRIES[name]["options"]
    for option in ENTRIES[name]["options"]:
        assert option in result.stdout
        assert words.get(option), f"{name}: {option} is not explained"


def test_unknown_metric() -> None:
    assert "did you mean" in refused("metrics", "pixel_pertubation")
