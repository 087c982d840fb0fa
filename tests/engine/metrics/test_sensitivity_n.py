"""Sensitivity-n: 1 for every n on linear models, exact at n = N for complete methods, NaN where it is not defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from tiny_models import fullgrad_net, simple_model

from onnxplain.engine.errors import OptionError
from onnxplain.engine.loading import load

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(1, 4, 5))
X = RANDOM.normal(size=(3, 1, 4, 5))

#: The methods of the paper; on a linear model all of them are exact.
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("input_x_gradient", {}),
    ("integrated_gradients", {"steps": 5}),
    ("deeplift", {}),
    ("lrp", {"mode": "modified_gradient"}),
    ("occlusion", {"window": 1, "stride": 1}),
]


@pytest.mark.parametrize(("name", "options"), METHODS, ids=[m for m, _ in METHODS])
def test_linear_model_every_method_every_n(name: str, options: dict[str, Any]) -> None:
    case = by_method(linear(WEIGHTS, bias=0.7), X, name, score="probability", **options)
    found = measured(case, "sensitivity_n", sizes=(1, 2, 5, 10, 19), subsets=20)
    # Rounding of float32 scores of size 1 to 10.
    assert found.curves["correlation"][1] == pytest.approx(np.ones((3, 5)), abs=1e-9)
    assert found.curves["error"][1] == pytest.approx(np.zeros((3, 5)), abs=2e-5)
    assert found.values == pytest.approx(np.ones(3), abs=1e-9)
    assert found.facts["scored"] == "logit"


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_complete_methods_are_exact_with_all_features(name: str) -> None:
    proto, x = fullgrad_net()
    options = {"steps": 300} if name == "integrated_gradients" else {}
    case = by_method(load(proto, threads=1), np.concatenate([x, 0.5 - x]), name, **options)
    found = measured(case, "sensitivity_n", sizes=(1, 16), subsets=5)
    falls = case.clean - case.scorer.scores(np.zeros_like(case.x), case.target)
    assert found.curves["error"][1][:, 1] == pytest.approx([0, 0], abs=2e-3 * np.abs(falls).max())
    # All subsets of 16 are the same: no correlation there, and the mean is over what is known.
    assert np.isnan(found.curves["correlation"][1][:, 1]).all()
    assert found.values == pytest.approx(found.curves["correlation"][1][:, 0])


def test_an_incomplete_method_is_not_exact_with_all_features() -> None:
    proto, x = fullgrad_net()
    found = measured(by_method(load(proto, threads=1), x, "gradient"), "sensitivity_n", sizes=(16,), subsets=2)
    assert found.curves["error"][1][0, 0] > 0.1


def test_occlusion_is_exact_for_one_feature() -> None:
    case = by_method(
        load(simple_model(), threads=1), np.array([[1.0, 3.0], [5.0, 3.0]]), "occlusion", window=1, stride=1
    )
    found = measured(case, "sensitivity_n", sizes=(1,), subsets=30)
    assert found.curves["error"][1] == pytest.approx(np.zeros((2, 1)), abs=1e-5)
    assert found.values == pytest.approx([1, 1], abs=1e-9)


def test_against_a_plain_computation() -> None:
    proto, x = fullgrad_net()
    case = by_method(load(proto, threads=1), x, "gradient")
    found = measured(case, "sensitivity_n", sizes=(4,), subsets=50).curves["correlation"][1][0, 0]
    from onnxplain.engine.draws import generator

    sums, falls = [], []
    for k in range(50):
        members = generator(0, 4, k).choice(16, size=4, replace=False)
        without = x.copy()
        without.reshape(-1)[members] = 0
        sums.append(case.attribution.reshape(-1)[members].sum())
        falls.append(case.clean[0] - case.scorer.scores(without, np.zeros(1))[0])
    assert found == pytest.approx(np.corrcoef(sums, falls)[0, 1], abs=1e-6)


def test_channels_are_one_feature() -> None:
    weights = RANDOM.normal(size=(3, 2, 2))
    x = RANDOM.normal(size=(2, 3, 2, 2))
    found = measured(given(linear(weights), x, x * weights), "sensitivity_n", sizes=(1, 3), subsets=12)
    assert found.values == pytest.approx([1, 1], abs=1e-9)


def test_the_wrong_sign_gives_minus_one_and_a_constant_nothing() -> None:
    wrong = measured(given(linear(WEIGHTS), X, -X * WEIGHTS), "sensitivity_n", subsets=10)
    assert wrong.values == pytest.approx(-np.ones(3), abs=1e-9)
    flat = measured(given(linear(WEIGHTS), X, np.ones_like(X)), "sensitivity_n", subsets=10)
    assert np.isnan(flat.values).all()
    deaf = measured(given(linear(np.zeros((1, 4, 5)), bias=3.0), X, X), "sensitivity_n", subsets=10)
    assert np.isnan(deaf.values).all()


def test_default_grid() -> None:
    found = measured(given(linear(WEIGHTS), X, X * WEIGHTS), "sensitivity_n", subsets=3)
    assert found.facts["sizes"][0] == 1 and found.facts["sizes"][-1] == 16
    assert found.facts["sizes"] == sorted(set(found.facts["sizes"]))


def test_refusals() -> None:
    case = given(linear(WEIGHTS), X, X)
    with pytest.raises(OptionError, match="there are 20 features"):
        measured(case, "sensitivity_n", sizes=(21,))
    with pytest.raises(OptionError, match="sizes="):
        measured(case, "sensitivity_n", sizes=(0,))
    with pytest.raises(OptionError, match="subsets=1"):
        measured(case, "sensitivity_n", subsets=1)
