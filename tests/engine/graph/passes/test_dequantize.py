"""Integer operators: the model's own answer stays, and the shadow has the gradient of the float twin."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import assets

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
MS = "com.microsoft"

S = np.float32(0.05)
U8, I8 = np.uint8(128), np.int8(0)
W = RNG.integers(-90, 90, size=(4, 3, 3, 3)).astype(np.int8)
M = RNG.integers(-90, 90, size=(8, 5)).astype(np.int8)
WS = np.array([0.01, 0.02, 0.015, 0.005], np.float32)
MS5 = np.array([0.01, 0.02, 0.015, 0.005, 0.03], np.float32)
A = RNG.integers(-90, 90, size=(8, 24)).astype(np.int8)
AB = RNG.normal(scale=0.1, size=24)
LW, LR = (RNG.integers(-90, 90, size=(2, n, 16)).astype(np.int8) for n in (3, 4))
LB = RNG.normal(scale=0.1, size=(2, 32))


def one(op_type: str, inputs: str, outputs: str = "q", domain: str = "", **attributes: Any) -> onnx.NodeProto:
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), f"{outputs.split()[0]}_node", domain=domain, **attributes)


def q(x: str, name: str, s: str = "xs", z: str = "xz") -> onnx.NodeProto:
    return one("QuantizeLinear", f"{x} {s} {z}", name)


#: name -> (nodes between x and y, the float twin of them, shape of x, weights)
CASES: dict[str, tuple[list[onnx.NodeProto], list[onnx.NodeProto], tuple[int, ...], dict[str, Any]]] = {
    "QLinearConv": (
        [q("x", "xq"), one("QLinearConv", "xq xs xz w ws wz ys yz b", pads=[1, 1, 1, 1], strides=[2, 2])],
        [one("Conv", "x wf bf", "f", pads=[1, 1, 1, 1], strides=[2, 2])],
        (2, 3, 6, 6),
        {
            "w": W, "ws": WS, "wz": np.zeros(4, np.int8), "b": np.array([100, -50, 0, 7], np.int32),
            "wf": W * WS[:, None, None, None], "bf": np.array([100, -50, 0, 7]) * S * WS,
        },
    ),
    "QLinearMatMul": (
        [q("x", "xq"), one("QLinearMatMul", "xq xs xz m ms mz ys yz")],
        [one("MatMul", "x mf", "f")],
        (2, 3, 8),
        {"m": M, "ms": np.float32(0.01), "mz": np.int8(3), "mf": (M - 3.0) * 0.01},
    ),
    "QGemm": (
        [q("x", "xq"), one("QGemm", "xq xs xz mt ms mz c ys yz", domain=MS, transB=1)],
        [one("Gemm", "x mf cf", "f", transB=1)],
        (2, 8),
        {
            "mt": M.T.copy(), "ms": MS5, "mz": np.zeros(5, np.int8), "c": np.array([10, 20, -30, 0, 5], np.int32),
            "mf": (M * MS5).T, "cf": np.array([10, 20, -30, 0, 5]) * S * MS5,
        },
    ),
    "QLinearAdd": (
        [q("x", "xq"), one("QLinearAdd", "xq xs xz k ks kz ys yz", domain=MS)],
        [one("Add", "x kf", "f")], (2, 4),
        {"k": np.array([3, 200, 90, 130], np.uint8), "ks": np.float32(0.02), "kz": U8, "kf": (np.array([3, 200, 90, 130]) - 128) * 0.02},  # noqa: E501
    ),
    "QLinearMul": (
        [q("x", "xq"), one("QLinearMul", "xq xs xz k ks kz ys yz", domain=MS)],
        [one("Mul", "x kf", "f")], (2, 4),
        {"k": np.array([3, 200, 90, 130], np.uint8), "ks": np.float32(0.02), "kz": U8, "kf": (np.array([3, 200, 90, 130]) - 128) * 0.02},  # noqa: E501
    ),
    "QLinearSigmoid": ([q("x", "xq"), one("QLinearSigmoid", "xq xs xz ps pz", domain=MS)], [one("Sigmoid", "x", "f")], (2, 4), {}),  # noqa: E501
    "QLinearLeakyRelu": (
        [q("x", "xq"), one("QLinearLeakyRelu", "xq xs xz ys yz", domain=MS, alpha=0.3)], [one("LeakyRelu", "x", "f", alpha=0.3)], (2, 4), {},  # noqa: E501
    ),
    "QLinearSoftmax": (
        [q("x", "xq"), one("QLinearSoftmax", "xq xs xz ps pz", domain=MS, axis=-1, opset=13)], [one("Softmax", "x", "f", axis=-1)], (2, 4), {},  # noqa: E501
    ),
    "QLinearGlobalAveragePool": (
        [q("x", "xq"), one("QLinearGlobalAveragePool", "xq xs xz ys yz", domain=MS)], [one("GlobalAveragePool", "x", "f")], (2, 3, 4, 4), {},  # noqa: E501
    ),
    "QLinearAveragePool": (
        [q("x", "xq"), one("QLinearAveragePool", "xq xs xz ys yz", domain=MS, kernel_shape=[2, 2], strides=[2, 2])],
        [one("AveragePool", "x", "f", kernel_shape=[2, 2], strides=[2, 2])], (2, 3, 4, 4), {},
    ),
    "QLinearConcat": (
        [q("x", "xq"), one("QLinearConcat", "ys yz xq xs xz xq xs xz", domain=MS, axis=1)], [one("Concat", "x x", "f", axis=1)], (2, 4), {},  # noqa: E501
    ),
    "moved": (
        [q("x", "xq"), one("Transpose", "xq", "t", perm=[0, 2, 3, 1]), one("Transpose", "t", "u", perm=[0, 3, 1, 2]),
         one("MaxPool", "u", "p", kernel_shape=[2, 2], strides=[2, 2]), one("QLinearAdd", "p xs xz p xs xz ys yz", domain=MS)],
        [one("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]), one("Add", "p p", "f")], (2, 3, 4, 4), {},
    ),
    "MatMulInteger": (
        [one("DynamicQuantizeLinear", "x", "xq ds dz"), one("MatMulInteger", "xq m dz mz", "acc"), one("Cast", "acc", "accf", to=1),  # noqa: E501
         one("Mul", "ds ms", "sc"), one("Mul", "accf sc", "y")],
        [one("MatMul", "x mf", "f")], (2, 3, 8),
        {"m": M, "ms": np.float32(0.01), "mz": np.int8(3), "mf": (M - 3.0) * 0.01},
    ),
    "ConvInteger": (
        [one("DynamicQuantizeLinear", "x", "xq ds dz"), one("ConvInteger", "xq w dz zero", "acc", pads=[1, 1, 1, 1]), one("Cast", "acc", "accf", to=1),  # noqa: E501
         one("Mul", "ds ms", "sc"), one("Mul", "accf sc", "y")],
        [one("Conv", "x wf", "f", pads=[1, 1, 1, 1])], (2, 3, 5, 5),
        {"w": W, "zero": I8, "ms": np.float32(0.01), "wf": W * 0.01},
    ),
    "MatMulIntegerToFloat": (
        [one("DynamicQuantizeLinear", "x", "xq ds dz"), one("MatMulIntegerToFloat", "xq m ds ms dz mz", "y", domain=MS)],
        [one("MatMul", "x mf", "f")], (2, 3, 8),
        {"m": M, "ms": np.float32(0.01), "mz": np.int8(0), "mf": M * 0.01},
    ),
    "DynamicQuantizeMatMul": (
        [one("DynamicQuantizeMatMul", "x m ms mz", "y", domain=MS)], [one("MatMul", "x mf", "f")], (2, 3, 8),
        {"m": M, "ms": np.float32(0.01), "mz": np.int8(0), "mf": M * 0.01},
    ),
    "QAttention": (
        [q("x", "xq"), one("QAttention", "xq a ab xs as mask xz az", "h", domain=MS, num_heads=2, unidirectional=1),
         one("ReduceSum", "h two", "y", keepdims=0)],
        [one("Attention", "x af ab mask", "h", domain=MS, num_heads=2, unidirectional=1), one("ReduceSum", "h two", "y", keepdims=0)],  # noqa: E501
        (2, 5, 8),
        {
            "a": A, "ab": AB, "as": np.float32(0.01), "az": np.int8(0), "af": A * 0.01, "mask": np.array([4, 5], np.int32),
            "two": np.array([1, 2]),
        },
    ),
    "DynamicQuantizeLSTM": (
        [one("Transpose", "x", "t", perm=[1, 0, 2]),
         one("DynamicQuantizeLSTM", "t lw lr lb - - - - ws wz rs rz", "h", domain=MS, hidden_size=4, direction="bidirectional"),
         one("ReduceSum", "h far", "y", keepdims=0)],
        [one("Transpose", "x", "t", perm=[1, 0, 2]), one("LSTM", "t lwf lrf lb", "h", hidden_size=4, direction="bidirectional"),
         one("ReduceSum", "h far", "y", keepdims=0)],
        (2, 4, 3),
        {
            "lw": LW, "lr": LR, "lb": LB, "ws": np.float32([0.01, 0.02]), "wz": np.int8([0, 0]), "rs": np.float32([0.01, 0.005]),
            "rz": np.int8([0, 0]), "lwf": (LW * np.array([0.01, 0.02])[:, None, None]).transpose(0, 2, 1),
            "lrf": (LR * np.array([0.01, 0.005])[:, None, None]).transpose(0, 2, 1), "far": np.array([0, 1]),
        },
    ),
}  # fmt: skip
COMMON = {"xs": S, "xz": U8, "ys": np.float32(0.2), "yz": U8, "ps": np.float32(1 / 256), "pz": np.uint8(0)}


def build(
    nodes: list[onnx.NodeProto], shape: tuple[int, ...], weights: dict[str, Any], quantised: bool
) -> onnx.ModelProto:
    given = {
        k: np.asarray(v, np.float32) if np.asarray(v).dtype == np.float64 else np.asarray(v)
        for k, v in {**COMMON, **weights}.items()
    }
    last = nodes[-1].output[0]
    nodes = list(nodes)
    if last == "q":
        scale = "p" if "ps" in nodes[-1].input else "y"
        nodes.append(one("DequantizeLinear", f"q {scale}s {scale}z", "y"))
    elif last == "f":
        nodes.append(one("Identity", "f", "y"))
    used = {n for node in nodes for n in node.input}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])], [helper.make_tensor_value_info("y", 1, None)],  # noqa: E501
        [numpy_helper.from_array(a, n) for n, a in given.items() if n in used],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8
    )


def plain(proto: onnx.ModelProto, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return np.asarray(
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
    )


@pytest.mark.parametrize("quantisation", ["straight_through", "float_shadow"])
@pytest.mark.parametrize("name", CASES)
def test_own_output_stays_and_the_gradient_is_the_twins(name: str, quantisation: str) -> None:
    nodes, twin, shape, weights = CASES[name]
    proto, real = build(nodes, shape, weights, True), build(twin, shape, weights, False)
    x = np.random.default_rng(4).normal(scale=0.8, size=shape).astype(np.float32)
    expected = plain(proto, x)
    e = ox.explain(proto, x, method="fullgrad", quantisation=quantisation)
    assert np.array_equal(e.outputs["y"], expected), (
        "the model's own nodes are untouched, so its output is the same bit by bit"
    )
    assert e.quantisation == quantisation
    truth = ox.explain(real, x, method="gradient", target=e.target)
    found = ox.explain(proto, x, method="gradient", target=e.target, quantisation=quantisation).attributions["x"]
    wanted = truth.attributions["x"]
    # Rounding moves the point at which a curved function is differentiated by half a level of its input.
    assert np.linalg.norm(found - wanted) <= 0.05 * np.linalg.norm(wanted)
    assert e.residual is not None
    assert e.residual.relative.max() < 1e-5
    shadow = e.provenance["shadow"]
    level = 0.2 if np.abs(expected).max() > 1 else 0.05
    assert shadow["largest_difference"] <= (1.01 * level if quantisation == "straight_through" else 2 * level)
    assert "float form" in " ".join(e.notes)


def test_relu_that_the_range_took_over_stays_in_the_float_shadow() -> None:
    """Exporters drop Relu in front of an unsigned zero point 0; without the range the shadow would be another function."""
    nodes = [one("QuantizeLinear", "x ys pz", "q")]
    nodes += [one("DequantizeLinear", "q ys pz", "d"), one("Abs", "d", "y")]
    proto = build(nodes, (1, 4), {}, True)
    x = np.array([[-3.0, 1.0, 5.0, 900.0]], np.float32)
    found = [
        ox.explain(proto, x, method="gradient", target=t, quantisation="float_shadow").attributions["x"][0, t]
        for t in range(4)
    ]
    np.testing.assert_allclose(found, [0, 1, 1, 0])


def test_unknown_choice_is_refused_with_the_possible_ones() -> None:
    nodes, _, shape, weights = CASES["QLinearAdd"]
    with pytest.raises(OptionError, match="straight_through, float_shadow"):
        ox.compile(build(nodes, shape, weights, True), quantisation="int4")


@pytest.mark.parametrize("form", ["cast", "dequantize"])
def test_weights_alone_in_integers_are_no_quantised_model(form: str) -> None:
    """Cast and Mul, or DequantizeLinear, on initializers: a float model, with the float model's gradient."""
    stored = {"m": M, "ms": np.float32(0.01), "mz": np.int8(0), "mf": M * 0.01}
    first = (
        [one("Cast", "m", "c", to=1), one("Mul", "c ms", "d")]
        if form == "cast"
        else [one("DequantizeLinear", "m ms mz", "d")]
    )
    proto = build([*first, one("MatMul", "x d", "f")], (2, 8), stored, True)
    x = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    e = ox.explain(proto, x, method="fullgrad", target=1)
    assert e.quantisation == "none"
    assert "shadow" not in e.provenance
    np.testing.assert_allclose(e.outputs["y"], x @ (M * np.float32(0.01)), rtol=1e-5, atol=1e-6)
    # onnxruntime may round the other operand of such a product to 8 bits as well, on its own account.
    np.testing.assert_allclose(e.outputs["y"], plain(proto, x), atol=0.01)
    np.testing.assert_allclose(
        ox.explain(proto, x, method="gradient", target=1).attributions["x"],
        np.tile(M[:, 1] * np.float32(0.01), (2, 1)),
        rtol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("quantisation", ["straight_through", "float_shadow"])
def test_map_of_an_int8_network_is_the_float_networks(quantisation: str) -> None:
    """FullGrad maps of EfficientNet-Lite0 in int8 and in float, mean taken off: at least 0.95 on photos.

    Raw gradients are no yardstick: noise of half a grey level turns the *float* network's own gradient to a
    cosine of 0.6 to 0.9, and rounding its weights to int8 alone does the same.
    """
    folder = assets()
    if folder is None:
        pytest.skip("the development models are not there")
    data = pytest.importorskip("skimage.data", reason="needs scikit-image for its photos")
    photos = [
        cv2.resize(getattr(data, n)()[..., :3], (224, 224), interpolation=cv2.INTER_AREA)
        for n in ("astronaut", "coffee")
    ]
    x = ((np.stack(photos).astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    int8 = folder / "efficientnet-lite0-int8-qdq.onnx"
    truth = ox.explain(folder / "efficientnet-lite0-op18.onnx", x, method="fullgrad")
    e = ox.explain(int8, x, method="fullgrad", target=truth.target, quantisation=quantisation)
    assert truth.saliency is not None
    assert e.saliency is not None
    assert e.residual is not None
    for a, b in zip(e.saliency, truth.saliency, strict=True):
        a, b = (v.ravel() - v.mean() for v in (a, b))
        assert a @ b >= 0.95 * np.linalg.norm(a) * np.linalg.norm(b)
    assert e.residual.relative.max() < 1e-5
    assert e.provenance["shadow"]["same_argmax"] == 2
    assert all(np.any(a) for a in e.attributions["image"])
    session = onnxruntime.InferenceSession(str(int8), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(e.outputs["logits"], session.run(None, {"image": x})[0], atol=1e-5)
