"""Faithfulness correlation: 1 on linear models, and against NumPy's own coefficient."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from tiny_models import fullgrad_net

from onnxplain.engine.draws import generator
from onnxplain.engine.loading import load


def test_linear_model() -> None:
    random = np.random.default_rng(0)
    weights, x = random.normal(size=20), random.normal(size=(3, 20))
    found = measured(given(linear(weights), x, x * weights), "faithfulness_correlation", fill=0.0, runs=30)
    assert found.values == pytest.approx(np.ones(3), abs=1e-9)
    assert found.facts == {"size": 4, "subsets": 30, "scored": "logit", "of": "attribution"}


def test_against_numpy() -> None:
    proto, x = fullgrad_net()
    case = by_method(load(proto, threads=1), x, "gradient", score="probability", seed=7)
    found = measured(case, "faithfulness_correlation", share=0.5, runs=40, fill="mean").values[0]
    sums, falls = [], []
    for k in range(40):
        members = generator(7, 8, k).choice(16, size=8, replace=False)
        without = x.copy()
        without.reshape(-1)[members] = x.mean()
        sums.append(case.attribution.reshape(-1)[members].sum())
        falls.append(case.clean[0] - case.scorer.scores(without, np.zeros(1))[0])
    assert found == pytest.approx(np.corrcoef(sums, falls)[0, 1], abs=1e-5)  # probabilities in float32


def test_layer_maps_count_by_their_map() -> None:
    """A class activation map has no attribution per place of the input, but a map."""
    x = np.random.default_rng(0).normal(size=(2, 1, 4, 4))
    case = given(linear(np.ones((1, 4, 4))), x, np.zeros((2, 8, 2, 2)), saliency=x[:, 0])
    found = measured(case, "faithfulness_correlation", fill=0.0)
    assert found.facts["of"] == "map"
    assert found.values == pytest.approx([1, 1], abs=1e-9)
