"""DeconvNet against a backward pass written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import example_one, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError


def test_against_a_backward_pass_by_hand() -> None:
    rng = np.random.default_rng(0)
    w, v, u = rng.normal(size=(4, 6)), rng.normal(size=(6, 5)), rng.normal(size=(5, 3))
    proto = model(
        [
            node("MatMul", "x w", "z"),
            node("Relu", "z", "a"),
            node("MatMul", "a v", "s"),
            node("Relu", "s", "t"),
            node("MatMul", "t u", "y"),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 3]},
        {"w": w, "v": v, "u": u},
    )
    x = rng.normal(size=(5, 4)).astype(np.float32)
    found = ox.explain(proto, x, method="deconvnet", target=2).attributions["x"]
    expected = np.maximum(np.maximum(u[:, 2], 0) @ v.T, 0) @ w.T
    np.testing.assert_allclose(found, np.tile(expected, (5, 1)), rtol=1e-5, atol=1e-5)


def test_example_pair() -> None:
    """``relu(relu(x1) - 1 - relu(x2))``: the second weight is -1, so nothing comes back to x2, open gate or not."""
    x = np.array([[3.0, 1.0], [-10.0, -5.0]], np.float32)
    found = ox.explain(example_one(), x, method="deconvnet").attributions["x"]
    np.testing.assert_array_equal(found, [[1.0, 0.0], [1.0, 0.0]])


def test_a_net_without_relu_is_refused() -> None:
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1))})
    with pytest.raises(OptionError, match="there is none between the input and the target"):
        ox.explain(proto, np.ones((1, 2), np.float32), method="deconvnet")
