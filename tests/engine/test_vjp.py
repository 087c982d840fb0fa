"""Vector-Jacobian products: against closed forms, against each other, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tiny_models import fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import InputError, ModelFileError, OptionError, SessionError


def gemm(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return model([node("MatMul", "x w", "y")], {"x": ["N", 3], "w": [3, 2]}, {"y": ["N", 2]}, dtype=dtype)


X = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
W = np.array([[1.0, -1.0], [2.0, 0.5], [0.0, 4.0]])
U = np.array([[1.0, 2.0], [-3.0, 0.5]])


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_all_float_inputs_by_default_in_the_types_of_the_model(kind: str) -> None:
    dtype = TensorProto.FLOAT if kind == "float32" else TensorProto.DOUBLE
    x, w, u = X.astype(kind), W.astype(kind), U.astype(kind)
    found = ox.vjp(gemm(dtype), {"x": x, "w": w}, {"y": u})
    assert set(found) == {"x", "w"}
    for name, expected in {"x": u @ w.T, "w": x.T @ u}.items():
        assert found[name].dtype == np.dtype(kind)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6 if kind == "float32" else 1e-14)


def test_providers_agree() -> None:
    """onnxruntime in float32 against the reference evaluator in float64, on a convolutional net."""
    proto, x = fullgrad_net()
    exact, x64 = fullgrad_net(TensorProto.DOUBLE)
    seed = np.array([[1.0, -2.0]])
    names = ["x", "w1", "b1", "w2", "b2", "w3", "b3", "p1"]
    fast = ox.vjp(proto, {"x": x}, {"logits": seed.astype(np.float32)}, wrt=names)
    slow = ox.vjp(exact, {"x": x64}, {"logits": seed}, wrt=names, providers=["reference"])
    for name in names:
        assert slow[name].dtype == np.float64
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-5, atol=1e-6)


def test_bias_gradient_is_the_sum_of_its_channels_terms() -> None:
    """Per channel c: sum of the bias map = b_c df/db_c, an independent way to the same numbers."""
    proto, x = fullgrad_net(TensorProto.DOUBLE)
    e = ox.explain(proto, x, method="fullgrad", target=1, term_maps=True, providers="reference")
    by_parameter = ox.vjp(proto, {"x": x}, {"logits": np.array([[0.0, 1.0]])}, wrt=["b1", "b2"], providers="reference")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert e.terms is not None
    for k, info in enumerate(e.terms.info):
        if info.parameter in by_parameter:
            channels = e.terms.maps[k][0].reshape(2, -1).sum(axis=1)
            np.testing.assert_allclose(channels, values[info.parameter] * by_parameter[info.parameter], rtol=1e-12)


def test_linear_in_the_cotangent() -> None:
    proto = simple_model(TensorProto.DOUBLE)
    x = np.array([[1.0, 3.0]])
    a, b = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    parts = [ox.vjp(proto, {"x": x}, {"y": u})["x"] for u in (a, b, 2 * a - 3 * b)]
    np.testing.assert_allclose(parts[2], 2 * parts[0] - 3 * parts[1], rtol=1e-14)


def test_from_a_path_and_from_bytes(tmp_path: Path) -> None:
    proto = gemm()
    onnx.save(proto, tmp_path / "m.onnx")
    feeds = {"x": X.astype(np.float32), "w": W.astype(np.float32)}
    for source in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), proto.SerializeToString(), proto):
        np.testing.assert_allclose(ox.vjp(source, feeds, {"y": U.astype(np.float32)})["x"], U @ W.T, rtol=1e-6)
    with pytest.raises(ModelFileError):
        ox.vjp(tmp_path / "none.onnx", feeds, {"y": U})


def test_names_of_the_model_may_be_those_that_the_rewriter_uses() -> None:
    nodes = [node("Mul", "cotangent gradient/x", "y")]
    proto = model(nodes, {"cotangent": [2], "gradient/x": [2]}, {"y": [2]}, dtype=TensorProto.DOUBLE)
    a, b = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    found = ox.vjp(proto, {"cotangent": a, "gradient/x": b}, {"y": np.ones(2)})
    np.testing.assert_array_equal(found["cotangent"], b)
    np.testing.assert_array_equal(found["gradient/x"], a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"x": X}}, "input 'w' is missing"),
        ({"inputs": {"x": X, "w": W, "v": W}}, "input 'v' is none of the model's"),
        ({"cotangents": {"z": U}}, "no tensor named 'z'"),
        ({"cotangents": {}}, "no cotangent"),
        ({"cotangents": {"y": U[:, :1]}}, "shape"),
        ({"cotangents": {"y": U[:1]}}, r"shape \(1, 2\); give one of shape \(2, 2\)"),
        ({"cotangents": {"y": U[0]}}, "shape"),
        ({"wrt": ["v"]}, "no tensor named 'v'"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    """A cotangent of another shape must not broadcast into another product."""
    arguments: dict[str, Any] = {"inputs": {"x": X, "w": W}, "cotangents": {"y": U}, **change}
    with pytest.raises((InputError, SessionError), match=message):
        ox.vjp(gemm(TensorProto.DOUBLE), arguments["inputs"], arguments["cotangents"], wrt=arguments.get("wrt"))


def test_integer_tensors_have_no_cotangent() -> None:
    proto = model([node("Shape", "x", "s"), node("Exp", "x", "y")], {"x": [2]}, {"y": [2]})
    proto.graph.output.append(onnx.helper.make_tensor_value_info("s", TensorProto.INT64, [1]))
    with pytest.raises(InputError, match="'s' is no float tensor"):
        ox.vjp(proto, {"x": np.ones(2, np.float32)}, {"s": np.ones(1)})


def test_unknown_provider() -> None:
    with pytest.raises(OptionError, match="provider 'quantum'"):
        ox.vjp(gemm(), {"x": X, "w": W}, {"y": U}, providers="quantum")
