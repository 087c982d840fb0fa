"""``onnxplain verify``: a table that says why, one JSON document, and an exit code that a pipeline can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import array, call, refused, saved, table_model, two_inputs
from custom_operators import CUBE, DOMAIN, X, net
from tiny_models import model, node

from onnxplain import rules
from onnxplain.models import demo_model, demo_samples


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    with rules.temporary():
        yield


@pytest.fixture
def wrong(tmp_path: Path) -> list[object]:
    """A model with a plug-in's rule that is wrong, and its data."""
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [op.Mul(dy, node.y)])
    rules.result_like("Cube", domain=DOMAIN)
    return [saved(net("Cube", CUBE), tmp_path / "m.onnx"), array(tmp_path / "x.npy", X)]


def test_pictures_of_the_demo() -> None:
    result = call("verify", demo_model(), demo_samples()[0].path, demo_samples()[1].path, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "verified: the gradient is the derivative here" in result.stdout
    assert result.stdout.count("pass") == 7
    assert "provider reference" in result.stdout


def test_a_wrong_rule(wrong: list[object]) -> None:
    result = call("verify", *wrong, "--threads", 1)
    assert result.exit_code == 1
    assert "fail" in result.stdout
    assert "'the_strange_one'" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1].startswith("no: failed: gradient")


def test_json(wrong: list[object]) -> None:
    result = call("verify", *wrong, "--threads", 1, "--json", "--target", 1, "--seed", 3, "--directions", 4)
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["ok"] is False
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["gradient in float64"]["nodes"][0]["node"] == "the_strange_one"
    assert rows["gradient in float64"]["figures"]["directions"] == 4
    assert document["provenance"]["target"] == [1, 1, 1]
    assert document["provenance"]["seed"] == 3


def test_quiet_is_the_exit_code_alone(wrong: list[object], tmp_path: Path) -> None:
    result = call("verify", *wrong, "--quiet", "--threads", 1)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")
    good = saved(table_model(), tmp_path / "good.onnx")
    assert call("verify", good, array(tmp_path / "t.npy", np.ones((2, 4), np.float32)), "-q").exit_code == 0


def test_what_shows_nothing_is_not_verified(tmp_path: Path) -> None:
    flat = model([node("Relu", "x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    result = call("verify", saved(flat, tmp_path / "m.onnx"), array(tmp_path / "x.npy", -np.ones((2, 3), np.float32)))
    assert result.exit_code == 1
    assert "no: too little could be shown" in result.stdout


def test_several_inputs_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, first=np.ones((2, 3), np.float32), second=np.ones((2, 3), np.float32))
    assert call("verify", saved(two_inputs(), tmp_path / "m.onnx"), path, "--target", 0).exit_code == 0


def bad_requests(folder: Path) -> list[tuple[list[Any], str]]:
    table = saved(table_model(), folder / "t.onnx")
    x = array(folder / "x.npy", np.ones((2, 4), np.float32))
    strange = saved(net("Mystery"), folder / "strange.onnx")
    return [
        ([folder / "none.onnx", x], "no such file"),
        ([table, folder / "none.npy"], "does not exist"),
        ([table, x, "--target", 9], "out of range"),
        ([table, x, "--target", "top:2"], "one target at a time"),
        ([table, x, "--directions", 1], "directions"),
        ([table, x, "--seconds", 0], "seconds"),
        ([table, x, "--custom-ops", folder / "none.so"], "does not exist"),
        ([table, x, "--provider", "abacus"], "abacus"),
        ([strange, array(folder / "s.npy", X)], "the_strange_one"),
    ]


@pytest.mark.parametrize("which", range(9))
def test_bad_requests(which: int, tmp_path: Path) -> None:
    arguments, words = bad_requests(tmp_path)[which]
    assert words in refused("verify", *arguments)


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    """onnxruntime refuses it; the user reads which file it was."""
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [dy])
    rules.homogeneous(1, "Cube", domain=DOMAIN)
    (tmp_path / "lib.so").write_text("nothing")
    model_path, x = saved(net("Cube"), tmp_path / "m.onnx"), array(tmp_path / "x.npy", X)
    for command in ("verify", "explain"):
        assert "lib.so" in refused(command, model_path, x, "--custom-ops", tmp_path / "lib.so")


def test_a_library_of_operators(tmp_path: Path) -> None:
    extensions = pytest.importorskip("onnxruntime_extensions", reason="needs onnxruntime-extensions (extra test)")

    @rules.gradient("NegPos", domain="ai.onnx.contrib")
    def negpos(op: Any, node: Any, negative: Any, positive: Any) -> list[Any]:
        gate = op.Sign(node.outputs[1])
        parts = [
            p for p in (negative and op.Mul(negative, op.Sub(1.0, gate)), positive and op.Mul(positive, gate)) if p
        ]
        return [parts[0] if len(parts) == 1 else op.Add(*parts)]

    rules.result_like("NegPos", domain="ai.onnx.contrib")
    rules.homogeneous(1, "NegPos", domain="ai.onnx.contrib")
    nodes = [node("MatMul", "x w", "z"), node("NegPos", "z", "n p", domain="ai.onnx.contrib"), node("Mul", "n n", "m"),
             node("Add", "m p", "y")]  # fmt: skip
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": np.random.default_rng(0).normal(size=(4, 3))},
                  domains=["ai.onnx.contrib"])  # fmt: skip
    path, x = saved(proto, tmp_path / "m.onnx"), array(tmp_path / "x.npy", X)
    assert "--custom-ops" in refused("explain", path, x)
    library = extensions.get_library_path()
    result = call("explain", path, x, "--custom-ops", library, "--strict", "--json")
    assert result.exit_code == 0, result.output
    result = call("verify", path, x, "--custom-ops", library, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["gradient"]["verdict"] == "pass"
    assert rows["provider reference"]["verdict"] == "undecided"  # the evaluator has no such operator
