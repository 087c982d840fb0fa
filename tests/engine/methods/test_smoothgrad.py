"""SmoothGrad, its square and VarGrad: closed forms, and the same draws added up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

METHODS = ("smoothgrad", "smoothgrad_squared", "vargrad")


def linear() -> Any:
    return model(
        [node("MatMul", "x w", "y")], {"x": ["N", 3]}, {"y": ["N", 1]}, {"w": np.array([[1.0], [-2.0], [0.5]])}
    )


def square() -> Any:
    """f = sum x^2: the gradient is 2 (x + e)."""
    return model(
        [node("Mul", "x x", "s"), node("MatMul", "s w", "y")], {"x": ["N", 3]}, {"y": ["N", 1]}, {"w": np.ones((3, 1))}
    )


X = np.array([[1.0, -2.0, 3.0], [0.0, 0.5, 1.0]], np.float32)


def test_linear_function() -> None:
    w = [[1.0, -2.0, 0.5]] * 2
    np.testing.assert_allclose(ox.explain(linear(), X, method="smoothgrad").attributions["x"], w, rtol=1e-6)
    squared = ox.explain(linear(), X, method="smoothgrad_squared").attributions["x"]
    np.testing.assert_allclose(squared, np.square(w), rtol=1e-6)
    np.testing.assert_array_equal(ox.explain(linear(), X, method="vargrad").attributions["x"], 0.0)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_draws_themselves(seed: int) -> None:
    """Noise drawn again by its key (seed, sample, draw, input), with each sample's own range."""
    options: dict[str, Any] = {"draws": 7, "spread": 0.2, "seed": seed}
    noise = np.stack(
        [
            [np.random.default_rng([seed, k, 0]).standard_normal(3) * 0.2 * np.ptp(X[n]) for k in range(7)]
            for n in range(2)
        ]
    )
    g = 2 * (X[:, None] + noise)
    found = {m: ox.explain(square(), X, method=m, **options).attributions["x"] for m in METHODS}
    np.testing.assert_allclose(found["smoothgrad"], g.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["smoothgrad_squared"], (g**2).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["vargrad"], g.var(axis=1), rtol=1e-5)
    unbiased = ox.explain(square(), X, method="vargrad", unbiased=True, **options).attributions["x"]
    np.testing.assert_allclose(unbiased, g.var(axis=1, ddof=1), rtol=1e-5)


def test_expectations() -> None:
    """f = x^2: mean 2 x, variance 4 s^2; 2000 draws leave a relative error of about 3 % in the variance."""
    s = 0.15 * np.ptp(X, axis=1, keepdims=True)
    mean = ox.explain(square(), X, method="smoothgrad", draws=2000).attributions["x"]
    assert (np.abs(mean - 2 * X) < 5 * 2 * s / 2000**0.5).all()
    variance = ox.explain(square(), X, method="vargrad", draws=2000).attributions["x"]
    np.testing.assert_allclose(variance, np.broadcast_to(4 * s**2, X.shape), rtol=0.16)


def test_no_noise_is_the_gradient() -> None:
    proto, x = fullgrad_net()
    plain = ox.explain(proto, x, method="gradient", target=1)
    e = ox.explain(proto, x, method="smoothgrad", spread=0.0, target=1)
    np.testing.assert_allclose(e.attributions["x"], plain.attributions["x"], atol=1e-6)
    np.testing.assert_allclose(e.saliency, plain.saliency, atol=1e-6)


def test_target_is_the_clean_inputs() -> None:
    """Classes x and -x near 0: half of the noisy copies would name the other class, with the other gradient."""
    proto = model(
        [node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": np.array([[1.0, -1.0], [0.0, 0.0]])}
    )
    e = ox.explain(proto, np.array([[1e-3, 1.0], [-1e-3, 1.0]], np.float32), method="smoothgrad")
    np.testing.assert_allclose(e.attributions["x"], [[1.0, 0.0], [-1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_blocks_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, 2 * x])
    whole = ox.explain(proto, batch, method=method, draws=5, seed=4, target=0)
    monkeypatch.setattr("onnxplain.engine.method.STAGING_BYTES", 200)
    cut = ox.explain(proto, batch, method=method, draws=5, seed=4, target=0, memory_mib=0.01)
    scale = np.abs(whole.attributions["x"]).max()
    np.testing.assert_allclose(cut.attributions["x"], whole.attributions["x"], atol=1e-6 * scale)


@pytest.mark.parametrize("options", [{"draws": 0}, {"spread": -0.1}, {"spread": float("nan")}, {"reduction": "mean"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ox.explain(linear(), X, method="smoothgrad", **options)
    with pytest.raises(OptionError, match="draws of at least 2"):
        ox.explain(linear(), X, method="vargrad", draws=1, unbiased=True)
