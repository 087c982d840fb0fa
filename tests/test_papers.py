"""The papers' recipes can be imported and started, and what they share decides and writes as it says."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "papers"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "common")


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    pytest.importorskip("scipy", reason="recipes need the extra 'evaluate'")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("common")
    for name in ("common", *RECIPES):  # their names are too plain to be left to other tests
        sys.modules.pop(name, None)


def request(common: ModuleType, out: Path) -> object:
    return common.Request(assets=out, pictures=None, limit=1, seed=7, out=out, begun=0.0)


def test_there_is_one_recipe_per_paper() -> None:
    assert RECIPES == [
        "fullgrad",
        "integrated_gradients",
        "nonlinear_saliency",
        "positive_gradients",
        "sensitivity_n",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_imported_without_running(
    name: str, common: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = importlib.import_module(name)
    assert callable(recipe.main)
    assert re.search(r"\d{4}\.\d{5}", recipe.__doc__ or ""), "a recipe names its paper"
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        recipe.main()
    assert stopped.value.code == 0
    assert "--pictures" in capsys.readouterr().out


def test_recipes_ask_for_methods_that_exist(common: ModuleType) -> None:
    import onnxplain as ox
    from onnxplain.engine.evaluation.reference import REFERENCES

    known = {m["name"] for m in ox.methods()} | set(REFERENCES)
    for name in ("fullgrad", "nonlinear_saliency", "sensitivity_n"):
        assert set(importlib.import_module(name).METHODS) <= known, name
    pairs = importlib.import_module("positive_gradients").PAIRS.values()
    assert {method for forms in pairs for method, _ in forms} <= known


def test_finish_writes_table_claims_and_numbers(
    common: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = {"up": True, "down": False, "sideways": None}
    common.finish(request(common, tmp_path), "x", ["a", "b"], [["one", 1 / 3]], claims, {"m": np.array([1.0, 2.0])})
    text = (tmp_path / "x.md").read_text()
    assert text == capsys.readouterr().out
    assert "| a | b |\n|---|---|\n| one | 0.333 |\n" in text
    assert "- up: **found again**\n- down: **NOT found again**\n- sideways: **cannot be told here**\n" in text
    assert "seed 7, " in text
    assert json.loads((tmp_path / "x.json").read_text()) == {"m": [1.0, 2.0]}


def test_figure_is_small(common: ModuleType, tmp_path: Path) -> None:
    x = np.arange(1.0, 5.0)
    panels = {f"panel {n}": {"line": (x, x**n)} for n in range(5)}
    common.figure(request(common, tmp_path), "x", panels, "across", "up", ("log", "linear"))
    data = (tmp_path / "x.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 40_000


def test_differences_decide_only_where_their_interval_leaves_zero_out(common: ModuleType) -> None:
    noise = np.random.default_rng(0).normal(size=400)
    noise -= noise.mean()
    assert common.decided(noise + 1) is True
    assert common.decided(noise - 1) is False
    assert common.decided(noise) is None
    assert common.decided(np.array([np.nan, 1.0, 1.0])) is True, "what is not defined does not count"
    assert common.decided(np.array([np.nan])) is None, "nothing is known"
    # Standard error of the mean of 400 normal draws: 0.05, so the interval is about +-0.098.
    low, high = common.interval(noise)
    assert -0.13 < low < -0.07
    assert 0.07 < high < 0.13
