"""Completeness error: zero for complete methods, and what is missing for others."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from tiny_models import fullgrad_net, simple_model

from onnxplain.engine.loading import load

X = np.array([[5.0, 3.0], [1.0, 3.0]])


def test_golden_vector_of_integrated_gradients_and_deeplift() -> None:
    """x = (1, 3): integrated gradients and DeepLIFT give (1.075, -3.225), and f falls from 1.65 to -0.5."""
    for name, options, close in (("integrated_gradients", {"steps": 2000}, 2e-3), ("deeplift", {}, 1e-5)):
        case = by_method(load(simple_model(), threads=1), X, name, **options)
        assert case.relevance[1] == pytest.approx([1.075, -3.225], rel=close)
        assert measured(case, "completeness_error").values == pytest.approx([0, 0], abs=2 * close)


def test_input_times_gradient_misses_the_biases() -> None:
    """x = (5, 3): f is 3.85 and input times gradient (5.5, -3.3); at zero f is 1.65, and the first bias gives that."""
    case = by_method(load(simple_model(), threads=1), X[:1], "input_x_gradient", score="probability")
    assert measured(case, "completeness_error", baseline=None).values == pytest.approx([3.85 - 2.2], rel=1e-5)
    assert measured(case, "completeness_error").values == pytest.approx([3.85 - 1.65 - 2.2], abs=1e-5)
    assert measured(case, "completeness_error").facts["scored"] == "logit"


def test_relative_error_and_other_baselines() -> None:
    x = np.array([[1.0, 2.0, 3.0]])
    case = given(linear(np.ones(3), bias=0.5), x, np.full((1, 3), 1.5))
    assert measured(case, "completeness_error").values == pytest.approx([1.5])
    assert measured(case, "completeness_error", relative=True).values == pytest.approx([0.25])
    assert measured(case, "completeness_error", baseline=1.0).values == pytest.approx([1.5])
    assert measured(case, "completeness_error", baseline="mean").values == pytest.approx([4.5])


def test_the_methods_own_residual_stands_beside_it() -> None:
    proto, x = fullgrad_net()
    found = measured(by_method(load(proto, threads=1), x, "fullgrad"), "completeness_error", baseline=None)
    assert found.values[0] > 0.1  # the biases' share is not in the input's attribution
    assert found.facts["own_residual"] < 1e-5
