"""Finite differences that survive kinks: right derivatives are never failed, wrong ones are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxplain.engine.differences import DOUBLE, SINGLE, Precision, Summary, compare, spread, summarise

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]


def judged(f: Function, g: Function, x: Array, precision: Precision = DOUBLE, count: int = 8, seed: int = 0) -> Summary:
    """A function of ``[B, ...]`` and its gradient, in the type of x."""
    points = compare(lambda p, _: f(p["x"]), lambda p, _: {"x": g(p["x"])}, {"x": x}, precision, count=count, seed=seed)
    return summarise(points)


def smooth(x: Array) -> Array:
    return np.asarray(np.sin(3 * x).sum(axis=1) + (x**2).sum(axis=1))


def smooth_gradient(x: Array) -> Array:
    return 3 * np.cos(3 * x) + 2 * x


def relu_net(width: int, dtype: Any, bias: float = 0.0) -> tuple[Function, Function]:
    """Two layers without biases: everything meets its kink at x = 0."""
    rng = np.random.default_rng(1)
    w, v = (rng.normal(size=s).astype(dtype) for s in ((20, width), (width,)))
    w /= np.sqrt(20)

    def f(x: Array) -> Array:
        return np.asarray(np.maximum(x @ w + dtype(bias), 0) @ v)

    def g(x: Array) -> Array:
        return np.asarray(((x @ w + dtype(bias) > 0) * v) @ w.T)

    return f, g


X = np.random.default_rng(0).normal(size=(2, 20))


# ----- right derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_smooth(seed: int) -> None:
    found = judged(smooth, smooth_gradient, X, seed=seed)
    assert found.verdict == "pass"
    assert found.judged == 8
    assert found.error < 1e-6
    single = judged(smooth, smooth_gradient, X.astype(np.float32), SINGLE, seed=seed)
    assert single.verdict == "pass"
    assert single.error < 0.02


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("width", [30, 3000])
def test_many_kinks(width: int, seed: int) -> None:
    f, g = relu_net(width, np.float32)
    found = judged(f, g, X.astype(np.float32), SINGLE, seed=seed)
    assert found.verdict == "pass", found
    f, g = relu_net(width, np.float64)
    assert judged(f, g, X, seed=seed).verdict == "pass"


@pytest.mark.parametrize("seed", range(10))
def test_a_sample_on_all_kinks_at_once(seed: int) -> None:
    """A black picture into a net without biases: central differences at the sample give half the slope, at every step."""
    f, g = relu_net(300, np.float64)
    zero = np.zeros((1, 20))
    slopes = [(f(zero + h) - f(zero - h)) / (2 * h) for h in (1e-3, 1e-5)]
    assert np.isclose(*slopes)
    assert not np.isclose(slopes[0], g(zero).sum())
    assert judged(f, g, zero, seed=seed).verdict == "pass"
    f, g = relu_net(300, np.float32)
    assert judged(f, g, zero.astype(np.float32), SINGLE, seed=seed).verdict == "pass"


@pytest.mark.parametrize("seed", range(5))
def test_steps_are_set_aside(seed: int) -> None:
    """A staircase on a slope: most steps cross an edge, and their slopes disagree by the size of the step."""
    edges = judged(lambda x: np.floor(1e4 * x).sum(axis=1) * 1e-3 + x.sum(axis=1), np.ones_like, X, seed=seed, count=16)
    assert edges.differing == 0


def test_numbers_of_all_sizes() -> None:
    """Columns of a table, from a millionth to a million: each is moved by its own size."""
    size = 10.0 ** np.arange(-6, 7)
    x = np.random.default_rng(2).normal(size=(2, 13)) * size
    found = judged(lambda p: np.tanh(p / size).sum(axis=1), lambda p: (1 - np.tanh(p / size) ** 2) / size, x)
    assert found.verdict == "pass"


def test_domains_that_end_at_zero() -> None:
    x = np.array([[1e-3, 0.5, 4.0]])
    assert judged(lambda p: np.log(p).sum(axis=1), lambda p: 1 / p, x).verdict == "pass"
    edge = np.array([[0.0, 0.5, 4.0]])  # the square root has no derivative there, and no value on one side
    with np.errstate(all="ignore"):
        found = judged(lambda p: np.sqrt(p).sum(axis=1), lambda p: 0.5 / np.sqrt(p), edge)
    assert found.verdict != "fail"


def test_half_precision_inputs() -> None:
    """Points are rounded to the input's type; what was really gone is what counts."""
    x = np.random.default_rng(3).normal(size=(2, 400)).astype(np.float16)
    found = judged(lambda p: smooth(p.astype(np.float32)), lambda p: smooth_gradient(p.astype(np.float64)), x, SINGLE)
    assert found.verdict == "pass"


