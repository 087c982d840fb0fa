"""Quantised models as a whole: answers at the end of the integers' range, and integers inside of branches.

The answer has no gradient at the end of the range, what is rounded to it has.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox


def saturated(tail: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Logits 0.9 and -0.3 times a sum, whose quantisation ends at 1.27."""
    nodes = [
        node("QuantizeLinear", "x fine zero", "xq"), node("DequantizeLinear", "xq fine zero", "xd"),
        node("MatMul", "xd w", "z"), node("QuantizeLinear", "z s zero", "zq"), *tail,
    ]  # fmt: skip
    weights = {
        "w": np.array([[0.9, -0.3], [0.9, -0.3]]), "fine": np.array(0.05), "s": np.array(0.01),
        "zero": np.array(0, np.int8), "shape": np.array([0, 2, 1]),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 2]}, {"y": ["N", None]}, weights)


ENDS = {
    "quantised": [node("DequantizeLinear", "zq s zero", "y")],
    "moved": [node("Reshape", "zq shape", "zr"), node("DequantizeLinear", "zr s zero", "y")],
    "softmax behind": [node("DequantizeLinear", "zq s zero", "zd"), node("Softmax", "zd", "y", axis=1)],
}  # fmt: skip


@pytest.mark.parametrize("quantisation", ["straight_through", "float_shadow"])
@pytest.mark.parametrize("end", ENDS)
def test_an_answer_at_the_end_of_the_range_is_explained_in_front_of_its_rounding(end: str, quantisation: str) -> None:
    """The answer's integer is as large as it can be: its derivative is zero, that of what is rounded to it is not."""
    proto, x = saturated(ENDS[end]), np.array([[1.0, 1.0], [0.5, 0.2]], np.float32)
    if end == "moved":
        proto.graph.output[0].type.tensor_type.shape.dim.add()
    e = ox.explain(proto, x, method="fullgrad", target=0, quantisation=quantisation)
    np.testing.assert_allclose(e.score, 0.9 * x.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(e.attributions["x"], 0.9 * x, rtol=1e-6)
    assert e.residual is not None and e.residual.relative.max() < 1e-6
    assert e.head_note
    if end == "quantised":
        np.testing.assert_allclose(e.outputs["y"][:, 0], [1.27, 0.63], rtol=1e-6)
        probability = ox.explain(proto, x, method="gradient", target=0, head="probability", quantisation=quantisation)
        assert np.abs(probability.attributions["x"]).min() > 0


@pytest.mark.parametrize("quantisation", ["straight_through", "float_shadow"])
@pytest.mark.parametrize(("integer", "zero"), [(np.uint8, 0), (np.int8, -128), (np.int8, 127), (np.int8, 5)])
def test_an_end_of_the_range_at_zero_may_be_a_relu_and_stays(integer: type, zero: int, quantisation: str) -> None:
    nodes = [
        node("MatMul", "x w", "z"), node("QuantizeLinear", "z s zero", "q"), node("DequantizeLinear", "q s zero", "y"),
    ]  # fmt: skip
    weights = {"w": np.eye(3), "s": np.array(0.01), "zero": np.array(zero, integer)}
    proto, x = model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, weights), np.array([[-3.0, 1.0, 30.0]], np.float32)
    found = [
        ox.explain(proto, x, method="gradient", target=t, quantisation=quantisation).attributions["x"][0, t]
        for t in range(3)
    ]
    low, high = np.iinfo(integer).min, np.iinfo(integer).max
    kept = (x[0] > 0) | (zero != low) if zero != high else x[0] < 0
    np.testing.assert_array_equal(found, kept.astype(np.float32))


def branched(quantised: bool) -> onnx.ModelProto:
    """If the sum is positive, a product of what was quantised outside and a saturating one inside; else a Neg."""
    inside = [
        node("DequantizeLinear", "xq s zero", "xd"), node("MatMul", "xd w", "m"),
        node("QuantizeLinear", "m s zero", "mq"), node("DequantizeLinear", "mq s zero", "md"), node("Mul", "md md", "t"),
    ] if quantised else [node("MatMul", "x w", "m"), node("Clip", "m low high", "md"), node("Mul", "md md", "t")]  # fmt: skip
    graphs = [
        onnx.helper.make_graph(nodes, "g", [], [onnx.helper.make_tensor_value_info(out, 1, [None, 2])])
        for nodes, out in ((inside, "t"), ([node("Neg", "x", "e")], "e"))
    ]
    nodes = [node("QuantizeLinear", "x s zero", "xq")] if quantised else []
    nodes += [node("ReduceSum", "x", "total", keepdims=0), node("Greater", "total none", "c")]
    nodes.append(onnx.helper.make_node("If", ["c"], ["y"], name="y_node", then_branch=graphs[0], else_branch=graphs[1]))
    weights = {
        "s": np.array(0.01), "zero": np.array(0, np.int8), "w": np.array([[0.9, -0.3], [0.5, 0.2]]), "none": np.array(0.0),
        "low": np.array(-1.28), "high": np.array(1.27),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 2]}, {"y": [None, 2]}, weights)


@pytest.mark.parametrize("quantisation", ["straight_through", "float_shadow"])
def test_integers_inside_of_a_branch(quantisation: str) -> None:
    x = np.array([[1.2, 0.9], [0.5, 0.2]], np.float32)
    for target in (0, 1):
        e = ox.explain(branched(True), x, method="fullgrad", target=target, quantisation=quantisation)
        truth = ox.explain(branched(False), x, method="fullgrad", target=target)
        assert e.quantisation == quantisation
        assert e.residual is not None and e.residual.relative.max() < 1e-5
        np.testing.assert_allclose(e.attributions["x"], truth.attributions["x"], atol=0.02)
        np.testing.assert_allclose(e.outputs["y"], truth.outputs["y"], atol=0.02)
    if quantisation == "float_shadow":  # nothing is rounded: the same to the last digits
        np.testing.assert_allclose(e.attributions["x"], truth.attributions["x"], rtol=1e-5)
