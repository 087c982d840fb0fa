"""A sigmoid in its parts: the forms that converters write, what only looks like one, and numbers past exp's range."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox

X = np.array([[0.3, -2.0, 1.0], [200.0, -200.0, 90.0]], np.float32)
FORMS = {
    "skl2onnx": [
        node("Mul", "x minus", "u"),
        node("Exp", "u", "e"),
        node("Add", "e one", "t"),
        node("Reciprocal", "t", "y"),
    ],
    "calibration": [node("Neg", "x", "u"), node("Exp", "u", "e"), node("Add", "one e", "t"), node("Div", "one t", "y")],
}
OTHERS = {
    "another sum": [node("Neg", "x", "u"), node("Exp", "u", "e"), node("Add", "two e", "t"), node("Div", "one t", "y")],
    "another share": [
        node("Neg", "x", "u"),
        node("Exp", "u", "e"),
        node("Add", "one e", "t"),
        node("Div", "two t", "y"),
    ],
}


def net(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    weights = {name: np.array(v, np.float32) for name, v in (("one", 1.0), ("two", 2.0), ("minus", -1.0))}
    return model([*nodes, node("Mul", "y two", "z")], {"x": ["N", 3]}, {"z": ["N", 3]}, weights)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_finite_where_the_exponential_is_not(form: str) -> None:
    p = 1 / (1 + np.exp(-X.astype(np.float64)))
    for k in range(3):
        e = ox.explain(net(FORMS[form]), X, method="gradient", target=k)
        np.testing.assert_allclose(e.outputs["z"], 2 * p, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(e.attributions["x"][:, k], (2 * p * (1 - p))[:, k], rtol=1e-4, atol=1e-7)


def test_a_positive_exponent_is_the_other_sigmoid() -> None:
    nodes = [node("Exp", "x", "e"), node("Add", "e one", "t"), node("Reciprocal", "t", "y")]
    p = 1 / (1 + np.exp(X.astype(np.float64)))
    e = ox.explain(net(nodes), X, method="gradient", target=0)
    np.testing.assert_allclose(e.attributions["x"][:, 0], (-2 * p * (1 - p))[:, 0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", OTHERS)
def test_what_only_looks_like_it_stays(form: str) -> None:
    operators = [n.op_type for n in ox.load(net(OTHERS[form])).canonical.graph]
    assert "Exp" in operators and "Sigmoid" not in operators
