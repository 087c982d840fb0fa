"""``onnxplain compare`` with two ``.onnx`` files: drift, thresholds, exit codes, the picture of the worst samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import WEIGHTS, array, call, picture, picture_model, refused, saved, table_model
from onnx import numpy_helper

DECLARED = '{"size": [6, 6], "scale": "1/255"}'


def perturbed(proto: onnx.ModelProto, size: float) -> onnx.ModelProto:
    """The model with noise on all weights, as large as so many of their deviations."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    rng = np.random.default_rng(7)
    for tensor in made.graph.initializer:
        old = numpy_helper.to_array(tensor)
        fresh = old + (size * old.std() * rng.standard_normal(old.shape)).astype(old.dtype)
        tensor.CopyFrom(numpy_helper.from_array(fresh, tensor.name))
    return made


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two builds of a net on pictures, and a folder of four of them."""
    source = picture_model(preprocess=DECLARED)
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        picture(tmp_path / "pictures" / f"{i}.png", seed=i)
    builds = [saved(p, tmp_path / f"{n}.onnx") for n, p in (("a", source), ("b", perturbed(source, 0.1)))]
    return builds[0], builds[1], tmp_path / "pictures"


def document(*arguments: object, code: int = 0) -> Any:
    result = call("compare", *arguments, "--json", "--threads", "1")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def test_a_build_and_itself_pass(two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, _, data = two
    found = document(a, a, data, "--threshold", "cosine=0.99", "--threshold", "flips=0", "-o", tmp_path / "c.json")
    assert found["ok"] and found["breaches"] == [] and found["samples"] == 4
    assert [m["method"] for m in found["methods"]] == ["input_x_gradient", "fullgrad"]
    assert json.loads((tmp_path / "c.json").read_text())["flips"] == 0


def test_past_a_threshold_is_exit_code_1(two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, data = two
    given = [a, b, data, "-m", "gradient", "-o", tmp_path / "worst.png"]
    found = document(*given, "--threshold", "cosine=0.999", "--threshold", "mean.cosine=0.5", code=1)
    assert len(found["breaches"]) == 1 and "gradient: cosine is" in found["breaches"][0]
    likeness = [row["cosine"] for row in found["worst_first"]]
    assert likeness == sorted(likeness) and 0.5 < likeness[0] < 0.999
    assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")
    result = call("compare", *given, "--threshold", "cosine=0.999", "--threads", "1")
    assert result.exit_code == 1
    assert "no: gradient: cosine is" in result.stdout and "0 of 4 flipped" in result.stdout


def test_without_a_threshold_nothing_fails(two: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, data = two
    monkeypatch.chdir(data.parent)
    found = document(a, b, data, "--limit", "2")
    assert found["samples"] == 2 and found["written"] == ["comparison.png"]


def test_tables_have_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = saved(table_model(), tmp_path / "a.onnx"), saved(perturbed(table_model(), 0.1), tmp_path / "b.onnx")
    x = array(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    found = document(a, b, x, "-m", "gradient")
    assert found["written"] == []
    moved = numpy_helper.to_array(perturbed(table_model(), 0.1).graph.initializer[0])
    for row in found["worst_first"]:
        p, q = WEIGHTS[:, row["class_a"]], moved[:, row["class_a"]]
        assert row["cosine"] == pytest.approx(p @ q / np.linalg.norm(p) / np.linalg.norm(q), abs=1e-5)
    document(a, b, x, "-m", "gradient", "-o", tmp_path / "c.csv")
    assert len(list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))) == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--threshold", "cosine"], "cosine=0.9"),
        (["--threshold", "angle=1"], "no threshold 'angle'"),
        (["-x", "gradient"], "for one model"),
        (["--target", "1"], "for one model"),
        (["-m", "gradiant"], "gradiant"),
        (["-o", "c.npz"], "no known form"),
    ],
)
def test_bad_requests(two: tuple[Path, Path, Path], given: list[str], words: str) -> None:
    assert words in refused("compare", *two, *given)


def test_two_builds_alone_and_one_build_with_a_threshold(two: tuple[Path, Path, Path]) -> None:
    a, b, data = two
    assert "two builds need samples" in refused("compare", a, b)
    assert "second .onnx file" in refused("compare", a, data / "0.png", "--threshold", "cosine=0.9")
