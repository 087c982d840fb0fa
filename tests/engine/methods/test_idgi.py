"""IDGI: exact telescoping on every path, and the formula written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import example_two, fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.methods.idgi import PATHS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [1, 7])
def test_telescopes(path: str, steps: int) -> None:
    """f(x) - f(start) for any number of steps, to the rounding of float32 scores."""
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, x[..., ::-1] + 0.5])
    e = ox.explain(proto, batch, method="idgi", path=path, steps=steps, sigma=2.0, target=1)
    assert e.baseline_score is not None
    total = e.attributions["x"].astype(np.float64).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(total, e.score - e.baseline_score, atol=1e-5)
    assert np.abs(e.score - e.baseline_score).min() > 0.1


def test_formula_on_the_straight_line() -> None:
    """f = sum w x^3: gradients 3 w x^2 at j/n x."""
    w, n = np.array([1.0, -2.0, 0.5]), 6
    proto = model(
        [node("Mul", "x x", "s"), node("Mul", "s x", "c"), node("MatMul", "c w", "y")],
        {"x": ["N", 3]},
        {"y": ["N", 1]},
        {"w": w[:, None]},
    )
    x, base = np.array([0.5, -1.5, 2.0]), np.array([1.0, 0.2, -0.3])
    points = base + np.linspace(0, 1, n + 1)[:, None] * (x - base)
    f, g = (w * points**3).sum(axis=1), 3 * w * points**2
    wanted = sum((f[j + 1] - f[j]) * g[j] ** 2 / (g[j] ** 2).sum() for j in range(n))
    e = ox.explain(proto, x[None].astype(np.float32), method="idgi", steps=n, baseline=base)
    np.testing.assert_allclose(e.attributions["x"][0], wanted, rtol=1e-4)


def test_flat_beginnings_are_shared_out_by_what_follows() -> None:
    """relu(relu(x1 - 1) - relu(x2)) is flat up to alpha = 1/2, which is inside the second of three steps."""
    e = ox.explain(example_two(), np.array([[3.0, 1.0]], np.float32), method="idgi", steps=3)
    np.testing.assert_allclose(e.attributions["x"], [[0.5, 0.5]], atol=1e-6)
    assert e.residual is not None and e.residual.ok


def test_several_inputs_share_one_change() -> None:
    proto = model([node("Add", "a b", "s"), node("ReduceSum", "s axes", "y")], {"a": ["N", 2], "b": ["N", 2]},
                  {"y": ["N", 1]}, {"axes": np.array([1])})  # fmt: skip
    e = ox.explain(proto, {"a": np.full((1, 2), 3.0, np.float32), "b": np.zeros((1, 2), np.float32)}, method="idgi")
    for name in "ab":  # gradient 1 everywhere: the change of 6 goes to all four elements, moved or not
        np.testing.assert_allclose(e.attributions[name], 1.5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"path": "curved"}, {"steps": 0}, {"sigma": -1.0}, {"max_dist": 2.0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ox.compile(example_two(), method="idgi", **options)


def test_blur_path_needs_places() -> None:
    with pytest.raises(OptionError, match="no places"):
        ox.compile(example_two(), method="idgi", path="blur")
