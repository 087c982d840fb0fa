"""Max-sensitivity: zero for explanations that do not move, and its limit for the gradient of a quadratic."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured, quadratic

from onnxplain.engine.draws import generator

X = np.random.default_rng(0).uniform(size=(3, 6))


def test_a_constant_explanation_does_not_move() -> None:
    assert measured(by_method(linear(np.arange(6.0)), X, "gradient"), "max_sensitivity").values == pytest.approx(
        np.zeros(3)
    )
    assert measured(by_method(linear(np.arange(6.0)), X, "random"), "max_sensitivity").values == pytest.approx(
        np.zeros(3)
    )


def test_the_gradient_of_a_quadratic() -> None:
    """The gradient is Qx, so that the largest change is ``max ||Q d|| / ||Q x||`` over the draws."""
    root = np.random.default_rng(1).normal(size=(6, 6))
    matrix = root @ root.T
    found = measured(by_method(quadratic(matrix), X, "gradient"), "max_sensitivity", radius=0.1, samples=20)
    reach = 0.1 * float(X.astype(np.float32).max() - X.astype(np.float32).min())
    steps = np.stack([generator(0, 5, k).uniform(-reach, reach, 6) for k in range(20)])
    want = np.linalg.norm(steps @ matrix, axis=1).max() / np.linalg.norm(X @ matrix, axis=1)
    assert found.values == pytest.approx(want, rel=1e-4)  # differences of float32 gradients
    plain = measured(
        by_method(quadratic(matrix), X, "gradient"), "max_sensitivity", radius=0.1, samples=20, normalised=False
    )
    assert plain.values == pytest.approx(np.full(3, np.linalg.norm(steps @ matrix, axis=1).max()), rel=1e-4)


def test_scale_of_the_explanation_does_not_matter_once_normalised() -> None:
    def value(scale: float, **options: bool) -> np.ndarray:
        def explain(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return scale * points.astype(np.float64), points

        attribution = scale * X.astype(np.float32).astype(np.float64)
        return measured(given(linear(np.ones(6)), X, attribution, explain=explain), "max_sensitivity", **options).values

    assert value(1e3) == pytest.approx(value(1.0), rel=1e-9)
    assert value(1e3, normalised=False) == pytest.approx(1e3 * value(1.0, normalised=False), rel=1e-9)


def test_an_explanation_of_zeros_is_not_divided_by() -> None:
    case = given(
        linear(np.ones(6)), X, np.zeros_like(X), explain=lambda points, targets: (np.ones_like(points), points)
    )
    assert measured(case, "max_sensitivity").values == pytest.approx(np.full(3, np.sqrt(6)))


def test_the_class_stays_that_of_the_clean_input() -> None:
    asked = []

    def explain(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(targets)
        return np.ones_like(points), points

    case = given(linear(np.ones(6)), X, np.ones_like(X), explain=explain)
    case.target = np.array([1, 0, 1])
    measured(case, "max_sensitivity", samples=2)
    assert np.concatenate(asked).tolist() == [1, 1, 0, 0, 1, 1]
