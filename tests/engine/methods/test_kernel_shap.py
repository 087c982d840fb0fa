"""KernelSHAP against Shapley's own formula over all coalitions, and the plan of coalitions by itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.methods.kernel_shap import coalition_plan, solution, solve

Array = np.ndarray[Any, Any]


def net(features: int) -> onnx.ModelProto:
    rng = np.random.default_rng(features)
    return model(
        [node("Gemm", "x w b", "z"), node("Tanh", "z", "a"), node("MatMul", "a v", "y")],
        {"x": ["N", features]}, {"y": ["N", 2]},
        {"w": rng.normal(size=(features, 5)), "b": rng.normal(size=5), "v": rng.normal(size=(5, 2))},
    )  # fmt: skip


def brute_force(proto: onnx.ModelProto, x: Array, baseline: Array, groups: Array) -> Array:
    """Shapley's formula: sum over S without i of |S|! (n-|S|-1)! / n! (v(S + i) - v(S))."""
    count = int(groups.max()) + 1
    explainer = ox.compile(proto, method="gradient")
    subsets = list(itertools.product([False, True], repeat=count))
    points = np.stack([np.where(np.array(s)[groups], x, baseline) for s in subsets]).astype(np.float32)
    value = dict(zip(subsets, explainer(points, target=0).score, strict=True))
    result = np.zeros(count)
    for i, s in itertools.product(range(count), subsets):
        if not s[i]:
            size = sum(s)
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            result[i] += weight * (value[(*s[:i], True, *s[i + 1 :])] - value[s])
    return result


@pytest.mark.parametrize("features", [1, 2, 3, 6])
def test_all_coalitions_are_shapley_values(features: int) -> None:
    x = np.random.default_rng(1).normal(size=(2, features)).astype(np.float32)
    e = ox.explain(net(features), x, method="kernel_shap", target=0, strict=True)
    for n in range(2):
        expected = brute_force(net(features), x[n], np.zeros(features), np.arange(features))
        np.testing.assert_allclose(e.attributions["x"][n], expected, atol=2e-5)
    assert any("exact" in note for note in e.notes)


def test_groups_and_baselines() -> None:
    x = np.random.default_rng(2).normal(size=(1, 6)).astype(np.float32)
    groups, low = np.array([0, 0, 1, 1, 1, 2]), np.linspace(-1, 1, 6).astype(np.float32)
    e = ox.explain(net(6), x, method="kernel_shap", target=0, players=groups, baseline=low)
    expected = brute_force(net(6), x[0], low, groups)
    for i in range(3):
        np.testing.assert_allclose(e.attributions["x"][0, groups == i], expected[i] / (groups == i).sum(), atol=2e-5)


def test_dummy_and_symmetry_where_all_coalitions_are_seen() -> None:
    w = np.array([[1.0, -2.0], [1.0, -2.0], [0.0, 0.0], [0.5, 1.0]])
    proto = model(
        [node("MatMul", "x w", "z"), node("Relu", "z", "a"), node("MatMul", "a v", "y")],
        {"x": ["N", 4]}, {"y": ["N", 1]}, {"w": w, "v": np.array([[1.0], [3.0]])},
    )  # fmt: skip
    found = ox.explain(proto, np.array([[0.7, 0.7, 5.0, 2.0]], np.float32), method="kernel_shap").attributions["x"][0]
    assert found[0] == pytest.approx(found[1], abs=1e-6) and abs(found[2]) < 1e-6 < abs(found[0])


def test_sampled_coalitions_come_near_and_sum_exactly() -> None:
    """12 players, 4,094 coalitions: a tenth of them, against all."""
    x = np.random.default_rng(3).normal(size=(2, 12)).astype(np.float32)
    exact = ox.explain(net(12), x, method="kernel_shap", draws=5000, target=0)
    drawn = ox.explain(net(12), x, method="kernel_shap", draws=400, target=0, strict=True)
    assert any("400 coalitions" in note for note in drawn.notes)
    scale = np.abs(exact.attributions["x"]).max()
    assert 1e-6 < np.abs(drawn.attributions["x"] - exact.attributions["x"]).max() < 0.05 * scale
    assert drawn.baseline_score is not None
    np.testing.assert_allclose(drawn.attributions["x"].sum(axis=1), drawn.score - drawn.baseline_score, atol=1e-5)


