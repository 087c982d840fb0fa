"""LIME against the normal equations of its own draws, and on functions that are linear in their players."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox

Array = np.ndarray[Any, Any]


def linear() -> Any:
    return model([node("Gemm", "x w b", "y")], {"x": ["N", 4]}, {"y": ["N", 1]},
                 {"w": np.array([[1.0], [-2.0], [0.5], [0.0]]), "b": np.array([7.0])})  # fmt: skip


X = np.array([[1.0, 2.0, -3.0, 4.0], [0.5, 0.5, 0.5, 0.5]], np.float32)


def test_linear_function() -> None:
    """Without a penalty the coefficients are the players' own contributions, and the fit is perfect."""
    e = ox.explain(linear(), X, method="lime", alpha=0.0, draws=100)
    np.testing.assert_allclose(e.attributions["x"], X * [1.0, -2.0, 0.5, 0.0], atol=1e-5)
    assert any("R^2 of the linear model 1.00 to 1.00" in note for note in e.notes)


@pytest.mark.parametrize(("alpha", "width"), [(0.0, 0.25), (1.0, 0.25), (30.0, 0.1)])
def test_against_the_normal_equations(alpha: float, width: float) -> None:
    """The draws again by their key, weighed and solved in NumPy: ridge with an intercept that is not penalised."""
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(4, 6)), rng.normal(size=(6, 1))
    proto = model([node("MatMul", "x w", "z"), node("Tanh", "z", "a"), node("MatMul", "a v", "y")],
                  {"x": ["N", 4]}, {"y": ["N", 1]}, {"w": w, "v": v})  # fmt: skip
    e = ox.explain(proto, X, method="lime", draws=60, alpha=alpha, kernel_width=width, seed=5)
    fits = []
    for n in range(2):
        z = np.stack([np.ones(4)] + [np.random.default_rng([5, k]).random(4) < 0.5 for k in range(60)]).astype(float)
        y = (np.tanh((z * X[n]) @ w) @ v)[:, 0]
        norms = np.linalg.norm(z, axis=1) * 2.0
        cosine = np.divide(z.sum(axis=1), norms, out=np.zeros(61), where=norms > 0)
        weights = np.sqrt(np.exp(-((1 - cosine) ** 2) / width**2))
        design = np.column_stack([np.ones(61), z])
        penalty = alpha * np.diag([0.0, 1, 1, 1, 1])
        solution = np.linalg.solve(design.T @ (weights[:, None] * design) + penalty, design.T @ (weights * y))
        np.testing.assert_allclose(e.attributions["x"][n], solution[1:], atol=1e-5)
        centre = (weights * y).sum() / weights.sum()
        fits.append(1 - (weights * (y - design @ solution) ** 2).sum() / (weights * (y - centre) ** 2).sum())
    assert any(f"R^2 of the linear model {min(fits):.2f} to {max(fits):.2f}" in note for note in e.notes)


def test_superpixels_are_the_players_of_pictures() -> None:
    """A picture of two flat halves in one network: what is constant over a region gets one value."""
    proto = model(
        [node("Mul", "x w", "p"), node("ReduceSum", "p axes", "y", keepdims=0)],
        {"x": ["N", 3, 32, 32]}, {"y": ["N"]}, {"w": np.full((3, 32, 32), 1e-3), "axes": np.array([1, 2, 3])},
    )  # fmt: skip
    x = np.full((1, 3, 32, 32), -1.0, np.float32)
    x[..., 16:] = 2.0
    e = ox.explain(proto, x, method="lime", players="slic:8", draws=200, alpha=0.0)
    np.testing.assert_allclose(e.attributions["x"], x * 1e-3, atol=1e-6)
    assert e.saliency is not None
    np.testing.assert_allclose(e.saliency, e.attributions["x"].sum(axis=1), atol=1e-6)


def test_auto_is_superpixels_for_pictures_and_places_for_series() -> None:
    proto, x = fullgrad_net()
    few = ox.explain(proto, x, method="lime", draws=20, players="slic")
    auto = ox.explain(proto, x, method="lime", draws=20)
    np.testing.assert_array_equal(auto.attributions["x"], few.attributions["x"])
    series = model([node("ReduceMean", "x axes", "y", keepdims=0)], {"x": ["N", 2, 9]}, {"y": ["N"]},
                   {"axes": np.array([1, 2])})  # fmt: skip
    e = ox.explain(series, np.ones((1, 2, 9), np.float32), method="lime", draws=20)
    assert any("9 players" in note for note in e.notes)
