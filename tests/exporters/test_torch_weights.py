"""Checkpoints: every way in which training scripts write them, and what is said of those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, refused

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch import nn  # noqa: E402
from torch_nets import Residual, relative, session, settle  # noqa: E402

import onnxplain as ox  # noqa: E402
from onnxplain.engine.errors import ExportError, OptionError  # noqa: E402
from onnxplain.exporters.torch_weights import load_weights  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


class Tied(nn.Module):
    """One weight under two names, as language models have their embedding and their head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def prefixed(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in weights.items()}


WRITTEN = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"state": {}}},
    "model": lambda weights: {"model": weights, "step": torch.tensor(7)},
    "data parallel": lambda weights: prefixed(weights, "module."),
    "lightning, compiled": lambda weights: {"state_dict": prefixed(weights, "model._orig_mod.")},
    "old": lambda weights: {name: value for name, value in weights.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("how", WRITTEN)
def test_the_file_answers_as_the_trained_network(how: str, tmp_path: Path) -> None:
    trained, x = settle(Residual()), torch.randn(2, 3, 8, 8)
    torch.save(WRITTEN[how](trained.state_dict()), tmp_path / "net.pt")
    ox.export(Residual(), x, tmp_path / "m.onnx", weights=tmp_path / "net.pt")
    (answer,) = session(tmp_path / "m.onnx").run(None, {"image": x.numpy()})
    assert relative(answer, trained(x)) < 1e-5  # float32


def test_safetensors_and_shards(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    trained = settle(Residual()).state_dict()
    names = list(trained)
    safetensors.save_file(trained, tmp_path / "net.safetensors")
    halves = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, some in halves.items():
        safetensors.save_file({name: trained[name] for name in some}, tmp_path / file)
    index = tmp_path / "net.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, some in halves.items() for name in some}}))
    for path in (tmp_path / "net.safetensors", index):
        net = Residual()
        load_weights(net, path)
        for name, value in net.state_dict().items():
            assert torch.equal(value, trained[name]), name
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(ExportError, match="no file beside it"):
        load_weights(Residual(), index)
    (tmp_path / "net.safetensors").write_bytes(b"damaged")
    with pytest.raises(ExportError, match="is no safetensors file"):
        load_weights(Residual(), tmp_path / "net.safetensors")


def test_a_weight_with_two_names_is_stored_once(tmp_path: Path) -> None:
    trained = Tied()
    torch.save({"embed.weight": trained.embed.weight.detach()}, tmp_path / "net.pt")
    net = Tied()
    load_weights(net, tmp_path / "net.pt")
    assert torch.equal(net.head.weight, trained.head.weight)


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    weights = settle(Residual()).state_dict()
    del weights["conv1.weight"]
    weights["fc.bias"] = torch.zeros(3)
    weights["head.weight"] = torch.zeros(9, 6)
    torch.save(weights, tmp_path / "net.pt")
    net = Residual()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ExportError) as caught:
        load_weights(net, tmp_path / "net.pt")
    assert "1 missing: conv1.weight; 1 not the network's: fc.bias; 1 of another shape: head.weight" in str(caught.value)
    assert "(9x6 in the file, 4x6 in the network)" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Opens:
    """What a pickled file could run."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("onnxplain_was_run"),)


def test_no_file_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": settle(Residual()).state_dict(), "extra": Opens()}, "net.pt")
    with pytest.raises(ExportError, match="could run any code"):
        load_weights(Residual(), "net.pt")
    torch.save(Residual(), "whole.pt")
    with pytest.raises(ExportError, match="could run any code"):
        load_weights(Residual(), "whole.pt")
    assert not Path("onnxplain_was_run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [({"epoch": 3}, "it holds epoch"), ([1, 2], "holds a list"), ({}, "it holds nothing"), (None, "is no checkpoint")],
)
def test_files_without_weights(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(b"damaged") if content is None else torch.save(content, path)
    with pytest.raises(ExportError, match=words):
        load_weights(Residual(), path)
    with pytest.raises(ExportError, match="there is no checkpoint"):
        load_weights(Residual(), tmp_path / "none.pt")


def test_a_program_has_its_weights(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(Residual().eval(), (x,))
    with pytest.raises(OptionError, match="has its weights already"):
        ox.export(program, x, tmp_path / "m.onnx", weights=tmp_path / "net.pt")


SCRIPT = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
"""


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SCRIPT)
    trained = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "net.pt")
    source, out = f"{tmp_path / 'net.py'}:make", tmp_path / "m.onnx"
    result = call("export", source, "--weights", tmp_path / "net.pt", "--sample", "1x3", "-o", out)
    assert result.exit_code == 0, result.stderr
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    (answer,) = session(out).run(None, {"input": x})
    assert relative(answer, trained(torch.from_numpy(x))) < 1e-5  # float32
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "net.pt")
    message = refused("export", source, "--weights", tmp_path / "net.pt", "--sample", "1x3", "-o", tmp_path / "n.onnx")
    assert "4 missing: 0.weight" in message
    assert "--weights" in refused("export", tmp_path / "net.pt", "-o", tmp_path / "n.onnx")
