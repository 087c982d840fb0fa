"""DeepLIFT and DeepSHAP against captum on the same weights; where captum does not keep the sum, why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import model, node

torch = pytest.importorskip("torch", reason="needs the torch extra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # captum's own imports are none of ours
    attr = pytest.importorskip("captum.attr", reason="needs captum beside the torch extra")
from torch import nn  # noqa: E402

import onnxplain as ox  # noqa: E402

pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]

#: captum runs in float64 here, the graph in float32 through a few layers.
CLOSE = 1e-5


def captum(net: nn.Module, method: str, x: Array, references: Array, target: int) -> tuple[Array, Array]:
    """Attributions, and by how much each sample's miss the difference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the hooks that it sets
        found, delta = getattr(attr, method)(net.double().eval()).attribute(
            torch.from_numpy(x).double().requires_grad_(),
            baselines=torch.from_numpy(references).double(),
            target=target,
            return_convergence_delta=True,
        )
    return found.detach().numpy(), delta.detach().numpy()


def ours(proto: onnx.ModelProto, x: Array, method: str = "deeplift", **options: Any) -> ox.Explanation:
    return ox.explain(proto, x.astype(np.float32), method=method, threads=1, **options)


def draw(*shape: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=shape)


def tensor(array: Array) -> Any:
    return torch.from_numpy(np.asarray(array, np.float64))


def linear(w: Array, b: Array) -> nn.Linear:
    layer = nn.Linear(*w.shape).double()
    layer.weight.data, layer.bias.data = tensor(w.T), tensor(b)
    return layer


def mlp(
    activation: Callable[[], nn.Module], name: str, tail: str = "", **attributes: Any
) -> tuple[nn.Module, onnx.ModelProto]:
    """Two hidden layers with an activation, as both sides write it."""
    rng = np.random.default_rng(1)
    sizes = [(5, 8), (8, 6), (6, 3)]
    ws, bs = [rng.normal(size=s) for s in sizes], [rng.normal(size=s[1]) for s in sizes]
    first, second, third = (linear(w, b) for w, b in zip(ws, bs, strict=True))
    net = nn.Sequential(first, activation(), second, activation(), third, *([nn.Softmax(dim=1)] if tail else []))
    nodes = [
        *(node("Gemm", "x w0 b0", "z0"), node(name, "z0" if name != "Clip" else "z0 low high", "a0", **attributes)),
        *(node("Gemm", "a0 w1 b1", "z1"), node(name, "z1" if name != "Clip" else "z1 low high", "a1", **attributes)),
        node("Gemm", "a1 w2 b2", "logits" if tail else "y"),
    ]
    nodes += [node(tail, "logits", "y", axis=1)] if tail else []
    weights = {f"{k}{i}": v for k, values in (("w", ws), ("b", bs)) for i, v in enumerate(values)}
    weights |= {"low": np.array(0.0), "high": np.array(1.0)} if name == "Clip" else {}
    return net, model(nodes, {"x": ["N", 5]}, {"y": ["N", 3]}, weights)


ACTIVATIONS = [
    ("ReLU", nn.ReLU, "Relu", {}),
    ("ELU", nn.ELU, "Elu", {"alpha": 1.0}),
    ("LeakyReLU", nn.LeakyReLU, "LeakyRelu", {"alpha": 0.01}),
    ("Sigmoid", nn.Sigmoid, "Sigmoid", {}),
    ("Tanh", nn.Tanh, "Tanh", {}),
    ("Softplus", nn.Softplus, "Softplus", {}),
]


@pytest.mark.parametrize(("title", "module", "name", "attributes"), ACTIVATIONS, ids=[a[0] for a in ACTIVATIONS])
def test_activations(title: str, module: Callable[[], nn.Module], name: str, attributes: dict[str, Any]) -> None:
    net, proto = mlp(module, name, **attributes)
    x, x0 = draw(6, 5)
    expected, delta = captum(net, "DeepLift", x, x0, 1)
    assert np.abs(delta).max() < 1e-9
    e = ours(proto, x, baseline=x0, target=1)
    np.testing.assert_allclose(e.attributions["x"], expected, atol=CLOSE * np.abs(expected).max())


