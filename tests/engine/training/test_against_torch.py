"""Steps of training against PyTorch's autograd and optimisers, from the same weights on the same batches.

Both sides compute in float32 and sum in another order; a step's results agree to 1e-5 of the largest element.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch import nn  # noqa: E402

from onnxplain.engine.training.trainer import Trainer  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

#: Relative to the largest element: float32 in another order.
CLOSE = 1e-5


class Shortcut(nn.Module):
    """A strided residual block with BatchNormalization, a grouped convolution, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.b = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.d = nn.BatchNorm2d(8, momentum=0.3)
        self.e = nn.Conv2d(8, 8, 1, stride=2, bias=False)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.d(self.c(torch.relu(self.b(self.a(x))))) + self.e(x))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(32, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 5),
    )  # fmt: skip


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Shortcut(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10), nn.BatchNorm1d(10), nn.PReLU(), nn.Linear(10, 5),
    )  # fmt: skip


def with_softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 16, bias=False), nn.ReLU(), nn.Linear(16, 5), nn.Softmax(dim=1))


NETS = {"plain": plain, "normalised": normalised, "softmax": with_softmax}


def settled(name: str) -> nn.Module:
    """A net whose parameters and statistics all differ, so that none may stand for another."""
    torch.manual_seed(7)
    net = NETS[name]()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for key, b in net.named_buffers():
            if "running" in key:
                b.add_(torch.rand_like(b))
    return net


def exported(net: nn.Module) -> bytes:
    """As ONNX, in evaluation mode, BatchNormalization kept."""
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (torch.zeros(2, 2, 8, 8),), buffer, dynamo=False, opset_version=17, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )  # fmt: skip
    return buffer.getvalue()


def batches(count: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(3)
    return [
        (rng.normal(size=(n, 2, 8, 8)).astype(np.float32), rng.integers(0, 5, n)) for n in [12, 12, 7, 12, 12][:count]
    ]


def loss_of(net: nn.Module, x: Any, y: Any) -> Any:
    scores = net(torch.from_numpy(x))
    if isinstance(net, nn.Sequential) and isinstance(net[-1], nn.Softmax):
        return nn.functional.nll_loss(torch.log(scores), torch.from_numpy(y))
    return nn.functional.cross_entropy(scores, torch.from_numpy(y))


def assert_close(found: Any, wanted: Any, words: str) -> None:
    scale = max(float(np.abs(wanted).max()), 1e-3)
    error = float(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).max()) / scale
    assert error < CLOSE, f"{words}: off by {error:.2e}"


def translated(net: nn.Module, trainer: Trainer) -> dict[str, tuple[str, bool]]:
    """Name in the file -> name in the reference, and whether it is transposed; by content, before any step."""
    state = {k: v.numpy() for k, v in net.state_dict().items() if v.ndim}
    found = {}
    for key, own in trainer.weights().items():
        same = [(k, False) for k, v in state.items() if v.size == own.size and np.array_equal(v.ravel(), own.ravel())]
        same += [(k, True) for k, v in state.items() if v.ndim == 2 and np.array_equal(v.T, own)]
        assert same, f"'{key}' has no counterpart"
        found[key] = same[0]
    assert len({k for k, _ in found.values()}) == len(state), "every tensor of the reference has its own"
    return found


@pytest.mark.parametrize("name", NETS)
def test_gradients(name: str) -> None:
    net = settled(name)
    trainer = Trainer(exported(net), threads=1)
    names = translated(net, trainer)
    x, y = batches(1)[0]
    net.train()
    loss_of(net, x, y).backward()
    wanted = {k: p.grad.numpy() for k, p in net.named_parameters()}
    found = trainer.gradients(x, y)
    assert len(found) == len(wanted)
    whole = max(float(np.abs(g).max()) for g in wanted.values())
    for key, gradient in found.items():
        other, turned = names[key]
        reference = wanted[other].T if turned else wanted[other].reshape(gradient.shape)
        assert np.abs(gradient - reference).max() < CLOSE * whole, key


#: Ours, and the reference's; Adam's epsilon is filled in.
OPTIMISERS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "sgd": ({"optimiser": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
            lambda p, eps: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)),
    "adam": ({"optimiser": "adam", "lr": 2e-3, "weight_decay": 0.01},
             lambda p, eps: torch.optim.Adam(p, lr=2e-3, weight_decay=0.01, eps=eps)),
    "adamw": ({"optimiser": "adamw", "lr": 2e-3, "weight_decay": 0.05, "betas": (0.8, 0.99)},
              lambda p, eps: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.05, betas=(0.8, 0.99), eps=eps)),
}  # fmt: skip

#: A bias in front of a BatchNormalization has a gradient of zero, of which Adam would magnify the rounding.
EPSILON = {"normalised": 1e-3}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", NETS)
def test_updated_weights_and_statistics(name: str, optimiser: str) -> None:
    """Five steps, the third on a smaller batch."""
    net = settled(name)
    options, make = OPTIMISERS[optimiser]
    epsilon = EPSILON.get(name, 1e-8)
    trainer = Trainer(exported(net), threads=1, epsilon=epsilon, **options)
    names = translated(net, trainer)
    reference = make(net.parameters(), epsilon)
    net.train()
    for x, y in batches(5):
        reference.zero_grad()
        loss = loss_of(net, x, y)
        loss.backward()
        reference.step()
        found, _ = trainer.advance({"x": x}, y)
        assert found == pytest.approx(float(loss.detach()), rel=CLOSE)
        state = {k: v.numpy() for k, v in net.state_dict().items()}
        for key, own in trainer.weights().items():
            other, turned = names[key]
            assert_close(own, state[other].T if turned else state[other].reshape(own.shape), f"{key} ({other})")
