"""Models in half precision: their own outputs bit by bit, adjoints in float32, close to the float32 model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter

Array = np.ndarray[Any, Any]


def own_answer(proto: onnx.ModelProto, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return np.asarray(
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
    )


def deep(dtype: int, layers: int = 8) -> onnx.ModelProto:
    """A perceptron whose gradient is about 1e-9: zero in float16, whose smallest number is 6e-8."""
    rng = np.random.default_rng(0)
    nodes, weights = [], {}
    for i in range(layers):
        nodes += [node("Gemm", f"h{i} w{i} b{i}" if i else "x w0 b0", f"z{i}"), node("Relu", f"z{i}", f"h{i + 1}")]
        weights[f"w{i}"] = rng.normal(scale=0.02, size=(6, 6)) + 0.005
        weights[f"b{i}"] = np.full(6, 0.5)
    return model(
        [*nodes, node("Identity", f"z{layers - 1}", "y")], {"x": ["N", 6]}, {"y": ["N", 6]}, weights, dtype=dtype
    )


def test_convolutional_net_agrees_with_float32_within_rounding() -> None:
    half, x = fullgrad_net(TensorProto.FLOAT16)
    single, _ = fullgrad_net()
    e = ox.explain(half, x, method="fullgrad")
    truth = ox.explain(single, x.astype(np.float32), method="fullgrad", target=e.target)
    np.testing.assert_array_equal(e.outputs["logits"], own_answer(half, x))
    assert e.outputs["logits"].dtype == np.float16
    assert e.attributions["x"].dtype == np.float32
    np.testing.assert_allclose(
        e.attributions["x"], truth.attributions["x"], atol=2e-3 * np.abs(truth.attributions["x"]).max()
    )
    assert e.residual is not None
    assert e.residual.relative.max() < 1e-5
    assert e.provenance["dtype"] == "float"
    assert e.provenance["shadow"]["relative"] < 2e-3
    assert e.quantisation == "none"


def test_gradient_below_the_smallest_half_does_not_vanish() -> None:
    half, single = deep(TensorProto.FLOAT16), deep(TensorProto.FLOAT)
    x = np.random.default_rng(1).uniform(0.1, 1.0, size=(3, 6)).astype(np.float16)
    found = ox.explain(half, x, method="gradient", target=2)
    truth = ox.explain(single, x.astype(np.float32), method="gradient", target=2)
    assert 0 < np.abs(truth.attributions["x"]).max() < 2.0**-25, "else half precision would do, and this shows nothing"
    np.testing.assert_allclose(found.attributions["x"], truth.attributions["x"], rtol=0.02)
    np.testing.assert_array_equal(found.outputs["y"], own_answer(half, x))


def test_path_method_on_half_inputs() -> None:
    half, x = fullgrad_net(TensorProto.FLOAT16)
    e = ox.explain(half, x, method="integrated_gradients", steps=64)
    truth = ox.explain(
        fullgrad_net()[0], x.astype(np.float32), method="integrated_gradients", steps=64, target=e.target
    )
    # Points on the path are handed to a model that takes float16, so they are rounded.
    np.testing.assert_allclose(
        e.attributions["x"], truth.attributions["x"], atol=0.02 * np.abs(truth.attributions["x"]).max()
    )


def test_products_of_a_half_model_for_weights_and_inputs_are_float32() -> None:
    half, x = fullgrad_net(TensorProto.FLOAT16)
    seed = np.array([[1.0, -2.0]], np.float32)
    found = ox.vjp(half, {"x": x}, {"logits": seed}, wrt=["x", "w2", "p1"])
    truth = ox.vjp(fullgrad_net()[0], {"x": x.astype(np.float32)}, {"logits": seed}, wrt=["x", "w2", "p1"])
    for name, expected in truth.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, atol=2e-3 * np.abs(expected).max())


def test_bfloat16_on_the_exact_evaluator() -> None:
    """onnxruntime's CPU build has no kernels for it; the graph is the same."""
    nodes = [node("Mul", "x k", "h"), node("Relu", "h", "y")]
    proto = model(
        nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"k": np.array([0.5, -2.0, 1.5])}, dtype=TensorProto.BFLOAT16
    )
    rewritten = ox.compile(proto, method="gradient", providers="reference")
    x = np.array([[1.0, 2.0, 3.0]], dtype=onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    e = rewritten(x, target=2)
    np.testing.assert_array_equal(e.attributions["x"], [[0.0, 0.0, 1.5]])
    assert e.attributions["x"].dtype == np.float32


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_single_and_double_need_no_shadow(dtype: int) -> None:
    proto = deep(dtype, 2)
    x = np.ones((1, 6), onnx.helper.tensor_dtype_to_np_dtype(dtype))
    found = ox.vjp(proto, {"x": x}, {"y": x})["x"]
    assert found.dtype == x.dtype
    assert not Rewriter(canonicalise(read_model(proto))).shadowed
