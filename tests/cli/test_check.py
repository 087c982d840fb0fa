"""`onnxplain check`: the verdict is the exit code, and the table says why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attention_nets import attention_net
from command_line import array, call, refused, saved, table_model, token_model
from loop_nets import recurrent_net
from tiny_models import model, node

from onnxplain.models import demo_model


def obstructed(folder: Path) -> Path:
    odd = node("Mystery", "h", "g")
    odd.domain = "org.example"
    nodes = [node("Relu", "x", "h"), odd, node("Relu", "g", "y")]
    return saved(model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, domains=["org.example"]), folder / "odd.onnx")


def test_a_good_model() -> None:
    result = call("check", demo_model())
    assert result.exit_code == 0
    assert "ok: every operator on the way has a rule" in result.stdout
    for word in ("BatchNormalization", "MaxPool", "image: ", "opset 18", "logits"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_obstacle_is_named_and_the_answer_is_no(tmp_path: Path) -> None:
    result = call("check", obstructed(tmp_path))
    assert result.exit_code == 1
    assert "org.example::Mystery" in result.stdout
    assert "no: 1 node in the way of an explanation" in result.stdout
    assert result.stderr == ""


def test_json_is_the_report(tmp_path: Path) -> None:
    good, bad = call("check", demo_model(), "--json"), call("check", obstructed(tmp_path), "--json")
    assert (good.exit_code, bad.exit_code) == (0, 1)
    report = json.loads(good.stdout)
    assert report["ok"]
    assert report["wrt"] == ["image"]
    assert {entry["operator"]: entry["count"] for entry in report["operators"]}["BatchNormalization"] == 6
    (obstacle,) = json.loads(bad.stdout)["obstacles"]
    assert obstacle["operator"] == "org.example::Mystery"
    assert obstacle["remedy"]


@pytest.mark.parametrize("first", ["Identity", "Relu"])
def test_a_blocked_gradient_is_a_no(first: str, tmp_path: Path) -> None:
    """Also where nodes with rules stand before the one at which it ends."""
    nodes = [node(first, "x", "h"), node("Round", "h", "r"), node("MatMul", "r w", "y")]
    path = saved(model(nodes, {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "r.onnx")
    result = call("check", path)
    assert result.exit_code == 1
    assert "Round" in result.stdout
    assert "blocked" in refused("explain", path, array(tmp_path / "x.npy", np.ones((1, 2), np.float32)))


def test_quiet_leaves_the_exit_code(tmp_path: Path) -> None:
    result = call("check", obstructed(tmp_path), "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")


def test_tokens_start_at_their_embedding(tmp_path: Path) -> None:
    report = json.loads(call("check", saved(token_model(), tmp_path / "m.onnx"), "--json").stdout)
    assert (report["ok"], report["wrt"]) == (True, ["e"])


def test_unknown_output_and_tensor(tmp_path: Path) -> None:
    path = saved(table_model(), tmp_path / "m.onnx")
    assert "'z'" in refused("check", path, "--output", "z")
    assert "'z'" in refused("check", path, "--wrt", "z")


def test_a_provider_profile(tmp_path: Path) -> None:
    """What the file for it will leave to the CPU, beforehand; it is no obstacle."""
    result = call("check", demo_model(), "--provider-profile", "coreml", "-m", "gradient")
    assert result.exit_code == 0
    assert "falls back to the CPU: BatchNormalization x 6" in result.stdout
    assert "coreml_supported_mlprogram_ops.md" in result.stdout
    report = json.loads(call("check", demo_model(), "--provider-profile", "tensorrt", "--json").stdout)
    assert (report["profile"], report["fallbacks"]) == ("tensorrt", [])
    assert "profile 'gpu' is not known" in refused("check", demo_model(), "--provider-profile", "gpu")
    assert "it searches" in refused("check", demo_model(), "--provider-profile", "web", "-m", "nonlinear_saliency")


def test_samples_that_see_each_other(tmp_path: Path) -> None:
    """The sentence of `check` is that of `explain`."""
    path = saved(attention_net(), tmp_path / "steps_first.onnx")
    result = call("check", path)
    assert result.exit_code == 1
    assert "no: 1 node in the way of an explanation" in result.stdout
    said = refused("explain", path, array(tmp_path / "x.npy", np.ones((5, 3, 4), np.float32)))
    (obstacle,) = json.loads(call("check", path, "--json").stdout)["obstacles"]
    assert f"node '{obstacle['node']}' (Softmax): {obstacle['reason']}; {obstacle['remedy']}" in said


def test_one_method_and_all(tmp_path: Path) -> None:
    """Three samples in a Loop whose steps may be three: full-gradient terms cannot be given per sample."""
    path = saved(recurrent_net(("Loop",), 3), tmp_path / "three.onnx")
    general, asked = call("check", path), call("check", path, "--method", "fullgrad")
    assert (general.exit_code, asked.exit_code) == (0, 1)
    assert "no full-gradient terms at: " in general.stdout
    assert "not defined at the nodes named above" in " ".join(general.stdout.split())
    assert "in the way of fullgrad" in asked.stdout
    assert "'fullgrat'" in refused("check", path, "--method", "fullgrat")
