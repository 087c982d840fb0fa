"""Deletion: both ends of the curve, and the area by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from tiny_models import fullgrad_net

from onnxplain.engine.errors import OptionError
from onnxplain.engine.loading import load


def test_a_linear_model_by_hand() -> None:
    x = np.array([[3.0, 1.0, 2.0, 4.0]])
    found = measured(given(linear(np.ones(4)), x, x), "deletion", steps=4)
    at, curve = found.curves["score"]
    assert at.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve == pytest.approx(np.array([[10, 6, 3, 1, 0]]))
    assert found.values == pytest.approx([(10 + 6 + 3 + 1 + 0 - 5 - 0) / 4])


@pytest.mark.parametrize("fill", [0.0, 0.3, "mean"])
def test_ends_are_the_clean_input_and_the_substrate(fill: float | str) -> None:
    proto, x = fullgrad_net()
    x = np.concatenate([x, 0.5 - x])
    case = by_method(load(proto, threads=1), x, "gradient", score="probability")
    _, curve = measured(case, "deletion", steps=5, fill=fill).curves["score"]
    substrate = np.full_like(x, fill) if isinstance(fill, float) else x.mean(axis=(2, 3), keepdims=True) + 0 * x
    assert curve[:, 0] == pytest.approx(case.scorer.scores(x, case.target), rel=1e-6)
    assert curve[:, -1] == pytest.approx(case.scorer.scores(substrate, case.target), rel=1e-5)


def test_a_last_step_may_be_shorter() -> None:
    x = np.ones((1, 10))
    at, _ = measured(given(linear(np.ones(10)), x, x), "deletion", steps=3).curves["score"]
    assert at.tolist() == [0, 0.4, 0.8, 1]


def test_more_steps_than_places() -> None:
    x = np.ones((1, 3))
    at, curve = measured(given(linear(np.ones(3)), x, x), "deletion", steps=28).curves["score"]
    assert at == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert curve == pytest.approx(np.array([[3, 2, 1, 0]]))


def test_refusals() -> None:
    case = given(linear(np.ones(3)), np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(OptionError, match="steps=0"):
        measured(case, "deletion", steps=0)
    with pytest.raises(OptionError, match="fill='white'"):
        measured(case, "deletion", fill="white")
