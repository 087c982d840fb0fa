"""``onnxplain report``: one file, and what is wrong with a request."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call, refused, saved
from tiny_models import fullgrad_net


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(fullgrad_net()[0], tmp_path / "net.onnx")
    x = np.random.default_rng(0).normal(size=(6, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(6, np.int64))
    return tmp_path


def test_one_file(folder: Path) -> None:
    page = folder / "r.html"
    result = call(
        "report", folder / "net.onnx", folder / "data.npz", "-m", "gradient", "-m", "random", "-M", "sparseness", "-o",
        page, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["bytes"] == page.stat().st_size
    assert set(document["verdicts"]) == {"gradient", "random"}
    assert {row["metric"] for row in document["metrics"]} == {"sparseness"}
    assert [(row["method"], row["other"]) for row in document["agreement"]] == [("gradient", "random")]
    assert -1 <= document["agreement"][0]["spearman"] <= 1
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "Agreement</h2>" in page.read_text(encoding="utf-8")
    assert sorted(p.name for p in folder.iterdir()) == ["data.npz", "net.onnx", "r.html"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["-o", "r.pdf"], "ends in .html"),
        (["-m", "gradcan"], "gradcan"),
        (["-M", "deletions"], "deletion"),
    ],
)
def test_bad_requests(folder: Path, given: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert words in refused("report", folder / "net.onnx", folder / "data.npz", *given)
    assert not list(folder.glob("*.html"))
