"""The straight-through gradient of quantised tensors, against its definition and against a float model.

Rounding is flat, so finite differences say zero: what is asked of these rules is that the gradient passes
as if rounding were the identity, stops where the integers saturate, and keeps the full-gradient identity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from rule_cases import Case, case, check, parametrize, uniform
from single_node import bias_of
from tiny_models import node

import onnxplain as ox
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.vjp import vjp

SCALE = np.float32(0.5)


def round_trip(low: Any, scale: Any, x: np.ndarray[Any, Any], axis: int = 1) -> Any:
    """``DequantizeLinear(QuantizeLinear(x))`` with the zero point 0 of the type of ``low``."""
    zero = np.zeros(np.shape(scale), low)
    graph = helper.make_graph(
        [node("QuantizeLinear", "x s z", "q", axis=axis), node("DequantizeLinear", "q s z", "y", axis=axis)],
        "round_trip",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(zero, "z")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("integer", "low", "high"), [(np.int8, -128, 127), (np.uint8, 0, 255)])
def test_passes_inside_the_range_and_stops_where_it_saturates(integer: Any, low: int, high: int) -> None:
    middle = (low + high) / 2
    levels = np.array([[low - 3.0, low - 1.0, low, low + 0.3, middle, high - 0.3, high, high + 1.0, high + 9.0]])
    x = (levels * SCALE).astype(np.float32)
    found = vjp(round_trip(integer, SCALE, x), {"x": x}, {"y": np.full_like(x, 3.0)})["x"]
    np.testing.assert_array_equal(found, [[0, 0, 3, 3, 3, 3, 3, 0, 0]])


def test_scale_per_axis() -> None:
    """Each channel has its own range: 100 is inside one and far outside the other."""
    x = np.array([[100.0, 100.0]], np.float32)
    found = vjp(round_trip(np.int8, np.array([0.1, 1.0], np.float32), x), {"x": x}, {"y": np.ones_like(x)})["x"]
    np.testing.assert_array_equal(found, [[0.0, 1.0]])


@pytest.mark.parametrize("integer", [np.int8, np.uint8])
def test_identity_of_the_full_gradient_is_exact(integer: Any) -> None:
    """In float32, the widest type that these operators take; some values saturate, some do not."""
    x = np.random.default_rng(0).normal(scale=80.0, size=(20, 5)).astype(np.float32)
    proto = round_trip(integer, SCALE, x)
    proto.graph.node.append(
        node("Neg", "y", "end")
    )  # an answer that is quantised is explained in front of its rounding
    proto.graph.output[0].name = "end"
    e = ox.explain(proto, x, method="fullgrad", target=np.arange(20) % 5)
    assert e.residual is not None
    assert e.terms is not None
    assert e.residual.relative.max() < 1e-6
    assert np.abs(e.terms.implicit).max() > 0.1, "rounding and saturation must be visible, or this shows nothing"
    assert e.quantisation == "straight_through"


def test_rounding_is_the_bias_of_the_node() -> None:
    """c = q - x / s inside the range: what rounding added, at most half a level."""
    x = np.array([[0.3, 0.74, -1.1]], np.float32)
    found = bias_of("QuantizeLinear", {"x": x, "s": SCALE, "z": np.int8(0)}, constants=("s", "z"))
    np.testing.assert_allclose(found, np.rint(x / SCALE) - x / SCALE, atol=1e-6)


LEVELS = np.asarray([[[3, -4, 7, 0], [1, 5, -128, 2], [9, 127, -1, 6]], [[2, 2, -3, 8], [-7, 0, 1, 4], [5, -6, 3, 1]]])
Q = LEVELS.astype(np.int8)
ZERO_POINTS = np.asarray([1, -2, 3], np.int8)


def dequantised(**arguments: Any) -> Case:
    """Scales keep off zero, where float32 has nothing to compare relatively."""
    return case("DequantizeLinear", batch=False, draw=uniform(0.2, 1.0), wrt=("s",), opset=21, **arguments)


SCALES = [
    dequantised(q=Q, s=()),
    dequantised(q=Q, s=(), z=np.asarray(-5, np.int8)),
    dequantised(q=Q, s=(3,), z=ZERO_POINTS),
    dequantised(q=Q, s=(3,), axis=-2),
    dequantised(q=Q.astype(np.int32), s=(4,), axis=2),
    dequantised(q=(Q.astype(np.int16) + 200).astype(np.uint8), s=(2,), z=np.asarray([0, 90], np.uint8), axis=0),
    dequantised(q=Q, s=(2, 3, 2), axis=2, block_size=2),
    dequantised(q=Q, s=(2, 2, 4), z=np.resize(ZERO_POINTS, (2, 2, 4)), axis=1, block_size=2),
]


@parametrize(SCALES)
def test_gradient_of_a_scale_is_that_of_a_product(case: Case) -> None:
    """Of constant levels: nothing is rounded, so this one is a derivative."""
    check(case)


@pytest.mark.parametrize("zero", [0, 3])
def test_identity_with_both_data_and_scale_active(zero: int) -> None:
    """y = (q - z) s is bilinear: the bias is -q s, and the levels carry the adjoint of the round trip."""
    x = np.asarray([[0.3, 0.74, -1.1]], np.float32)
    nodes = [node("Mul", "x k", "s"), node("ReduceMax", "s", "scale", keepdims=0),
             node("QuantizeLinear", "x half z", "q"), node("DequantizeLinear", "q scale z", "y")]  # fmt: skip
    weights = {"k": np.float32(0.5), "half": SCALE, "z": np.int8(zero)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    e = ox.explain(proto, x, method="fullgrad", target=1)
    assert e.residual is not None and e.residual.relative.max() < 1e-6
    level = np.rint(x / SCALE)[0, 1]
    slope = np.asarray([[0, 0.74 * 0.5 / SCALE + level * 0.5, 0]])
    np.testing.assert_allclose(ox.explain(proto, x, method="gradient", target=1).attributions["x"], slope, rtol=1e-5)


def test_gradient_of_a_scale_that_rounds_is_refused() -> None:
    """No zero may be returned for something that has no straight-through meaning."""
    x = np.array([[3, -4]], np.float32)
    proto = round_trip(np.int8, SCALE, x)
    with pytest.raises(UnsupportedNodeError, match="quantisation parameter"):
        vjp(proto, {"x": x}, {"y": np.ones_like(x)}, wrt=["s"])


def test_quantised_model_has_the_gradient_of_the_float_one() -> None:
    """A linear layer behind a round trip: the same gradient wherever nothing saturates."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(4, 3)).astype(np.float32)
    x = rng.normal(size=(2, 4)).astype(np.float32)
    proto = round_trip(np.int8, np.float32(0.05), x)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    proto.graph.node.append(node("MatMul", "y w", "out"))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("out", 1, [2, 3]))
    seed = rng.normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(vjp(proto, {"x": x}, {"out": seed})["x"], seed @ w.T, rtol=1e-5)