# ----- wrong ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [1 + 1e-4, 0.5, -1.0, 0.0, 1e6, 1e-6])
def test_scaled(wrong: float) -> None:
    assert judged(smooth, lambda x: wrong * smooth_gradient(x), X).verdict == "fail"


@pytest.mark.parametrize("wrong", [1.3, 0.5, -1.0, 0.0, 1e6, 1e-6])
@pytest.mark.parametrize("width", [30, 3000])
def test_scaled_in_single_precision_between_kinks(wrong: float, width: int) -> None:
    f, g = relu_net(width, np.float32)
    assert judged(f, lambda x: np.float32(wrong) * g(x), X.astype(np.float32), SINGLE).verdict == "fail"


def test_one_component_missing() -> None:
    def lacking(x: Array) -> Array:
        found = smooth_gradient(x)
        found[:, 7] = 0
        return found

    assert judged(smooth, lacking, X).verdict == "fail"


def test_one_of_two_tensors_wrong() -> None:
    def f(p: Any, _: Array) -> Array:
        return np.asarray((p["a"] * p["b"]).sum(axis=1))

    x = {"a": X, "b": X[:, ::-1].copy()}
    right = compare(f, lambda p, _: {"a": p["b"], "b": p["a"]}, x, DOUBLE)
    wrong = compare(f, lambda p, _: {"a": p["b"], "b": p["b"]}, x, DOUBLE)
    assert (summarise(right).verdict, summarise(wrong).verdict) == ("pass", "fail")


# ----- nothing to say --------------------------------------------------------------------------------


def test_flat_is_undecided() -> None:
    found = judged(lambda x: np.zeros(len(x)), np.zeros_like, X)
    assert found.flat
    assert found.verdict == "undecided"


def test_noise_is_undecided() -> None:
    """A score whose digits are all noise."""
    rng = np.random.default_rng(5)
    found = judged(lambda x: 1e-4 * smooth(x) + rng.normal(size=len(x)), lambda x: 1e-4 * smooth_gradient(x), X)
    assert found.verdict == "undecided"
    assert found.rounding + found.kinks >= 6


def test_not_a_number_is_undecided() -> None:
    found = judged(lambda x: np.full(len(x), np.nan), np.ones_like, X)
    assert found.verdict == "undecided"
    assert found.judged == 0


# ----- draws -----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_directions() -> None:
    def run(seed: int) -> list[float]:
        found = compare(
            lambda p, _: smooth(p["x"]), lambda p, _: {"x": smooth_gradient(p["x"])}, {"x": X}, DOUBLE, seed=seed
        )
        return [d.predicted for d in found]

    assert run(3) == run(3) != run(4)


def test_directions_take_turns_among_the_samples() -> None:
    found = compare(lambda p, _: smooth(p["x"]), lambda p, _: {"x": smooth_gradient(p["x"])}, {"x": X}, DOUBLE, count=5)
    assert [d.sample for d in found] == [0, 1, 0, 1, 0]


def test_spread() -> None:
    np.testing.assert_array_equal(spread(np.zeros(3)), np.ones(3))
    found = spread(np.array([0.0, -2.0, 1e-9, *[1.0] * 20]))
    assert found[1] == 2.0
    assert found[0] == found[2] == 1.0  # moved like the small ones of the others, not by nothing
