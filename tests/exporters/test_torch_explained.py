"""What is exported from PyTorch can be explained: gradients are autograd's, and every part adds up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch import nn  # noqa: E402
from torch_nets import Attention, Residual, settle  # noqa: E402

import onnxplain as ox  # noqa: E402
from onnxplain.exporters import export  # noqa: E402

pytestmark = pytest.mark.torch

GRADIENT = 1e-5  # relative to the largest: two float32 sweeps over the same network, in another order of sums
RESIDUAL = 1e-4  # of the sum of all parts' magnitudes, float32


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


class Vision(nn.Module):
    """A vision transformer: patches, class token, positions, PyTorch's own encoder, head."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 2, 24, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.encoder(x)[:, 0]))


class Recurrent(nn.Module):
    """A recurrent layer, and a head on its last step and its mean."""

    def __init__(self, layer: type[nn.RNNBase], **how: Any) -> None:
        super().__init__()
        self.layer = layer(3, 5, batch_first=True, **how)
        self.head = nn.Linear(10 if how.get("bidirectional") else 5, 4)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        states, _ = self.layer(steps)
        return self.head(states[:, -1] + states.mean(1))


class LastState(nn.Module):
    """The states that an LSTM ends with, of both directions and layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(20, 4)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        _, (hidden, cell) = self.layer(steps)
        return self.head((hidden + cell).permute(1, 0, 2).flatten(1))


def train(module: nn.Module) -> nn.Module:
    """Weights as large as training leaves them, in every layer."""
    for weight in module.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=1.2 / math.sqrt(weight[0].numel()))
        else:
            nn.init.uniform_(weight, 0.2, 0.8)
    return settle(module)


NETS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "convolutional": (Residual, (3, 9, 8)),
    "attention": (Attention, (3, 8, 8)),
    "vision transformer": (Vision, (3, 16, 16)),
    "lstm": (lambda: Recurrent(nn.LSTM), (7, 3)),
    "lstm of two layers and directions": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (7, 3)),
    "last states": (LastState, (7, 3)),
    "gru": (lambda: Recurrent(nn.GRU, num_layers=2), (7, 3)),
}


def gradients(model: Any, x: torch.Tensor, u: torch.Tensor) -> np.ndarray[Any, Any]:
    """Autograd's gradient of <u, model(x)>."""
    x = x.clone().requires_grad_()
    (model(x) * u).sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


def distance(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", NETS)
def test_gradients_and_completeness(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    model = train(make())
    report = export(model, torch.randn(2, *shape), tmp_path / "m.onnx")
    x = torch.randn(3, *shape)
    u = torch.randn(*model(x).shape)
    ours = ox.vjp(str(report.path), {report.inputs[0].name: x.numpy()}, {"output": u.numpy()})
    assert distance(ours[report.inputs[0].name], gradients(model, x, u)) < GRADIENT
    residual = ox.explain(str(report.path), x.numpy(), method="fullgrad").residual
    assert residual.relative.max() < RESIDUAL


def test_an_exported_program_and_its_file(tmp_path: Path) -> None:
    model, x = train(Recurrent(nn.LSTM)), torch.randn(2, 7, 3)
    rows = torch.export.Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own LSTM
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: rows},)), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    report = export(program, x, tmp_path / "m.onnx")
    u = torch.randn(2, 4)
    ours = ox.vjp(str(report.path), {"steps": x.numpy()}, {"output": u.numpy()})["steps"]
    assert distance(ours, gradients(model, x, u)) < GRADIENT


# ----- Hugging Face -----------------------------------------------------------------------------------

transformers_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers uses what others deprecate


def texts(rows: int, length: int, padded: int) -> dict[str, Any]:
    ids, mask = torch.randint(1, 50, (rows, length)), torch.ones(rows, length, dtype=torch.int64)
    mask[-1, length - padded :], ids[-1, length - padded :] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.randint(0, 2, (rows, length)) * mask}


@transformers_warns
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("bert", "bert.embeddings.word_embeddings"),
        ("distilbert", "distilbert.embeddings.word_embeddings"),
        ("llama", "model.embed_tokens"),
    ],
)
def test_tokens_of_a_padded_text(name: str, layer: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the huggingface extra")
    from huggingface_nets import save

    model = save(name, tmp_path / "net")
    report = export(tmp_path / "net", None, tmp_path / "m.onnx")
    given = {key: value for key, value in texts(3, 9, 4).items() if key in {t.name for t in report.inputs}}
    kept: list[Any] = []

    def keep(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    hook = model.get_submodule(layer).register_forward_hook(keep)
    logits = model(**given).logits
    hook.remove()
    u = torch.randn(*logits.shape)
    (logits * u).sum().backward()
    # the Gather that reads this layer's table
    (inner,) = (
        node.output[0]
        for node in onnx.load(report.path).graph.node
        if node.op_type == "Gather" and node.input[0] == f"{layer}.weight"
    )
    feeds = {key: value.numpy() for key, value in given.items()}
    ours = ox.vjp(str(report.path), feeds, {"logits": u.numpy()}, wrt=[inner])[inner]
    assert distance(ours, kept[0].grad.numpy()) < GRADIENT
    explanation = ox.explain(str(report.path), feeds, method="fullgrad")
    assert explanation.residual.relative.max() < RESIDUAL
    assert explanation.saliency.shape == (3, 9)
    assert np.all(explanation.saliency[-1, 5:] == 0)  # padding is not read
    assert np.all(explanation.saliency[0] != 0)
    np.testing.assert_array_equal(explanation.target, logits.argmax(-1).numpy())


@transformers_warns
@pytest.mark.parametrize(("name", "shape"), [("vit", (3, 16, 16)), ("convnext", (3, 32, 32))])
def test_pictures_of_a_directory(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the huggingface extra")
    from huggingface_nets import save

    model = save(name, tmp_path / "net")
    report = export(tmp_path / "net", None, tmp_path / "m.onnx")
    x, u = torch.randn(2, *shape), torch.randn(2, 3)
    ours = ox.vjp(str(report.path), {"pixel_values": x.numpy()}, {"logits": u.numpy()})["pixel_values"]
    assert distance(ours, gradients(lambda image: model(image).logits, x, u)) < GRADIENT
    assert ox.explain(str(report.path), x.numpy(), method="fullgrad").residual.relative.max() < RESIDUAL
