"""Old opsets brought to the working one: the same outputs in onnxruntime, case by case."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from canonical_run import numbers, operators, run, same_outputs
from onnx import TensorProto, helper
from tiny_models import model, node

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

Array = np.ndarray[Any, Any]
X4 = numbers(2, 3, 4, 5)


def one(
    op_type: str, x: Array, opset: int, weights: dict[str, Any] | None = None, outputs: str = "y", **attributes: Any
) -> onnx.ModelProto:
    """One node at an opset, its first operand fed, its first result returned."""
    n = node(op_type, " ".join(["x", *(weights or {})]), outputs, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    proto = model([n], {"x": x.shape}, {"y": []}, weights, opset=opset, dtype=kind)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)


@pytest.mark.parametrize("attributes", [{"axes": [1, 2]}, {"axes": [0], "keepdims": 0}, {}, {"keepdims": 0}], ids=str)
@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17])
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_axes_of_reductions(op_type: str, opset: int, attributes: dict[str, Any]) -> None:
    if op_type == "ReduceSum" and opset >= 13 and "axes" in attributes:
        proto = one(
            op_type, np.abs(X4), opset, {"axes": np.array(attributes["axes"])}, keepdims=attributes.get("keepdims", 1)
        )
    else:
        proto = one(op_type, np.abs(X4), opset, **attributes)
    canonical = same_outputs(proto, {"x": np.abs(X4)})
    assert operators(canonical) == [op_type]
    assert canonical.graph.opset_imports[""] == 18


@pytest.mark.parametrize("opset", [7, 11, 12, 13])
def test_axes_of_squeeze_and_unsqueeze(opset: int) -> None:
    x = numbers(2, 1, 3, 1)
    old = opset < 13
    for axes, op_type in (([1, 3], "Squeeze"), ([0, 3], "Unsqueeze"), (None, "Squeeze")):
        if axes is None:
            proto = one(op_type, x, opset)
        else:
            proto = one(op_type, x, opset, None if old else {"axes": np.array(axes)}, **({"axes": axes} if old else {}))
        same_outputs(proto, {"x": x}, 0)


@pytest.mark.parametrize("opset", [7, 11, 13, 17])
@pytest.mark.parametrize("sizes", [[1, 3], None])
def test_split(opset: int, sizes: list[int] | None) -> None:
    x = numbers(2, 4)
    old = opset < 13
    weights = {"split": np.array(sizes)} if sizes and not old else None
    proto = one("Split", x, opset, weights, "y z", axis=1, **({"split": sizes} if sizes and old else {}))
    proto.graph.output.append(helper.make_empty_tensor_value_info("z"))
    same_outputs(proto, {"x": x}, 0)


@pytest.mark.parametrize("attributes", [{"min": -0.5, "max": 0.5}, {"min": 0.0}, {"max": 0.25}, {}], ids=str)
@pytest.mark.parametrize("opset", [7, 10])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bounds_of_clip(attributes: dict[str, float], opset: int, dtype: Any) -> None:
    x = X4.astype(dtype)
    proto = one("Clip", x, opset, **attributes)
    if dtype == np.float32:
        same_outputs(proto, {"x": x}, 0)
    else:  # the runtime has no float16 kernel for that opset
        low, high = attributes.get("min", -np.inf), attributes.get("max", np.inf)
        found = run(onnx_of(proto), {"x": x})[0]
        np.testing.assert_array_equal(found, np.clip(x, dtype(low), dtype(high)))


def test_bounds_of_clip_beyond_float16() -> None:
    x = X4.astype(np.float16)
    found = run(onnx_of(one("Clip", x, 10, min=-3.4028234663852886e38, max=3.4028234663852886e38)), {"x": x})[0]
    np.testing.assert_array_equal(found, x)


def onnx_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_ir as ir

    return ir.to_proto(canonicalise(read_model(proto)))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 2, 1], [0, 0, -1, 1, 0, 0, 1, -1]])
@pytest.mark.parametrize("opset", [7, 10])
def test_amounts_of_pad(mode: str, pads: list[int], opset: int) -> None:
    if mode == "reflect" and min(pads) < 0:
        pads = [max(p, 0) for p in pads]
    extra = {"value": 1.5} if mode == "constant" else {}
    same_outputs(one("Pad", X4, opset, mode=mode, pads=pads, **extra), {"x": X4}, 0)


@pytest.mark.parametrize(
    "attributes", [{"starts": [1, -3], "ends": [2, 100], "axes": [1, 3]}, {"starts": [0, 1], "ends": [1, 3]}]
)
@pytest.mark.parametrize("opset", [7, 9])
def test_places_of_slice(attributes: dict[str, Any], opset: int) -> None:
    same_outputs(one("Slice", X4, opset, **attributes), {"x": X4}, 0)


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_count_of_topk(opset: int) -> None:
    weights, extra = (None, {"k": 2}) if opset < 10 else ({"k": np.array([2])}, {})
    proto = one("TopK", X4, opset, weights, "y z", axis=-1 if opset > 10 else 3, **extra)
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT64, None))
    same_outputs(proto, {"x": X4}, 0)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [7, 11, 12])
@pytest.mark.parametrize(
    ("shape", "axis"), [(s, a) for s in ((2, 3), (2, 3, 4), (2, 3, 4, 5)) for a in (None, 0, 1, len(s) - 1, -1)]
)
def test_softmax_flattens(op_type: str, opset: int, shape: tuple[int, ...], axis: int | None) -> None:
    if axis == -1 and opset < 11:
        axis = len(shape) - 1
    x = numbers(*shape)
    proto = one(op_type, x, opset, **({} if axis is None else {"axis": axis}))
    canonical = same_outputs(proto, {"x": x})
    last = (1 if axis is None else axis) % len(shape) == len(shape) - 1
    assert operators(canonical) == ([op_type] if last else ["Flatten", op_type, "Reshape"])


def test_softmax_of_unknown_rank_and_open_batch() -> None:
    x = numbers(5, 3, 4)
    for shape in (None, ["N", 3, 4], ["N", "A", "B"]):
        proto = one("Softmax", x, 11)
        proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
        same_outputs(proto, {"x": x})


UP_AND_DOWN = [[1.0, 1, 2, 2], [1, 1, 1.5, 2.6], [1, 1, 0.5, 0.5], [1, 1, 0.6, 0.7], [1, 1, 1.7, 0.6], [1.0, 1, 1, 1]]


@pytest.mark.parametrize("scales", UP_AND_DOWN, ids=str)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_10(mode: str, scales: list[float]) -> None:
    """Below opset 11 nearest neighbours were rounded down where an axis grew, and up where it shrank."""
    same_outputs(one("Resize", X4, 10, {"s": np.array(scales)}, mode=mode), {"x": X4}, 1e-5)


@pytest.mark.parametrize("scales", UP_AND_DOWN, ids=str)
def test_resize_10_by_scales_that_are_fed(scales: list[float]) -> None:
    proto = one("Resize", X4, 10, {"s": np.array(scales)}, mode="nearest")
    del proto.graph.initializer[:]
    proto.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]))
    same_outputs(proto, {"x": X4, "s": np.array(scales, np.float32)}, 0)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset: int, mode: str) -> None:
    scales = [1.0, 1.0, 2.0, 1.5]
    weights, extra = (None, {"scales": scales}) if opset < 9 else ({"s": np.array(scales)}, {})
    canonical = same_outputs(one("Upsample", X4, opset, weights, mode=mode, **extra), {"x": X4}, 1e-5)
    assert operators(canonical) == ["Resize"]


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize("by", ["scales", "sizes"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest"},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"mode": "cubic", "cubic_coeff_a": -0.5},
    ],
    ids=str,
)
def test_resize_11(opset: int, by: str, attributes: dict[str, Any]) -> None:
    if opset == 13 and attributes.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        attributes = {"mode": "nearest"}  # gone at 13
    empty = np.zeros(0)
    weights = {"roi": empty, "scales": np.array([1, 1, 1.75, 2.2])}
    if by == "sizes":
        weights = {"roi": empty, "scales": empty, "sizes": np.array([2, 3, 7, 3])}
    # 1e-5: interpolated values are sums of up to 16 products of rounded weights.
    same_outputs(one("Resize", X4, opset, weights, **attributes), {"x": X4}, 1e-5)


def test_resize_11_that_has_no_newer_form() -> None:
    proto = one(
        "Resize", X4, 11, {"roi": np.zeros(0), "s": np.ones(4) * 2}, mode="nearest",
        coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="ceil",
    )  # fmt: skip
    with pytest.raises(UnsupportedNodeError, match="tf_half_pixel_for_nn"):
        canonicalise(read_model(proto))


STATISTICS = {
    k: np.array(v) for k, v in {"s": [1.0, 2, 3], "b": [0.1, 0.2, 0.3], "m": [0.5, 0, 1], "v": [1.0, 2, 0.5]}.items()
}


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15])
def test_batch_normalization(opset: int) -> None:
    proto = one("BatchNormalization", X4, opset, STATISTICS, epsilon=1e-3)
    assert operators(same_outputs(proto, {"x": X4})) == ["BatchNormalization"]


@pytest.mark.parametrize("outputs", ["y rm rv", "y rm rv sm sv"])
@pytest.mark.parametrize("opset", [7, 9, 13])
def test_batch_normalization_in_training_mode(opset: int, outputs: str) -> None:
    """More than one output meant training mode, whether anything reads them or not."""
    proto = one("BatchNormalization", X4, opset, STATISTICS, outputs)
    with pytest.raises(UnsupportedNodeError, match="training mode"):
        canonicalise(read_model(proto))


def test_batch_normalization_per_position() -> None:
    with pytest.raises(UnsupportedNodeError, match="spatial=0"):
        canonicalise(read_model(one("BatchNormalization", X4, 7, STATISTICS, spatial=0)))


@pytest.mark.parametrize("opset", [9, 10])
def test_scatter(opset: int) -> None:
    x = numbers(3, 4)
    weights = {"i": np.array([[2, 0], [1, 1]]), "u": np.array([[1.0, 2.0], [3.0, 4.0]])}
    assert operators(same_outputs(one("Scatter", x, opset, weights, axis=1), {"x": x}, 0)) == ["ScatterElements"]


@pytest.mark.parametrize("opset", [10, 15])
def test_roi_align_keeps_its_coordinates(opset: int) -> None:
    weights = {"rois": np.array([[0.3, 0.4, 3.0, 2.5]]), "at": np.array([1])}
    same_outputs(one("RoiAlign", X4, opset, weights, output_height=2, output_width=2, sampling_ratio=2), {"x": X4})


# ----- inside other graphs --------------------------------------------------------------------------


def _value(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def test_upgrades_inside_branches() -> None:
    """Constants that an upgrade needs stand where the branch finds them, under names of their own."""

    def branch(name: str, low: float) -> onnx.GraphProto:
        nodes = [
            node("Clip", "x", f"{name}c", min=low, max=0.5),
            node("Unsqueeze", f"{name}c", f"{name}u", axes=[0]),
            node("Softmax", f"{name}u", f"{name}s", axis=1),
            node("ReduceMean", f"{name}s", f"{name}y", axes=[0], keepdims=0),
        ]
        return helper.make_graph(nodes, name, [], [_value(f"{name}y", None)])

    nodes = [
        node("Clip", "x", "outer", min=-0.25, max=0.75),
        node("If", "c", "inner", then_branch=branch("a", -1.0), else_branch=branch("b", -0.5)),
        node("Add", "outer inner", "y"),
    ]
    proto = model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, opset=10)
    proto.graph.input.append(_value("c", [], TensorProto.BOOL))
    for c in (True, False):
        same_outputs(proto, {"x": numbers(2, 3), "c": np.array(c)})


def test_upgrades_inside_a_loop() -> None:
    body = helper.make_graph(
        [
            node("Identity", "go", "on"),
            node("Slice", "state", "part", axes=[1], starts=[0], ends=[2]),
            node("Pad", "part", "padded", pads=[0, 0, 0, 1], value=1.0),
            node("Add", "padded w", "next"),
        ],
        "body",
        [_value("i", [], TensorProto.INT64), _value("go", [], TensorProto.BOOL), _value("state", [2, 3])],
        [_value("on", [], TensorProto.BOOL), _value("next", [2, 3])],
    )
    weights = {"n": np.array(3), "true": np.array(True), "w": np.array([1.0, 2.0, 3.0])}
    proto = model([node("Loop", "n true x", "y", body=body)], {"x": [2, 3]}, {"y": [2, 3]}, weights, opset=9)
    same_outputs(proto, {"x": numbers(2, 3)})


# ----- newer opsets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23, 24, 26])
def test_newer_opsets_are_stamped_down(opset: int) -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("AveragePool", "c", "p", kernel_shape=[2, 2], dilations=[1, 1]),
        node("Cast", "p", "h", to=TensorProto.FLOAT, saturate=1),
        node("ReduceMax", "h axes", "y", keepdims=0),
    ]
    proto = model(
        nodes, {"x": ["N", 3, 4, 5]}, {"y": ["N", 2]}, {"w": numbers(2, 3, 3, 3), "axes": np.array([2, 3])}, opset=opset
    )
    canonical = same_outputs(proto, {"x": X4})
    assert canonical.graph.opset_imports[""] == 18
    assert canonical.ir_version == 8


@pytest.mark.parametrize(
    ("op_type", "opset", "attributes"),
    [
        ("Gelu", 20, {}),
        ("AveragePool", 19, {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("AveragePool", 22, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ],
)
def test_what_is_newer_keeps_its_opset(op_type: str, opset: int, attributes: dict[str, Any]) -> None:
    canonical = same_outputs(one(op_type, X4, opset, **attributes), {"x": X4})
    assert canonical.graph.opset_imports[""] == opset
    assert operators(canonical) == [op_type]