@pytest.mark.parametrize(("count", "draws"), [(2, 10), (5, 1000), (8, 60), (8, 100), (9, 200), (30, 100), (64, 300)])
def test_plan(count: int, draws: int) -> None:
    rows, weights = coalition_plan(count, draws, seed=0)
    assert len(rows) == len(weights) <= draws
    assert len({row.tobytes() for row in rows}) == len(rows), "each coalition once"
    sizes = rows.sum(axis=1)
    assert sizes.min() >= 1 and sizes.max() < count
    total = sum((count - 1) / (s * (count - s)) for s in range(1, count))
    assert weights.sum() == pytest.approx(total), "the kernel's whole mass"
    assert {row.tobytes() for row in rows} == {(~row).tobytes() for row in rows}, "with every complement"
    if len(rows) == 2**count - 2:
        combinations = np.array([math.comb(count, s) for s in sizes])
        np.testing.assert_allclose(weights, (count - 1) / (combinations * sizes * (count - sizes)))


def test_more_draws_take_more_sizes_whole() -> None:
    """8 players: 16, 56, 112, 70 coalitions of sizes 1, 2, 3, 4 and their complements."""
    counts = {}
    for draws in (40, 160, 254):
        rows, _ = coalition_plan(8, draws, 0)
        sizes = np.minimum(rows.sum(axis=1), 8 - rows.sum(axis=1))
        counts[draws] = [int((sizes == s).sum()) for s in range(1, 5)]
    # Size 1 holds 44 % of the kernel's mass: 40 draws would see 17 of its 16. Size 2 holds 46 % of what is left.
    assert counts[40][0] == 16 and counts[160][:2] == [16, 56] and counts[254] == [16, 56, 112, 70]


def test_solution_of_an_additive_game() -> None:
    rng = np.random.default_rng(0)
    values, rows = rng.normal(size=5), rng.random((20, 5)) < 0.5
    np.testing.assert_allclose(solve(rows, rng.random(20) + 0.1, rows @ values, values.sum()), values, atol=1e-10)


def test_solution_keeps_the_sum_whatever_the_game() -> None:
    rng = np.random.default_rng(0)
    found = solve(rng.random((3, 6)) < 0.5, np.ones(3), rng.normal(size=3), 2.5)
    assert found.sum() == pytest.approx(2.5, abs=1e-12)


def test_more_players_than_a_regression_takes() -> None:
    """Every element of a photograph: refused before anything is allocated."""
    proto = model([node("ReduceMean", "x axes", "y", keepdims=0)], {"x": ["N", 3, 224, 224]}, {"y": ["N"]},
                  {"axes": np.array([1, 2, 3])})  # fmt: skip
    with pytest.raises(OptionError, match="150528 players with 303104 coalitions make a regression of 365 GB"):
        ox.explain(proto, np.ones((1, 3, 224, 224), np.float32), method="kernel_shap", players="features")


@pytest.mark.parametrize(("count", "draws"), [(1, 10), (2, 10), (6, 62), (12, 100)])
def test_the_solution_is_linear_in_the_scores(count: int, draws: int) -> None:
    """As a matrix it gives what the regression gives, for any scores of none, coalitions and all."""
    coalitions, weights = coalition_plan(count, draws, 0)
    rng = np.random.default_rng(count)
    none, some, whole = rng.normal(), rng.normal(size=len(coalitions)), rng.normal()
    expected = solve(coalitions, weights, some - none, whole - none)
    found = solution(coalitions, weights) @ (np.concatenate([[none], some]) - whole)
    np.testing.assert_allclose(found, expected, atol=1e-9)
