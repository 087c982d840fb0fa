"""Shapley sampling against published values, exact enumeration and the same orders walked by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox

Array = np.ndarray[Any, Any]


def smallest(*shape: int) -> onnx.ModelProto:
    """min over all elements."""
    return model(
        [node("ReduceMin", "x axes", "y", keepdims=0)],
        {"x": ["N", *shape]},
        {"y": ["N"]},
        {"axes": np.arange(1, 1 + len(shape))},
    )


def product() -> onnx.ModelProto:
    """x0 x1 x2 + x3: its Shapley values at baseline 0 are a third of the product each, and x3."""
    return model(
        [node("Mul", "x one", "p"), node("Split", "p", "a b c d", axis=1, num_outputs=4), node("Mul", "a b", "e"),
         node("Mul", "e c", "f"), node("Add", "f d", "y")],
        {"x": ["N", 4]}, {"y": ["N", 1]}, {"one": np.ones(4)},
    )  # fmt: skip


@pytest.mark.parametrize(("x", "expected"), [((2, -2), (0, -2)), ((4, 2), (1, 1))])
def test_published_minimum(x: Any, expected: Any) -> None:
    """Two features have two orders: an antithetic pair holds both, and the answer is exact."""
    e = ox.explain(smallest(2), np.array([x], np.float32), method="shapley_sampling", permutations=2, antithetic=True)
    np.testing.assert_allclose(e.attributions["x"], [expected], atol=1e-6)
    sampled = ox.explain(smallest(2), np.array([x], np.float32), method="shapley_sampling", permutations=2000)
    np.testing.assert_allclose(sampled.attributions["x"], [expected], atol=0.1)


def test_published_minimum_over_rows() -> None:
    x = np.array([[[-1, 4], [-2, 1]]], np.float32)
    for players in ("axis:1", [[0, 0], [1, 1]]):
        e = ox.explain(
            smallest(2, 2), x, method="shapley_sampling", players=players, permutations=2, antithetic=True,
        )  # fmt: skip
        np.testing.assert_allclose(e.attributions["x"].sum(axis=2), [[-0.5, -1.5]], atol=1e-6)


@pytest.mark.parametrize("permutations", [1, 3])
@pytest.mark.parametrize("baseline", ["zero", 0.3, "noise:3"])
def test_every_order_sums(permutations: int, baseline: Any) -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    e = ox.explain(
        proto, batch, method="shapley_sampling", permutations=permutations, baseline=baseline, target=1,
        players="features", strict=True,
    )  # fmt: skip
    assert e.residual is not None and e.baseline_score is not None
    np.testing.assert_allclose(
        e.attributions["x"].sum(axis=(1, 2, 3)), e.score - e.baseline_score, rtol=1e-4, atol=1e-4
    )
    assert np.abs(e.score - e.baseline_score).min() > 0.1


def test_the_orders_themselves() -> None:
    """Orders drawn again by their key (seed, sample, draw), walked one by one."""
    x = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, -1.0, 0.5, 1.0]])

    def f(row: Array) -> float:
        return float(row[0] * row[1] * row[2] + row[3])

    drops = np.zeros((2, 3, 4))
    for sample, draw in itertools.product(range(2), range(3)):
        row = x[sample].copy()
        for player in np.random.default_rng([7, draw]).permutation(4):
            before = f(row)
            row[player] = 0
            drops[sample, draw, player] = before - f(row)
    e = ox.explain(product(), x.astype(np.float32), method="shapley_sampling", permutations=3, seed=7)
    np.testing.assert_allclose(e.attributions["x"], drops.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(e.standard_errors["x"], drops.std(axis=1, ddof=1) / 3**0.5, atol=1e-5)
    assert any("largest standard error" in note for note in e.notes)


def test_closed_form_of_a_product() -> None:
    """Within five standard errors, which are told; antithetic orders are nearer."""
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    plain = ox.explain(product(), x, method="shapley_sampling", permutations=400)
    paired = ox.explain(product(), x, method="shapley_sampling", permutations=400, antithetic=True)
    for e in (plain, paired):
        gap = np.abs(e.attributions["x"] - [[2, 2, 2, 4]])
        assert (gap <= 5 * e.standard_errors["x"] + 1e-6).all()
    assert (paired.standard_errors["x"][0, :3] < plain.standard_errors["x"][0, :3]).all()
    assert not ox.explain(product(), x, method="shapley_sampling", permutations=1).standard_errors


def test_interactions_with_the_baseline() -> None:
    """Over several baselines the values are the means of those over each."""
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    low = [np.zeros(4, np.float32), np.array([1.0, 1.0, -1.0, 2.0], np.float32)]
    both = ox.explain(product(), x, method="shapley_sampling", baseline=low).attributions["x"]
    each = [ox.explain(product(), x, method="shapley_sampling", baseline=b).attributions["x"] for b in low]
    np.testing.assert_allclose(both, np.mean(each, axis=0), atol=1e-5)


def test_a_result_keeps_its_errors(tmp_path: Any) -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    e = ox.explain(product(), x, method="shapley_sampling")
    back = ox.Explanation.load(e.save(tmp_path / "e.npz"))
    np.testing.assert_array_equal(back.standard_errors["x"], e.standard_errors["x"])