class Once(nn.Module):
    """Times one: keeps two of captum's modules apart."""

    def forward(self, x: Any) -> Any:
        return x * 1.0


def convolutional(pool: nn.Module, between: nn.Module) -> tuple[nn.Module, onnx.ModelProto]:
    rng = np.random.default_rng(2)
    k1, k2, w = rng.normal(size=(4, 2, 3, 3)), rng.normal(size=(3, 4, 3, 3)), rng.normal(size=(27, 3))
    b1, b2, b3 = rng.normal(size=4), rng.normal(size=3), rng.normal(size=3)
    first, second = nn.Conv2d(2, 4, 3, padding=1).double(), nn.Conv2d(4, 3, 3, padding=1).double()
    first.weight.data, first.bias.data = tensor(k1), tensor(b1)
    second.weight.data, second.bias.data = tensor(k2), tensor(b2)
    net = nn.Sequential(first, nn.ReLU(), between, pool, second, nn.ReLU(), nn.Flatten(), linear(w, b3))
    op_type = "MaxPool" if isinstance(pool, nn.MaxPool2d) else "AveragePool"
    proto = model(
        [
            *(node("Conv", "x k1 b1", "z1", pads=[1, 1, 1, 1]), node("Relu", "z1", "a1")),
            node(op_type, "a1", "p", kernel_shape=[2, 2], strides=[2, 2]),
            *(node("Conv", "p k2 b2", "z2", pads=[1, 1, 1, 1]), node("Relu", "z2", "a2")),
            *(node("Flatten", "a2", "f"), node("Gemm", "f w b3", "y")),
        ],
        {"x": ["N", 2, 6, 6]},
        {"y": ["N", 3]},
        {"k1": k1, "k2": k2, "b1": b1, "b2": b2, "b3": b3, "w": w},
    )
    return net, proto


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=["max", "average"])
def test_convolutional_nets(pool: nn.Module) -> None:
    net, proto = convolutional(pool, Once())
    x, x0 = draw(4, 2, 6, 6)
    expected, delta = captum(net, "DeepLift", x, x0, 2)
    assert np.abs(delta).max() < 1e-9
    e = ours(proto, x, baseline=x0, target=2)
    np.testing.assert_allclose(e.attributions["x"], expected, atol=CLOSE * np.abs(expected).max())


def test_deepshap() -> None:
    net, proto = convolutional(nn.MaxPool2d(2), Once())
    x, _ = draw(3, 2, 6, 6)
    background, _ = draw(7, 2, 6, 6, seed=5)
    expected, _ = captum(net, "DeepLiftShap", x, background, 0)
    e = ours(proto, x, "deepshap", background=background, target=0)
    np.testing.assert_allclose(e.attributions["x"], expected, atol=CLOSE * np.abs(expected).max())


def pooled() -> tuple[nn.Module, onnx.ModelProto]:
    """captum's own case: identity, MaxPool1d(4), identity."""
    proto = model(
        [node("Unsqueeze", "x one", "u"), node("MaxPool", "u", "v", kernel_shape=[4]), node("Squeeze", "v one", "y")],
        *({"x": ["N", 4]}, {"y": ["N", 1]}, {"one": np.array([1])}),
    )
    return nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(4), nn.Flatten()), proto


def test_max_pooling_golden_values() -> None:
    net, proto = pooled()
    x, references = np.ones((2, 4)), np.array([[1.0, 2, 3, 9], [4, 8, 6, 7]])
    expected, delta = captum(net, "DeepLift", x, references, 0)
    np.testing.assert_allclose(expected, [[0, 0, 0, -8], [0, -7, 0, 0]])
    np.testing.assert_array_equal(delta, 0)
    np.testing.assert_array_equal(ours(proto, x, baseline=references, target=0).attributions["x"], expected)


