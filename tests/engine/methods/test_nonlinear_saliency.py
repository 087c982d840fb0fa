"""Nonlinear saliency: closed forms on affine functions, limits, and properties that every search has to keep."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.methods.nonlinear_saliency import BUDGETS

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
W, B = RNG.normal(size=6), 0.3
X = RNG.normal(size=(3, 6)).astype(np.float32)
NORMS: tuple[Any, ...] = (2, 1, "inf")


def affine() -> onnx.ModelProto:
    return model([node("Gemm", "x w b", "y")], {"x": ["N", 6]}, {"y": ["N", 1]}, {"w": W[:, None], "b": np.array([B])})


def direction(norm: Any) -> Array:
    """The p-length 1 displacement in which w rises most, by its definition."""
    if norm == 2:
        return np.asarray(W / np.linalg.norm(W))
    return np.sign(W) if norm == "inf" else np.where(np.abs(W) == np.abs(W).max(), np.sign(W), 0.0)


def dual(norm: Any) -> float:
    return float(np.linalg.norm(W, {2: 2, 1: np.inf, "inf": 1}[norm]))


def p_length(rows: Array, norm: Any) -> Array:
    return np.linalg.norm(rows, float(norm), axis=1)


def found(proto: onnx.ModelProto, x: Any, **options: Any) -> Any:
    return ox.explain(proto, np.asarray(x, np.float32), method="nonlinear_saliency", threads=1, **options)


CASES = [(m, b, n) for m, budgets in BUDGETS.items() for b in budgets for n in NORMS]


@pytest.mark.parametrize(("mode", "budget", "norm"), CASES)
def test_affine_functions_give_the_gradient(mode: str, budget: str, norm: Any) -> None:
    """Cosine 1 with the steepest direction of the norm, whatever the mode and the budget."""
    e = found(affine(), X, mode=mode, budget=budget, norm=norm)
    d = e.attributions["x"].astype(np.float64)
    cosine = d @ direction(norm) / np.linalg.norm(d, axis=1) / np.linalg.norm(direction(norm))
    np.testing.assert_allclose(cosine, 1.0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_boundary_of_a_linear_function(norm: Any) -> None:
    """Distance |m| / dual norm of w; the sign is that of what raises the score, on both sides."""
    e = found(affine(), X, mode="boundary", norm=norm)
    m = X @ W + B
    assert (m > 0).any() and (m < 0).any()
    np.testing.assert_allclose(p_length(e.attributions["x"], norm), np.abs(m) / dual(norm), rtol=1e-4)
    flow = found(affine(), X, budget="flip", norm=norm)
    np.testing.assert_allclose(flow.attributions["x"], e.attributions["x"], atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sign", [("ascend", 1), ("descend", -1)])
def test_a_given_change(norm: Any, sign: tuple[str, int]) -> None:
    e = found(affine(), X, mode="boundary", budget="output", change=0.7, norm=norm, direction=sign[0])
    np.testing.assert_allclose(p_length(e.attributions["x"], norm), 0.7 / dual(norm), rtol=1e-4)
    np.testing.assert_allclose(e.attributions["x"] @ W, 0.7, rtol=1e-4)
    away = found(affine(), X + sign[1] * e.attributions["x"], budget="steps").score
    np.testing.assert_allclose(away, X @ W + B + sign[1] * 0.7, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["flow", "ball"])
@pytest.mark.parametrize("norm", NORMS)
def test_distance_of_a_radius(mode: str, norm: Any) -> None:
    e = found(affine(), X, mode=mode, norm=norm, radius=0.2)
    np.testing.assert_allclose(p_length(e.attributions["x"], norm), 0.2 * p_length(X, norm), rtol=1e-4)


@pytest.mark.parametrize("mode", BUDGETS)
def test_path_attribution_of_affine_functions(mode: str) -> None:
    """w_i^2 T / |w|: quadratic in w, complete, and no longer a multiple of the gradient."""
    e = found(affine(), X, mode=mode, returns="path_attribution")
    d = found(affine(), X, mode=mode).attributions["x"]
    np.testing.assert_allclose(e.attributions["x"], d * W, rtol=1e-3, atol=1e-6)
    assert e.residual is not None and e.residual.relative.max() < 1e-4


def smooth_net(dtype: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(6, 8)), "b": rng.normal(size=8), "v": rng.normal(size=(8, 3))}
    nodes = [node("Gemm", "x w b", "z"), node("Tanh", "z", "a"), node("MatMul", "a v", "y")]
    return model(nodes, {"x": ["N", 6]}, {"y": ["N", 3]}, weights, dtype=dtype)


@pytest.mark.parametrize("mode", ["flow", "ball"])
@pytest.mark.parametrize("norm", NORMS)
def test_small_radii_give_the_gradient(mode: str, norm: Any) -> None:
    """rho -> 0: displacement / rho -> the steepest direction; float64, the error falls with rho."""
    proto, x = smooth_net(onnx.TensorProto.DOUBLE), X.astype(np.float64)
    g = ox.explain(proto, x, method="gradient", target=1, providers="reference").attributions["x"]
    steep = {2: g / np.linalg.norm(g, axis=1, keepdims=True), "inf": np.sign(g)}.get(
        norm, np.sign(g) * (np.abs(g) == np.abs(g).max(axis=1, keepdims=True))
    )
    gaps = []
    for radius in (1e-2, 1e-4):
        e = ox.explain(
            proto, x, method="nonlinear_saliency", mode=mode, norm=norm, radius=radius, steps=5, target=1,
            providers="reference",
        )  # fmt: skip
        rho = radius * p_length(x, norm)[:, None]
        gaps.append(np.abs(e.attributions["x"] / rho - steep).max())
    assert gaps[1] < 1e-3 and gaps[1] <= 0.05 * gaps[0] + 1e-9


def test_integral_along_the_flow_converges_with_the_square_of_the_step() -> None:
    proto, x = smooth_net(onnx.TensorProto.DOUBLE), X.astype(np.float64)
    gaps = []
    for steps in (10, 20, 40):
        e = ox.explain(
            proto, x, method="nonlinear_saliency", budget="steps", steps=steps, radius=0.5, target=1,
            returns="path_attribution", providers="reference",
        )  # fmt: skip
        assert e.residual is not None
        gaps.append(np.abs(e.residual.absolute).max())
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.3)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize(("sign", "norm"), [("ascend", 2), ("descend", 2), ("ascend", "inf"), ("descend", 1)])
def test_every_step_improves(sign: str, norm: Any) -> None:
    """A long step on a net with kinks: what it takes for k steps is never worse than for k - 1."""
    proto, x = fullgrad_net()
    factor = 1.0 if sign == "ascend" else -1.0
    scores = []
    for steps in (1, 2, 3, 5, 8, 13):
        e = found(proto, x, budget="steps", steps=steps, step=0.3, direction=sign, norm=norm, target=1)
        end = x + factor * e.attributions["x"]
        scores.append(factor * float(ox.explain(proto, end, method="gradient", target=1).score[0]))
    assert all(b > a for a, b in pairwise(scores))


@pytest.mark.parametrize("norm", NORMS)
def test_the_ball_is_at_least_as_good_as_the_straight_line(norm: Any) -> None:
    proto = smooth_net()
    e = found(proto, X, mode="ball", norm=norm, radius=0.8, target=2)
    d = e.attributions["x"].astype(np.float64)
    rho = 0.8 * p_length(X, norm)
    assert (p_length(d, norm) <= rho * (1 + 1e-5)).all()
    g = ox.explain(proto, X, method="gradient", target=2).attributions["x"].astype(np.float64)
    steep = {2: g / np.linalg.norm(g, axis=1, keepdims=True), "inf": np.sign(g)}.get(
        norm, np.sign(g) * (np.abs(g) == np.abs(g).max(axis=1, keepdims=True))
    )
    ends = [ox.explain(proto, (X + a).astype(np.float32), method="gradient", target=2).score
            for a in (d, rho[:, None] * steep)]  # fmt: skip
    assert (ends[0] >= ends[1] - 1e-5).all()
    assert (ends[0] > ends[1] + 1e-3).any(), "or the search does nothing"


def test_boundary_inside_a_linear_region_is_one_newton_step() -> None:
    """A change small enough for no gate to flip: -(m / |grad|^2) grad."""
    proto, x = fullgrad_net()
    g = ox.explain(proto, x, method="gradient", target=1).attributions["x"]
    e = found(proto, x, mode="boundary", budget="output", change=1e-2, target=1)
    np.testing.assert_allclose(e.attributions["x"], g * 1e-2 / np.sum(g**2), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_boundary_meets_the_margin_and_beats_the_straight_line(norm: Any) -> None:
    proto, target = smooth_net(), np.array([0, 1, 2])
    e = found(proto, X, mode="boundary", head="margin", norm=norm, target=target)
    sign = np.where(e.score > 0, -1.0, 1.0)[:, None]
    end = (X + sign * e.attributions["x"]).astype(np.float32)
    after = ox.explain(proto, end, method="gradient", head="margin", target=target)
    assert (np.abs(after.score) <= 1e-4 * np.maximum(np.abs(e.score), 1.0)).all()
    # The first crossing on the gradient's own line, found on a fine grid.
    g = ox.explain(proto, X, method="gradient", head="margin", target=target).attributions["x"].astype(np.float64)
    steep = {2: g / np.linalg.norm(g, axis=1, keepdims=True), "inf": np.sign(g)}.get(
        norm, np.sign(g) * (np.abs(g) == np.abs(g).max(axis=1, keepdims=True))
    )
    for n in range(3):
        line = np.linspace(0, 8, 4001)[1:, None] * steep[n] * sign[n] + X[n]
        scores = ox.explain(
            proto, line.astype(np.float32), method="gradient", head="margin", target=int(target[n])
        ).score
        crossed = np.flatnonzero(scores * e.score[n] <= 0)
        if len(crossed):
            straight = 0.002 * (crossed[0] + 1)
            assert p_length(e.attributions["x"][n : n + 1], norm)[0] <= straight + 0.003


def test_quadratic_flow_has_its_own_curve() -> None:
    """f = x1^2 / 2 + x2^2: the flow expm(Q t) x keeps x2 / x1^2, at whatever speed it is travelled."""
    proto = model(
        [node("Mul", "x x", "s"), node("MatMul", "s w", "y")],
        {"x": ["N", 2]},
        {"y": ["N", 1]},
        {"w": np.array([[0.5], [1.0]])},
    )
    x = np.array([[1.0, 0.2], [0.5, -0.1]], np.float32)
    e = found(proto, x, radius=1.5, steps=400)
    end = x + e.attributions["x"]
    np.testing.assert_allclose(end[:, 1] / end[:, 0] ** 2, x[:, 1] / x[:, 0] ** 2, rtol=0.02)
    assert (end[:, 0] > 1.5 * x[:, 0]).all()


def test_where_linear_saliency_is_wrong() -> None:
    """x1 x2 at (0.01, 1): the gradient names x1 alone, the best point within 1 moves both."""
    product = model([node("Split", "x", "a b", axis=1, num_outputs=2), node("Mul", "a b", "y")],
                    {"x": ["N", 2]}, {"y": ["N", 1]})  # fmt: skip
    x = np.array([[0.01, 1.0]], np.float32)
    g = ox.explain(product, x, method="gradient").attributions["x"]
    assert g[0, 0] > 50 * g[0, 1]
    d = found(product, x, mode="ball", radius=1.0 / np.linalg.norm(x)).attributions["x"][0]
    # max (0.01 + a)(1 + b) with a^2 + b^2 = 1: the angle by a fine search.
    angle = np.linspace(0, np.pi / 2, 100001)
    best = angle[np.argmax((0.01 + np.cos(angle)) * (1 + np.sin(angle)))]
    np.testing.assert_allclose(d, [np.cos(best), np.sin(best)], atol=2e-3)


def saturated() -> onnx.ModelProto:
    """1 - relu(1 - x): flat at x = 2."""
    nodes = [node("Sub", "one x", "s"), node("Relu", "s", "r"), node("Sub", "one r", "y")]
    return model(nodes, {"x": ["N", 1]}, {"y": ["N", 1]}, {"one": np.array([1.0])})


def test_flat_places() -> None:
    """A flow stops and says so; the boundary is found from where the score changes again."""
    e = found(saturated(), [[2.0]])
    assert not e.attributions["x"].any() and any("flat" in n for n in e.notes)
    e = found(saturated(), [[2.0], [0.5]], mode="boundary")
    np.testing.assert_allclose(e.attributions["x"], [[2.0], [0.5]], atol=1e-4)
    ball = found(saturated(), [[2.0]], mode="ball")
    assert not ball.attributions["x"].any()


@pytest.mark.parametrize("mode", ["flow", "ball"])
def test_the_box_holds(mode: str) -> None:
    e = found(affine(), X, mode=mode, radius=5.0, box=[-1.5, 1.5])
    end = X + e.attributions["x"]
    assert end.max() <= 1.5 + 1e-5 and end.min() >= -1.5 - 1e-5
    # The best corner within reach is where every element that w names is at its end.
    assert ((np.abs(end - 1.5 * np.sign(W)) < 1e-3) | (np.abs(W) < 0.1)).any()


def test_several_inputs_move_together() -> None:
    """a + 2 b: lengths are those of both together."""
    proto = model(
        [node("Mul", "b two", "c"), node("Add", "a c", "d"), node("ReduceSum", "d axes", "y")],
        {"a": ["N", 2], "b": ["N", 2]}, {"y": ["N", 1]}, {"axes": np.array([1]), "two": np.array([2.0])},
    )  # fmt: skip
    feeds = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 2), np.float32)}
    e = ox.explain(proto, feeds, method="nonlinear_saliency", radius=0.1)
    np.testing.assert_allclose(e.attributions["b"], 2 * e.attributions["a"], rtol=1e-4)
    both = np.concatenate([e.attributions["a"], e.attributions["b"]], axis=1)
    assert np.linalg.norm(both) == pytest.approx(0.1 * 2.0, rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "walk"},
        {"norm": 3},
        {"budget": "time"},
        {"mode": "ball", "budget": "flip"},
        {"mode": "boundary", "budget": "radius"},
        {"radius": 0.0},
        {"step": -1.0},
        {"steps": 0},
        {"box": 1.0},
        {"box": [1.0, -1.0]},
        {"direction": "up"},
        {"returns": "map"},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        found(affine(), X, **options)


def test_one_class_of_several_has_no_boundary() -> None:
    with pytest.raises(OptionError, match="head='margin'"):
        found(smooth_net(), X, mode="boundary")
    weights = ox.Target.weights([1.0, -1.0, 0.0])
    assert found(smooth_net(), X, mode="boundary", target=weights).attributions["x"].any()
