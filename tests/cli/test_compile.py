"""``onnxplain compile``: what it writes runs, and says what it takes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import WEIGHTS, call, refused, saved, table_model


def test_a_file_that_runs(tmp_path: Path) -> None:
    net = saved(table_model(), tmp_path / "net.onnx")
    out = tmp_path / "e.onnx"
    result = call("compile", net, "-m", "gradient", "-O", "reduction=sum", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "target int64[N]" in result.stdout
    assert "attribution float[N, 4]" in result.stdout
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = session.run(["attribution"], {"x": np.ones((2, 4), np.float32), "target": np.array([0, 2])})[0]
    np.testing.assert_array_equal(found, WEIGHTS.T[[0, 2]])


def test_json_and_a_fixed_target(tmp_path: Path) -> None:
    net = saved(table_model(), tmp_path / "net.onnx")
    result = call(
        "compile", net, "-m", "gradient", "-t", "1", "-o", tmp_path / "e.onnx", "--weights", "shared", "--json"
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["inputs"] == ["x float[N, 4]"]
    assert document["bytes"] == (tmp_path / "e.onnx").stat().st_size
    assert [v.name for v in onnx.load(tmp_path / "e.onnx").graph.input] == ["x"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["-o", "e.txt"], "ends in .onnx"),
        (["-o", "e.onnx", "-m", "nonlinear_saliency"], "cannot be written as a file: it searches"),
        (["-o", "e.onnx", "-m", "gradient", "-t", "cat"], "target 'cat'"),
        (["-o", "e.onnx", "-m", "gradient", "-t", "7"], "out of range"),
        (["-o", "e.onnx", "-m", "gradient", "--weights", "here"], "choose one of embedded"),
        (["-o", "no/e.onnx", "-m", "gradient"], "cannot write"),
        (["-o", "e.onnx", "-m", "gradient", "--profile", "gpu"], "choose one of cpu, cuda"),
        (["-o", "e.onnx", "-m", "gradient", "--opset", "17"], "only brought upwards"),
        (["-o", "e.onnx", "-m", "gradient", "--opset", "23"], "loads no file above opset 21"),
        (["-o", "e.onnx", "-m", "smoothgrad", "--points", "many"], "points='many'"),
    ],
)
def test_bad_requests(tmp_path: Path, given: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = saved(table_model(), tmp_path / "net.onnx")
    assert words in refused("compile", net, *given)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_profile_says_what_falls_back(tmp_path: Path) -> None:
    net = saved(table_model(), tmp_path / "net.onnx")
    out = tmp_path / "e.onnx"
    result = call("compile", net, "-m", "gradient", "-o", out, "--profile", "web", "--opset", "20")
    assert result.exit_code == 0, result.stderr
    assert "no operator falls back" in result.stdout
    assert "docs/webgpu-operators.md" in result.stdout
    assert onnx.load(out).opset_import[0].version == 20
    result = call("compile", net, "-m", "gradient", "-o", out, "--profile", "coreml", "--json")
    document = json.loads(result.stdout)
    assert document["profile"] == "coreml"
    assert {"Less", "Where", "OneHot"} <= {f["operator"] for f in document["fallbacks"]}


def test_points_side_by_side_or_in_a_loop(tmp_path: Path) -> None:
    net = saved(table_model(), tmp_path / "net.onnx")
    out = tmp_path / "e.onnx"
    for points, loops in (("auto", 0), ("loop", 1), ("3", 0)):
        result = call("compile", net, "-m", "smoothgrad", "-O", "draws=6", "-o", out, "--points", points)
        assert result.exit_code == 0, result.stderr
        assert [n.op_type for n in onnx.load(out).graph.node].count("Loop") == loops
