"""PyTorch's LSTM and GRU: bias terms sample by sample with the batch first, a word where it is second."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import onnxplain as ox
from onnxplain.engine.errors import UnsupportedNodeError

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytestmark = pytest.mark.torch

STEPS = 7
X = np.random.default_rng(3).normal(size=(3, STEPS, 3)).astype(np.float32)


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two recurrent layers in both directions, and the mean over the steps."""

    def __init__(self, kind: str, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.axis = int(batch_first)
        self.layers = getattr(torch.nn, kind)(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(x)[0].mean(self.axis))


def export(net: Any, x: np.ndarray[Any, Any], axes: dict[int, str]) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the call, and warns of batches other than 1
        torch.onnx.export(
            net,
            (torch.from_numpy(x),),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes} if axes else None,
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_model_from_string(file.getvalue())


@pytest.mark.parametrize("axes", [{0: "N", 1: "T"}, {0: "N"}, {}], ids=["open", "steps known", "fixed"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_batch_first(kind: str, axes: dict[int, str]) -> None:
    """Gradients are PyTorch's, the identity closes for each sample, and a sample's terms are what they are alone."""
    net = Net(kind, batch_first=True).eval()
    proto = export(net, X, axes)
    x = torch.from_numpy(X).requires_grad_()
    net(x)[:, 1].sum().backward()
    found = ox.explain(proto, X, method="fullgrad", target=1)
    np.testing.assert_allclose(found.attributions["x"], x.grad.numpy() * X, rtol=1e-4, atol=1e-6)  # float32
    assert found.residual.relative.max() < 1e-5
    if axes:
        for n in range(3):
            alone = ox.explain(proto, X[n : n + 1], method="fullgrad", target=1)
            np.testing.assert_allclose(alone.terms.biases[0], found.terms.biases[n], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("axes", [{0: "T", 1: "N"}, {}], ids=["open", "fixed"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_batch_second(kind: str, axes: dict[int, str]) -> None:
    """No explanation by steps that pass for samples; gradients there are."""
    net = Net(kind, batch_first=False).eval()
    swapped = np.ascontiguousarray(X.swapaxes(0, 1))
    proto = export(net, swapped, axes)
    with pytest.raises(UnsupportedNodeError, match=rf"\({kind}\): it goes step by step through the input's first axis"):
        ox.explain(proto, swapped, method="gradient", target=1)
    x = torch.from_numpy(swapped).requires_grad_()
    y = net(x)
    u = torch.randn_like(y)
    y.backward(u)
    found = ox.vjp(proto, {"x": swapped}, {"y": u.numpy()})["x"]
    np.testing.assert_allclose(found, x.grad.numpy(), rtol=1e-4, atol=1e-6)  # float32