# ----- where captum is not right ----------------------------------------------------------------------


def test_two_activations_in_a_row() -> None:
    """Pooling right behind a ReLU: captum's hooks meet at one tensor, and its own delta tells that the sum is lost."""
    net, proto = convolutional(nn.MaxPool2d(2), nn.Identity())
    x, x0 = draw(4, 2, 6, 6)
    found, delta = captum(net, "DeepLift", x, x0, 2)
    assert np.abs(delta).max() > 1
    e = ours(proto, x, baseline=x0, target=2)
    apart, _ = captum(convolutional(nn.MaxPool2d(2), Once())[0], "DeepLift", x, x0, 2)
    assert np.abs(found - apart).max() > 0.01 * np.abs(apart).max()
    np.testing.assert_allclose(e.attributions["x"], apart, atol=CLOSE * np.abs(apart).max())


def test_softmax() -> None:
    """captum subtracts the mean over the whole tensor, batch included: rows mix, and the sum is not kept."""
    net, proto = mlp(nn.ReLU, "Relu", tail="Softmax")
    x, x0 = draw(4, 5)
    together, delta = captum(net, "DeepLift", x, x0, 1)
    alone = np.concatenate([captum(net, "DeepLift", a[None], b[None], 1)[0] for a, b in zip(x, x0, strict=True)])
    assert np.abs(together - alone).max() > 1e-3 * np.abs(alone).max(), "captum's rows depend on each other"
    assert np.abs(delta).max() > 1e-3, "and do not sum to the difference"
    e = ours(proto, x, baseline=x0, target=1, head="probability")
    rows = [ours(proto, a[None], baseline=b[None], target=1, head="probability") for a, b in zip(x, x0, strict=True)]
    np.testing.assert_allclose(e.attributions["x"], np.concatenate([r.attributions["x"] for r in rows]), atol=1e-6)
    change = net(tensor(x))[:, 1].detach().numpy() - net(tensor(x0))[:, 1].detach().numpy()
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), change, atol=1e-5)


def test_activations_that_captum_has_no_rule_for() -> None:
    """Hardtanh (Clip) is differentiated plainly there: the sum is off, which its own delta says."""
    net, proto = mlp(lambda: nn.Hardtanh(0.0, 1.0), "Clip")
    x, x0 = draw(6, 5)
    _, delta = captum(net, "DeepLift", x, x0, 1)
    assert np.abs(delta).max() > 0.1
    e = ours(proto, x, baseline=x0, target=1)
    change = net(tensor(x))[:, 1].detach().numpy() - net(tensor(x0))[:, 1].detach().numpy()
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), change, atol=1e-5)


class Product(nn.Module):
    """Two layers' outputs multiplied."""

    def __init__(self, w: Array, v: Array) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(tensor(w)), nn.Parameter(tensor(v))

    def forward(self, x: Any) -> Any:
        return (x @ self.w) * (x @ self.v)


def test_products() -> None:
    """The gradient at the input alone, where the mean of both passes keeps the sum."""
    rng = np.random.default_rng(3)
    w, v = rng.normal(size=(2, 4, 1))
    net = Product(w, v)
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "x v", "b"), node("Mul", "a b", "y")]
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 1]}, {"w": w, "v": v})
    x, x0 = draw(5, 4)
    _, delta = captum(net, "DeepLift", x, x0, 0)
    assert np.abs(delta).max() > 0.1
    e = ours(proto, x, baseline=x0, target=0)
    change = ((x @ w) * (x @ v) - (x0 @ w) * (x0 @ v))[:, 0]
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), change, atol=1e-5)
    expected = (x - x0) * ((x + x0) @ v * w.T + (x + x0) @ w * v.T) / 2
    np.testing.assert_allclose(e.attributions["x"], expected, atol=1e-5)
