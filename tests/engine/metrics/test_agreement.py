"""Agreement of a method's map with another method's."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, linear, measured
from tiny_models import fullgrad_net

from onnxplain.engine.errors import OptionError
from onnxplain.engine.loading import load


@pytest.mark.parametrize("by", ["spearman", "ssim", "top_k"])
def test_a_method_agrees_with_itself(by: str) -> None:
    proto, x = fullgrad_net()
    case = by_method(load(proto, threads=1), np.concatenate([x, 0.5 - x]), "gradient")
    found = measured(case, "agreement", other="gradient", by=by)
    assert found.values == pytest.approx([1, 1])
    assert found.facts == {"other": "gradient", "by": by}


def test_methods_that_coincide_on_a_linear_model() -> None:
    weights, x = np.random.default_rng(0).normal(size=(2, 30))
    case = by_method(linear(weights), x[None], "input_x_gradient")
    assert measured(case, "agreement", other="deeplift").values == pytest.approx([1], abs=1e-9)


def test_random_maps_agree_by_chance() -> None:
    weights = np.random.default_rng(0).normal(size=2000)
    case = by_method(linear(weights), np.ones((1, 2000)), "gradient")
    # The standard deviation of a rank correlation of 2,000 places is 0.022; of 200 places in common, 0.02.
    assert abs(measured(case, "agreement", other="random").values[0]) < 0.1
    assert measured(case, "agreement", other="random", by="top_k").values[0] == pytest.approx(0.1, abs=0.08)


def test_refusals() -> None:
    case = by_method(linear(np.ones(3)), np.ones((1, 3)), "gradient")
    with pytest.raises(OptionError, match="unknown method"):
        measured(case, "agreement", other="gradiend")
    with pytest.raises(OptionError, match="by='eye'"):
        measured(case, "agreement", by="eye")
