"""Models whose input, inside and answer are of different types are explained like their twin of one type."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

import onnxplain as ox
from onnxplain.engine.errors import InputError

Array = np.ndarray[Any, Any]
DOUBLE, FLOAT, HALF = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16
METHODS = ["gradient", "fullgrad", "integrated_gradients", "lrp", "deeplift", "gradcam", "smooth_fullgrad"]
TOLERANCE = 1e-3  # of the largest value: half inputs are rounded, float32 inside


def network(given: int, inside: int, answer: int, layout: str = "pixels") -> onnx.ModelProto:
    """A convolution, ReLU, mean and a product; with casts where types differ."""
    rng, kind = np.random.default_rng(0), helper.tensor_dtype_to_np_dtype(inside)
    nodes, last = [], "x"
    if given != inside:
        nodes.append(helper.make_node("Cast", ["x"], ["inside"], to=inside))
        last = "inside"
    if layout == "last":
        nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    nodes += [
        helper.make_node("Conv", [last, "w", "b"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r", "places"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "v", "d"], ["y" if answer == inside else "scores"], "head"),
    ]
    if answer != inside:
        nodes.append(helper.make_node("Cast", ["scores"], ["y"], to=answer))
    weights = {"w": rng.normal(size=(4, 3, 3, 3)) / 4, "b": rng.normal(size=4), "v": rng.normal(size=(4, 3))}
    weights["d"] = rng.normal(size=3)
    shape = ["N", 6, 6, 3] if layout == "last" else ["N", 3, 6, 6]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("x", given, shape)],
        [helper.make_tensor_value_info("y", answer, ["N", 3])],
        [
            *(onnx.numpy_helper.from_array(a.astype(kind), k) for k, a in weights.items()),
            onnx.numpy_helper.from_array(np.asarray([2, 3]), "places"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def points(layout: str, kind: int) -> Array:
    shape = (2, 6, 6, 3) if layout == "last" else (2, 3, 6, 6)
    rng = np.random.default_rng(1)
    if kind in (DOUBLE, FLOAT, HALF):
        return rng.normal(size=shape).astype(helper.tensor_dtype_to_np_dtype(kind))
    return rng.integers(0, 2 if kind == TensorProto.BOOL else 9, size=shape).astype(
        helper.tensor_dtype_to_np_dtype(kind)
    )


def close(found: Array | None, wanted: Array | None) -> None:
    assert found is not None
    assert wanted is not None
    gap = np.abs(found.astype(np.float64) - wanted).max()
    assert gap <= TOLERANCE * np.abs(wanted).max()


def compare(found: ox.Explanation, wanted: ox.Explanation) -> None:
    """Attributions of the two subjects, whatever they are called."""
    assert len(found.attributions) == len(wanted.attributions)
    for own, other in zip(found.attributions.values(), wanted.attributions.values(), strict=True):
        close(own, other)


@pytest.mark.parametrize("layout", ["pixels", "last"])
@pytest.mark.parametrize(
    ("given", "inside", "answer"),
    [
        (DOUBLE, FLOAT, FLOAT),
        (DOUBLE, FLOAT, DOUBLE),
        (HALF, FLOAT, FLOAT),
        (HALF, FLOAT, HALF),
        (FLOAT, HALF, FLOAT),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_float_inputs(method: str, given: int, inside: int, answer: int, layout: str) -> None:
    proto, x = network(given, inside, answer, layout), points(layout, given)
    found = ox.explain(proto, x, method=method, target=1, threads=1)
    wanted = ox.explain(network(FLOAT, FLOAT, FLOAT, layout), x.astype(np.float32), method=method, target=1, threads=1)
    compare(found, wanted)
    close(found.saliency, wanted.saliency)
    if wanted.residual is not None:
        assert found.residual is not None
        rounding = 1e-2 if HALF in (inside, answer) else 1e-5  # of the score
        assert found.residual.relative.max() < wanted.residual.relative.max() + rounding


def test_double_answers_have_a_target() -> None:
    """onnxruntime has no OneHot of doubles, which a double answer's element was chosen with."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", DOUBLE, ["N", 4])],
        [helper.make_tensor_value_info("y", DOUBLE, ["N", 3])],
        [onnx.numpy_helper.from_array(np.random.default_rng(2).normal(size=(4, 3)), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = np.random.default_rng(3).normal(size=(2, 4))
    for head in ("logit", "margin"):
        found = ox.explain(proto, x, method="fullgrad", head=head)
        assert found.attributions["x"].dtype == np.float64
        assert found.residual.relative.max() < 1e-14


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "INT32", "INT64", "BOOL"])
@pytest.mark.parametrize("layout", ["pixels", "last"])
@pytest.mark.parametrize("method", [*METHODS, "occlusion"])
def test_pixels_are_attributed_to_as_they_are_cast(method: str, layout: str, kind: str) -> None:
    """The attribution is that of the floats that the model makes of its bytes."""
    given = TensorProto.DataType.Value(kind)
    proto, x = network(given, FLOAT, FLOAT, layout), points(layout, given)
    found = ox.explain(proto, x, method=method, target=1, threads=1)
    wanted = ox.explain(network(FLOAT, FLOAT, FLOAT, layout), x.astype(np.float32), method=method, target=1, threads=1)
    compare(found, wanted)
    assert method == "gradcam" or list(found.attributions) == ["inside"]
    if method != "smooth_fullgrad" and wanted.saliency is not None:
        close(found.saliency, wanted.saliency)


def test_ids_beside_a_mask_are_not_taken_for_pixels() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["ids"], ["i"], to=FLOAT),
            helper.make_node("Cast", ["mask"], ["m"], to=FLOAT),
            helper.make_node("Mul", ["i", "m"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", 4]) for n in ("ids", "mask")],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 4])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    feeds = {n: np.ones((2, 4), np.int64) for n in ("ids", "mask")}
    with pytest.raises(InputError, match="name an inner float tensor with wrt="):
        ox.explain(proto, feeds, method="gradient")
    assert ox.explain(proto, feeds, method="gradient", wrt="i", target=0).attributions["i"][0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("given", "answer"), [(DOUBLE, FLOAT), (DOUBLE, DOUBLE), (FLOAT, DOUBLE), (TensorProto.UINT8, FLOAT)]
)
@pytest.mark.parametrize("method", ["gradient", "fullgrad", "lrp", "deeplift"])
def test_files(method: str, given: int, answer: int) -> None:
    """What is written gives the same numbers."""
    proto, x = network(given, FLOAT, answer), points("pixels", given)
    explainer = ox.compile(proto, method=method, threads=1)
    wanted = explainer(x, target=1)
    data = ir.to_proto(explainer.ship(target=1)).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"x": x}), strict=True))
    close(found["attribution"], next(iter(wanted.attributions.values())))
    if "residual" in found:
        assert np.abs(found["residual"]).max() < 1e-4 * max(1.0, np.abs(wanted.score).max())
