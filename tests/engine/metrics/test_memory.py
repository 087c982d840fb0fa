"""Memory: a child that grows by what is known, failures that are told, and a real method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from tiny_models import model, node

from onnxplain.engine.errors import OptionError, SessionError
from onnxplain.engine.evaluation.footprint import footprint
from onnxplain.engine.loading import Model, load


def wide(columns: int) -> Model:
    """One matrix of ``8 * columns`` weights, and as wide a tensor inside."""
    weights = np.random.default_rng(0).normal(size=(8, columns)).astype(np.float32)
    proto = model(
        [node("MatMul", "x w", "wide"), node("Tanh", "wide", "t"), node("ReduceSum", "t axes", "y")],
        {"x": ["N", 8]}, {"y": ["N", 1]}, {"w": weights, "axes": np.array([1], dtype=np.int64)},
    )  # fmt: skip
    return load(proto, threads=1)


@pytest.mark.slow
def test_weights_and_batch_show() -> None:
    """32 MiB of weights are loaded; tensors of 1 MiB per sample grow with the batch."""
    case = by_method(wide(1 << 20), np.ones((4, 8)), "gradient")
    found = footprint(case, 4)
    assert 32 < found.loading < 600  # the graph is parsed and folded, of which some copies may stay
    assert found.explaining > 16  # at least one tensor of [4, 2^20] floats
    assert found.total == pytest.approx(found.loading + found.explaining, abs=1)
    small = footprint(by_method(wide(1 << 10), np.ones((4, 8)), "gradient"), 4)
    assert small.total < found.total / 2


def test_one_value_stands_for_all_samples() -> None:
    found = measured(by_method(linear(np.ones(3)), np.ones((2, 3)), "integrated_gradients", steps=5), "memory")
    assert found.values[0] == found.values[1] > 0
    assert found.facts["unit"] == "MiB" and found.facts["batch"] == 1
    assert found.facts["total"] == found.values[0]


def test_maps_without_a_model_have_none() -> None:
    assert np.isnan(measured(by_method(linear(np.ones(3)), np.ones((2, 3)), "random"), "memory").values).all()
    assert np.isnan(measured(given(linear(np.ones(3)), np.ones((2, 3)), np.ones((2, 3))), "memory").values).all()


def test_what_cannot_be_handed_over_and_what_fails_there() -> None:
    case = by_method(linear(np.ones(3)), np.ones((2, 3)), "gradient")
    assert case.origin is not None
    closed = replace(case, origin=replace(case.origin, options={"reduction": lambda x: x}))
    with pytest.raises(OptionError, match="leave the metric out"):
        footprint(closed)
    with pytest.raises(SessionError, match="unknown method 'gradiend'"):
        footprint(replace(case, origin=replace(case.origin, method="gradiend")))
