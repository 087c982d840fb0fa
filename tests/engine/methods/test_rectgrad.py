"""RectGrad against a backward pass written out in NumPy, with the percentile by sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
W, V, U = RNG.normal(size=(6, 21)), RNG.normal(size=(21, 15)), RNG.normal(size=(15, 3))
X = RNG.normal(size=(5, 6)).astype(np.float32)


def net(columns: Any = 6) -> Any:
    return model(
        [
            node("MatMul", "x w", "z"),
            node("Relu", "z", "a"),
            node("MatMul", "a v", "s"),
            node("Relu", "s", "t"),
            node("MatMul", "t u", "y"),
        ],
        {"x": ["N", columns]},
        {"y": ["N", 3]},
        {"w": W, "v": V, "u": U},
    )


def naive(target: int, percentile: float | None, tau: float = 0.0, magnitude: bool = False) -> Array:
    a = np.maximum(X.astype(np.float64) @ W, 0)
    t = np.maximum(a @ V, 0)

    def rectify(y: Array, dy: Array) -> Array:
        product = np.abs(y * dy) if magnitude else y * dy
        bound: Any = tau
        if percentile is not None:
            falling = np.sort(product, axis=1)[:, ::-1]
            nearest = round((1 - percentile / 100) * (product.shape[1] - 1))
            bound = falling[:, nearest : nearest + 1]
        return np.where(product > bound, dy, 0)

    dy = np.tile(U[:, target], (len(X), 1))
    return np.asarray(X * (rectify(a, rectify(t, dy) @ V.T) @ W.T))


@pytest.mark.parametrize("percentile", [50.0, 80.0, 90.0])
@pytest.mark.parametrize("magnitude", [False, True])
def test_percentile(percentile: float, magnitude: bool) -> None:
    e = ox.explain(net(), X, method="rectgrad", target=1, percentile=percentile, magnitude=magnitude)
    expected = naive(1, percentile, magnitude=magnitude)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(e.saliency, e.attributions["x"])


def test_default_share_passes_on_a_layer_of_its_size() -> None:
    """The 98th percentile of 15 and 21 units is the largest one itself, and nothing lies above it."""
    e = ox.explain(net(), X, method="rectgrad", target=0)
    assert not e.attributions["x"].any() and any("zero everywhere" in note for note in e.notes)


@pytest.mark.parametrize("magnitude", [False, True])
def test_constant_threshold(magnitude: bool) -> None:
    e = ox.explain(net(), X, method="rectgrad", target=0, tau=0.3, magnitude=magnitude)
    np.testing.assert_allclose(e.attributions["x"], naive(0, None, 0.3, magnitude), rtol=1e-4, atol=1e-5)


def test_threshold_zero_is_guided_backpropagation_times_input() -> None:
    for proto, x in [(net(), X), fullgrad_net()]:
        rect = ox.explain(proto, x, method="rectgrad", target=1, tau=0.0).attributions["x"]
        guided = ox.explain(proto, x, method="guided_backprop", target=1).attributions["x"]
        np.testing.assert_allclose(rect, guided * x, atol=1e-6)


def test_magnitude_with_threshold_zero_is_input_times_gradient() -> None:
    rect = ox.explain(net(), X, method="rectgrad", target=2, tau=0.0, magnitude=True).attributions["x"]
    plain = ox.explain(net(), X, method="input_x_gradient", target=2).attributions["x"]
    np.testing.assert_allclose(rect, plain, rtol=1e-5, atol=1e-6)


def test_sizes_known_at_run_time_alone() -> None:
    """A picture of free size: the k of the k-th largest is computed in the graph."""
    proto = model(
        [
            node("Conv", "x k", "z", pads=[1, 1, 1, 1]),
            node("Relu", "z", "a"),
            node("ReduceMean", "a axes", "y", keepdims=0),
        ],
        {"x": ["N", 1, "h", "w"]},
        {"y": ["N", 2]},
        {"k": RNG.normal(size=(2, 1, 3, 3)), "axes": np.array([2, 3])},
    )
    x = RNG.normal(size=(2, 1, 6, 5)).astype(np.float32)
    free = ox.explain(proto, x, method="rectgrad", target=0, percentile=80).attributions["x"]
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim[2:], (6, 5), strict=True):
        dim.dim_value = size
    fixed = ox.explain(proto, x, method="rectgrad", target=0, percentile=80).attributions["x"]
    assert np.abs(fixed).max() > 0
    np.testing.assert_allclose(free, fixed, atol=1e-7)


@pytest.mark.parametrize("options", [{"percentile": 101.0}, {"tau": float("nan")}, {"reduction": "mean"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ox.explain(net(), X, method="rectgrad", **options)


# ----- the authors' further options, on a small convolutional net ---------------------------------------

K, M = RNG.normal(size=(2, 1, 3, 3)), RNG.normal(size=(2 * 3 * 3, 2))
PICTURES = RNG.normal(size=(3, 1, 6, 6)).astype(np.float32)


def pictures_net() -> Any:
    return model(
        [
            node("Conv", "x k", "z", pads=[1, 1, 1, 1]),
            node("Relu", "z", "a"),
            node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "p", "f"),
            node("MatMul", "f m", "y"),
        ],
        {"x": ["N", 1, 6, 6]},
        {"y": ["N", 2]},
        {"k": K, "m": M},
    )


def naive_pictures(x: Array, target: int, tau: float, padding_trick: bool, proportional: bool) -> Array:
    padded = np.pad(x[0], 1)
    z = np.array([[[(padded[i : i + 3, j : j + 3] * k[0]).sum() for j in range(6)] for i in range(6)] for k in K])
    a = np.maximum(z, 0)
    signal = M[:, target].reshape(2, 3, 3)
    back = np.zeros_like(a)
    for c, i, j in np.ndindex(2, 3, 3):
        window = a[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        share = window / window.sum() if window.any() else 0 * window
        if not proportional:
            share = np.zeros_like(window)
            share[np.unravel_index(window.argmax(), window.shape)] = 1
        back[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = share * signal[c, i, j]
    dz = np.where(a * back > tau, back, 0)
    if padding_trick:
        inner = dz[:, 1:-1, 1:-1].copy()
        dz[:] = 0
        dz[:, 1:-1, 1:-1] = inner
    dx = np.zeros((8, 8))
    for c, i, j in np.ndindex(2, 6, 6):
        dx[i : i + 3, j : j + 3] += dz[c, i, j] * K[c, 0]
    return np.asarray(x * dx[1:-1, 1:-1])


@pytest.mark.parametrize("padding_trick", [False, True])
@pytest.mark.parametrize("proportional", [False, True])
def test_padding_trick_and_proportional_pooling(padding_trick: bool, proportional: bool) -> None:
    options = {"padding_trick": padding_trick, "proportional": proportional}
    found = ox.explain(pictures_net(), PICTURES, method="rectgrad", target=1, tau=0.05, **options).attributions["x"]
    expected = np.array([naive_pictures(x.astype(np.float64), 1, 0.05, **options) for x in PICTURES])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    plain = ox.explain(pictures_net(), PICTURES, method="rectgrad", target=1, tau=0.05).attributions["x"]
    assert (np.abs(found - plain).max() > 0.01) == (padding_trick or proportional)
