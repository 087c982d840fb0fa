"""Infidelity: zero on linear models for any perturbation, zero for complete methods, and free of scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured, quadratic
from onnx import numpy_helper
from tiny_models import fullgrad_net, model, node, simple_model

from onnxplain.engine.errors import OptionError
from onnxplain.engine.loading import load

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(2, 6, 6))
X = RANDOM.uniform(size=(3, 2, 6, 6))

#: The methods of paper 2 give shares of the score.
SHARES: list[tuple[str, dict[str, Any]]] = [
    ("input_x_gradient", {}),
    ("integrated_gradients", {"steps": 5}),
    ("deeplift", {}),
    ("lrp", {"mode": "modified_gradient"}),
]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("name", "options"), SHARES, ids=[m for m, _ in SHARES])
def test_linear_model_squares(name: str, options: dict[str, Any], scaled: bool) -> None:
    case = by_method(linear(WEIGHTS, bias=1.0), X, name, **options)
    # LRP's stabiliser takes about 1e-4 of the score unless it is scaled away.
    limit = 1e-6 if name == "lrp" else 1e-9
    assert measured(case, "infidelity", samples=40, scaled=scaled).values == pytest.approx(np.zeros(3), abs=limit)


@pytest.mark.parametrize("scaled", [False, True])
def test_linear_model_noise(scaled: bool) -> None:
    case = by_method(linear(WEIGHTS), X, "gradient")
    found = measured(case, "infidelity", perturbation="noise", samples=40, scaled=scaled)
    assert found.values == pytest.approx(np.zeros(3), abs=1e-9)


@pytest.mark.parametrize("perturbation", ["squares", "noise"])
def test_scaled_infidelity_does_not_depend_on_the_scale(perturbation: str) -> None:
    proto, x = fullgrad_net()
    source = load(proto, threads=1)
    attribution = np.random.default_rng(1).normal(size=x.shape)
    options = {"perturbation": perturbation, "samples": 30, "largest": 2}
    values = [
        measured(given(source, x, scale * attribution), "infidelity", **options).values[0]
        for scale in (1, -3, 1e-4, 50)
    ]
    assert values == pytest.approx([values[0]] * 4, rel=1e-9)
    free = [
        measured(given(source, x, scale * attribution), "infidelity", scaled=False, **options).values[0]
        for scale in (1, 50)
    ]
    assert free[1] > 10 * free[0]


def test_scaling_is_the_best_there_is() -> None:
    proto, x = fullgrad_net()
    source = load(proto, threads=1)
    attribution = np.random.default_rng(1).normal(size=x.shape)
    best = measured(given(source, x, attribution), "infidelity", samples=30).values[0]
    for factor in np.linspace(-2, 2, 21):
        assert (
            measured(given(source, x, factor * attribution), "infidelity", samples=30, scaled=False).values[0] >= best
        )


def test_a_complete_method_when_all_is_removed() -> None:
    """Two channels of one place: every perturbation removes the whole input, which completeness speaks of."""
    small = simple_model()
    proto = model(
        [node("Flatten", "x", "flat"), node("Gemm", "flat w1 b1", "z"), node("Relu", "z", "a"), node("Gemm", "a w2 b2", "y")],
        {"x": ["N", 2, 1]}, {"y": ["N", 2]}, {i.name: numpy_helper.to_array(i) for i in small.graph.initializer},
    )  # fmt: skip
    x = np.array([[[5.0], [3.0]], [[1.0], [3.0]]])
    complete = by_method(load(proto, threads=1), x, "deeplift")
    assert measured(complete, "infidelity", samples=5, scaled=False).values == pytest.approx([0, 0], abs=1e-9)
    partial = by_method(load(proto, threads=1), x, "input_x_gradient")
    # x = (1, 3): input times gradient sums to -1, and f falls from -0.5 to 1.65.
    assert measured(partial, "infidelity", samples=5, scaled=False).values[1] == pytest.approx(
        (-1 - -2.15) ** 2, rel=1e-5
    )


def test_a_quadratic_by_hand() -> None:
    """``f = x^2 / 2``, R = x: predicted ``x (x - z)``, true ``(x^2 - z^2) / 2``; the error is ``(x - z)^2 / 2``."""
    x = np.array([[1.0]])
    case = given(quadratic(np.eye(1)), np.concatenate([x, 0 * x]), np.concatenate([x, 0 * x]))
    found = measured(case, "infidelity", perturbation="noise", samples=4000, spread=0.3, scaled=False)
    z = np.clip(np.random.default_rng(9).normal(0, 0.3, 200_000), 0, 1)  # the data's range is 0 to 1
    # 4,000 draws: the mean of fourth powers is known to about 1 %.
    assert found.values[0] == pytest.approx(((1 - z) ** 4 / 4).mean(), rel=0.05)


def test_nothing_explained_leaves_the_whole_change() -> None:
    x = np.ones((1, 8))
    case = given(linear(np.ones(8)), x, np.zeros((1, 8)))
    found = measured(case, "infidelity", largest=1, samples=10)
    assert found.values == pytest.approx([1.0])  # one feature goes, and with it 1


def test_refusals() -> None:
    case = given(linear(np.ones(3)), np.ones((1, 3)), np.ones((1, 3)))
    for options in ({"perturbation": "holes"}, {"samples": 1}, {"largest": 0}, {"spread": -1.0}):
        with pytest.raises(OptionError):
            measured(case, "infidelity", **options)
