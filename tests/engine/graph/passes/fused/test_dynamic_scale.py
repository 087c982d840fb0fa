"""The scale of DynamicQuantizeLinear: differentiated where it is an answer, a constant where levels are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_models import node

import onnxplain as ox
from onnxplain.engine.vjp import vjp

X = np.asarray([[0.5, -1.5, 2.0], [3.5, 0.1, -0.2]], np.float32)


def model(nodes: list[onnx.NodeProto], *outputs: str) -> Any:
    infos = [helper.make_tensor_value_info("x", 1, [2, 3])]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_empty_tensor_value_info(n) for n in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("x", "expected"),
    [(X, [[0, -1, 0], [1, 0, 0]]), (np.abs(X), [[0, 0, 0], [1, 0, 0]]), (-np.abs(X), [[0, 0, 0], [-1, 0, 0]])],
    ids=["both signs", "positive", "negative"],
)
def test_the_range_ends_at_two_elements_or_at_zero(x: Any, expected: Any) -> None:
    proto = model([node("DynamicQuantizeLinear", "x", "q s z")], "q", "s", "z")
    found = vjp(proto, {"x": x}, {"s": np.asarray(255.0, np.float32)})["x"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_zeros_have_the_scale_that_the_runtime_gives() -> None:
    proto = model([node("DynamicQuantizeLinear", "x", "q s z")], "q", "s", "z")
    found = vjp(proto, {"x": np.zeros_like(X)}, {"s": np.asarray(1.0, np.float32)})["x"]
    np.testing.assert_array_equal(found, 0)


def test_where_levels_are_used_the_scale_stays_a_constant() -> None:
    """Straight through the round trip: the derivative of the identity, without what the scale would add."""
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z", "y")]
    e = ox.explain(model(nodes, "y"), X, method="gradient", target=1)
    np.testing.assert_allclose(e.attributions["x"], [[0, 1, 0], [0, 1, 0]], atol=1e-6)
