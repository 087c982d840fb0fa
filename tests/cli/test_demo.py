"""`onnxplain demo`: a first result from what ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call, listing, refused

from onnxplain.cli.demo import METHODS
from onnxplain.engine.render.png import read_text
from onnxplain.models import demo_samples


def test_prints_every_picture_and_writes_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("demo", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    for sample in demo_samples():
        assert f"{sample.class_index} {sample.class_name}" in result.stdout
    assert "NOT OK" not in result.stdout
    assert "next: onnxplain check" in result.stdout
    assert list(listing(tmp_path)) == ["onnxplain-demo.png"]
    entries = json.loads(read_text((tmp_path / "onnxplain-demo.png").read_bytes())["onnxplain"])
    assert {entry["method"] for entry in entries} == set(METHODS)
    assert len(entries) == len(METHODS) * len(demo_samples())


def test_elsewhere_with_one_method(tmp_path: Path) -> None:
    out = tmp_path / "d.png"
    found = json.loads(call("demo", "-m", "gradient", "-o", out, "--json", "--threads", 1).stdout)
    assert [entry["method"] for entry in found["methods"]] == ["gradient"]
    assert found["written"] == [str(out)]
    assert out.is_file()


def test_quiet(tmp_path: Path) -> None:
    result = call("demo", "-q", "-m", "gradient", "-o", tmp_path / "d.png", "--threads", 1)
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_missing_folder_and_an_unknown_method(tmp_path: Path) -> None:
    assert "there is no folder" in refused("demo", "-o", tmp_path / "none" / "d.png")
    assert "unknown method" in refused("demo", "-m", "none", "-o", tmp_path / "d.png")
    assert listing(tmp_path) == {}
