"""Guided IG: the authors' golden values, Integrated Gradients as a limit, and a plain one-sample form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
W = np.array([[2.0], [1.0]])


def linear() -> onnx.ModelProto:
    return model([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": W})


def sum_of_squares() -> onnx.ModelProto:
    """2 x1^2 + x2^2."""
    return model([node("Mul", "x x", "s"), node("MatMul", "s w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": W})


def square_of_sum() -> onnx.ModelProto:
    """(2 x1 + x2)^2."""
    return model([node("MatMul", "x w", "s"), node("Mul", "s s", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": W})


def found(proto: onnx.ModelProto, x: Any, **options: Any) -> Array:
    return ox.explain(proto, np.array([x], np.float32), method="guided_ig", threads=1, **options).attributions["x"][0]


def test_linear() -> None:
    np.testing.assert_allclose(found(linear(), [10, 5]), [20, 5], rtol=1e-6)
    np.testing.assert_allclose(found(linear(), [10, 5], baseline=np.array([-1.0, -3.0])), [22, 8], rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("max_dist", [0.0, 0.02, 1.0])
def test_separable_functions_do_not_depend_on_the_path(fraction: float, max_dist: float) -> None:
    # A left-hand sum over 1000 steps of a square is short by a thousandth.
    attribution = found(sum_of_squares(), [3, 3], steps=1000, fraction=fraction, max_dist=max_dist)
    np.testing.assert_allclose(attribution, [18, 9], rtol=2.1e-3)


def test_product_terms_go_to_the_last_feature() -> None:
    assert found(square_of_sum(), [3, 3], steps=1000, max_dist=0.0) == pytest.approx([54, 27], rel=1.1e-3)
    assert found(square_of_sum(), [3, 3], steps=1000, fraction=0.1, max_dist=1.0) == pytest.approx([72, 9], rel=0.01)
    total = found(square_of_sum(), [3, 3], steps=1000, fraction=0.1, max_dist=0.2).sum()
    assert total == pytest.approx(81, abs=0.1)


@pytest.mark.parametrize("options", [{"max_dist": 0.0}, {"fraction": 1.0}])
def test_on_the_straight_line_it_is_integrated_gradients(options: dict[str, float]) -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, x[..., ::-1]])
    straight = ox.explain(
        proto, batch, method="integrated_gradients", steps=40, quadrature="riemann_left", tolerance=None, target=1
    )
    guided = ox.explain(proto, batch, method="guided_ig", steps=40, target=1, **options)
    np.testing.assert_allclose(guided.attributions["x"], straight.attributions["x"], atol=1e-5)


def naive(weights: list[Array], x: Array, base: Array, steps: int, fraction: float, band: float) -> Array:
    """One sample of ``v . relu(W x)``, feature by feature as the definition says it, in float64."""
    first, last = weights
    z, attribution = base.copy(), np.zeros_like(x)
    whole = np.abs(x - base).sum()
    for step in range(1, steps + 1):
        gradient = first @ (last * (z @ first > 0))
        alpha, start = step / steps, z.copy()
        low, high = max(alpha - band, 0.0), min(alpha + band, 1.0)
        front = base + high * (x - base)
        for i in range(len(x)):
            if x[i] != base[i] and (z[i] - base[i]) / (x[i] - base[i]) < low:
                z[i] = base[i] + low * (x[i] - base[i])
        for _ in range(100):
            missing = np.abs(z - x).sum() - whole * (1 - alpha)
            if abs(missing) <= 1e-9 * max(1.0, whole):
                break
            sizes = [np.inf if z[i] == front[i] else abs(gradient[i]) for i in range(len(x))]
            threshold = np.quantile(sizes, fraction, method="lower")
            chosen = [i for i in range(len(x)) if np.isfinite(sizes[i]) and sizes[i] <= threshold]
            room = sum(abs(front[i] - z[i]) for i in chosen)
            part = min(1.0, missing / room)
            for i in chosen:
                z[i] = front[i] if part == 1.0 else z[i] + part * (front[i] - z[i])
            if missing <= room:
                break
        attribution += (z - start) * gradient
    return attribution


@pytest.mark.parametrize(("fraction", "band"), [(0.25, 0.02), (0.1, 0.3), (0.5, 1.0)])
def test_against_the_definition(fraction: float, band: float) -> None:
    """float64 model, so that no gate flips by rounding; three samples at once against one by one."""
    rng = np.random.default_rng(3)
    first, last = rng.normal(size=(9, 7)), rng.normal(size=7)
    proto = model(
        [node("MatMul", "x w", "z"), node("Relu", "z", "a"), node("MatMul", "a v", "y")],
        {"x": ["N", 9]},
        {"y": ["N", 1]},
        {"w": first, "v": last[:, None]},
        dtype=onnx.TensorProto.DOUBLE,
    )
    x, base = rng.normal(size=(3, 9)), 0.3 * rng.normal(size=9)
    x[1, 4] = base[4]  # a feature that does not move
    e = ox.explain(
        proto, x, method="guided_ig", steps=30, fraction=fraction, max_dist=band, baseline=base, providers="reference"
    )
    wanted = [naive([first, last], row, base, 30, fraction, band) for row in x]
    np.testing.assert_allclose(e.attributions["x"], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("max_dist", [0.0, 0.1, 1.0])
def test_path_ends_at_the_input(max_dist: float) -> None:
    """A linear function gets w (x - b) element by element, whichever way the path goes."""
    rng = np.random.default_rng(0)
    w, x, base = rng.normal(size=(20, 1)), rng.normal(size=(2, 20)).astype(np.float32), rng.normal(size=20)
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 20]}, {"y": ["N", 1]}, {"w": w})
    e = ox.explain(proto, x, method="guided_ig", steps=13, max_dist=max_dist, baseline=base)
    np.testing.assert_allclose(e.attributions["x"], w[:, 0] * (x - base), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"steps": 0}, {"fraction": 0.0}, {"fraction": 1.5}, {"max_dist": -0.1}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        found(linear(), [1, 1], **options)
