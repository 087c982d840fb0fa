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
