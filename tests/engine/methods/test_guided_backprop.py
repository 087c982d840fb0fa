"""Guided Backpropagation, DeconvNet and RectGrad's common ground, against backward passes written out in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]


def net(
    activation: str = "Relu", depth: int = 3, seed: int = 0, **weights: Any
) -> tuple[Any, list[Array], list[Array]]:
    """A perceptron of that many hidden layers; weights and biases beside it."""
    rng = np.random.default_rng(seed)
    sizes = [4, *[6] * depth, 3]
    w = [rng.normal(size=(a, b)).astype(np.float32) for a, b in itertools.pairwise(sizes)]
    b = [rng.normal(size=s).astype(np.float32) for s in sizes[1:]]
    nodes, last = [], "x"
    for k in range(depth):
        nodes += [node("Gemm", f"{last} w{k} b{k}", f"z{k}"), node(activation, " ".join([f"z{k}", *weights]), f"a{k}")]
        last = f"a{k}"
    nodes.append(node("Gemm", f"{last} w{depth} b{depth}", "y"))
    named = {f"w{k}": v for k, v in enumerate(w)} | {f"b{k}": v for k, v in enumerate(b)} | weights
    return model(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, named), w, b


def naive(w: list[Array], b: list[Array], x: Array, target: int, rule: Any, high: float = np.inf) -> Array:
    """Backward pass with ``rule(z, a, dy)`` at each hidden layer."""
    z, a = [], [x.astype(np.float64)]
    for weights, offset in zip(w[:-1], b[:-1], strict=True):
        z.append(a[-1] @ weights + offset)
        a.append(np.clip(z[-1], 0, high))
    dy = np.repeat(w[-1][:, target][None], len(x), axis=0).astype(np.float64)
    for k in reversed(range(len(z))):
        dy = rule(z[k], a[k + 1], dy) @ w[k].T
    return dy


def guided(z: Array, a: Array, dy: Array) -> Array:
    return np.maximum(dy, 0) * (z > 0)


X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


@pytest.mark.parametrize("target", [0, 2])
def test_against_a_backward_pass_by_hand(target: int) -> None:
    proto, w, b = net()
    e = ox.explain(proto, X, method="guided_backprop", target=target)
    expected = naive(w, b, X, target, guided)
    assert np.abs(expected - naive(w, b, X, target, lambda z, a, dy: dy * (z > 0))).max() > 0.1, "not the gradient"
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(e.saliency, np.abs(e.attributions["x"]))
    assert e.notes == ()


def test_a_clip_from_zero_is_a_rectifier() -> None:
    proto, w, b = net("Clip", low=np.array(0.0), high=np.array(2.0))
    e = ox.explain(proto, X, method="guided_backprop", target=0)
    expected = naive(w, b, X, 0, lambda z, a, dy: np.maximum(dy, 0) * (z > 0) * (z < 2), high=2.0)
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-4, atol=1e-4)


def test_equals_the_gradient_where_the_top_weights_are_positive() -> None:
    rng = np.random.default_rng(3)
    proto = model(
        [node("Gemm", "x w b", "z"), node("Relu", "z", "a"), node("MatMul", "a v", "y")],
        {"x": ["N", 4]},
        {"y": ["N", 2]},
        {"w": rng.normal(size=(4, 6)), "b": rng.normal(size=6), "v": rng.uniform(0.1, 1, (6, 2))},
    )
    guided_map = ox.explain(proto, X, method="guided_backprop", target=1).attributions["x"]
    np.testing.assert_array_equal(guided_map, ox.explain(proto, X, method="gradient", target=1).attributions["x"])


def test_pooling_keeps_its_switches() -> None:
    """Between the ReLUs of the small convolutional net lies a MaxPool; by hand, through its arg-max."""
    proto, x = fullgrad_net()
    first = ox.explain(proto, x, method="guided_backprop", target=1).attributions["x"]
    at_pool = ox.explain(proto, x, method="guided_backprop", target=1, wrt="p1").attributions["p1"]
    weights = {i.name: np.frombuffer(i.raw_data, np.float32).reshape(tuple(i.dims)) for i in proto.graph.initializer}
    z = np.stack([_correlate(x[0, 0], k[0]) for k in weights["w1"]]) + weights["b1"][:, None, None]
    signal = np.zeros_like(z)
    for c, i, j in np.ndindex(2, 2, 2):
        block = z[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        u, v = np.unravel_index(block.argmax(), (2, 2))
        signal[c, 2 * i + u, 2 * j + v] = at_pool[0, c, i, j]
    signal = np.maximum(signal, 0) * (z > 0)
    expected = sum(_correlate(s, k[0, ::-1, ::-1]) for s, k in zip(signal, weights["w1"], strict=True))
    np.testing.assert_allclose(first[0, 0], expected, atol=1e-5)


def _correlate(x: Array, kernel: Array) -> Array:
    padded = np.pad(x, 1)
    return np.array(
        [[(padded[i : i + 3, j : j + 3] * kernel).sum() for j in range(x.shape[1])] for i in range(x.shape[0])]
    )


def test_a_net_without_relu_is_refused() -> None:
    proto, _, _ = net("Tanh")
    with pytest.raises(OptionError, match="there is none between the input and the target; its activations are Tanh"):
        ox.explain(proto, X, method="guided_backprop")


def test_activations_that_keep_their_gradient_are_named() -> None:
    rng = np.random.default_rng(0)
    proto = model(
        [node("MatMul", "x w", "z"), node("Relu", "z", "a"), node("Sigmoid", "a", "s"), node("MatMul", "s v", "y")],
        {"x": ["N", 4]},
        {"y": ["N", 2]},
        {"w": rng.normal(size=(4, 6)), "v": rng.normal(size=(6, 2))},
    )
    e = ox.explain(proto, X, method="guided_backprop")
    assert any("1 ReLU; Sigmoid keep" in note for note in e.notes)
