"""auto_pad in numbers: the same outputs, for known sizes and for sizes of the run time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from canonical_run import numbers, operators, run, same_outputs
from onnx import TensorProto, helper
from tiny_models import model, node

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.explicit_pads import lowest

STATIC, OPEN = [2, 3, 7, 8], ["N", 3, "H", "W"]
OPERATORS = ("Conv", "MaxPool", "AveragePool", "LpPool")


def net(op_type: str, shape: list[Any], outputs: str = "y", **attributes: Any) -> onnx.ModelProto:
    weights = {"w": numbers(4, 3, *attributes["kernel_shape"])} if op_type == "Conv" else {}
    n = node(op_type, "x w" if weights else "x", outputs, **attributes)
    return model([n], {"x": shape}, {"y": ["N", "C", "h", "v"]}, weights)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(
    ("kernel", "strides"),  # the runtime's own SAME refuses strides above the kernel's size
    [*itertools.product([[3, 3]], [[1, 1], [2, 2], [3, 1]]), *itertools.product([[2, 4]], [[1, 1], [2, 2], [1, 4]])],
)
@pytest.mark.parametrize("shape", [STATIC, OPEN], ids=["static", "open"])
@pytest.mark.parametrize("op_type", OPERATORS)
def test_auto_pad(op_type: str, shape: list[Any], kernel: list[int], strides: list[int], mode: str) -> None:
    proto = net(op_type, shape, kernel_shape=kernel, strides=strides, auto_pad=mode)
    if op_type == "LpPool" and shape is OPEN and mode.startswith("SAME") and strides != [1, 1]:
        with pytest.raises(UnsupportedNodeError, match="explicit pads"):
            canonicalise(read_model(proto))
        return
    for size in ((7, 8), (6, 9), (4, 4))[: 1 if shape is STATIC else 3]:
        x = numbers(2, 3, *size) - 5.0  # all negative: padding with zeros would win a maximum
        canonical = same_outputs(proto, {"x": x}, 1e-5)
    assert not any(
        str(n.attributes["auto_pad"].value) != "NOTSET" for n in canonical.graph if "auto_pad" in n.attributes
    )
    if shape is STATIC:
        assert operators(canonical) == [op_type]


@pytest.mark.parametrize("shape", [STATIC, OPEN], ids=["static", "open"])
def test_auto_pad_with_dilations(shape: list[Any]) -> None:
    """The runtime refuses it, so the pads are worked out by hand: extents 5 and 3, 4 results a side."""
    common: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [2, 1]}
    canonical = canonicalise(read_model(net("Conv", shape, auto_pad="SAME_UPPER", **common)))
    feeds = {"x": numbers(2, 3, 7, 8)}
    (found,) = run(ir.to_proto(canonical), feeds)
    (expected,) = run(net("Conv", STATIC, pads=[2, 0, 2, 1], **common), feeds)
    # 1e-5: the padded form may add in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [STATIC, OPEN], ids=["static", "open"])
def test_average_that_counts_padding(shape: list[Any]) -> None:
    proto = net("AveragePool", shape, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER", count_include_pad=1)
    same_outputs(proto, {"x": numbers(2, 3, 7, 8)}, 1e-5)


@pytest.mark.parametrize("shape", [[2, 3, 9], ["N", 3, "T"], [2, 3, 5, 6, 7], ["N", 3, "D", "H", "W"]], ids=str)
def test_other_numbers_of_axes(shape: list[Any]) -> None:
    sizes = (2, 3, 9) if len(shape) == 3 else (2, 3, 5, 6, 7)
    count = len(shape) - 2
    for op_type in ("MaxPool", "AveragePool"):
        n = node(op_type, "x", "y", kernel_shape=[3] * count, strides=[2] * count, auto_pad="SAME_UPPER")
        same_outputs(model([n], {"x": shape}, {"y": [None] * len(shape)}), {"x": numbers(*sizes)}, 1e-5)


def test_indices_of_a_maximum_over_padding_of_the_run_time() -> None:
    """They would count in the padded tensor."""
    proto = net("MaxPool", OPEN, "y i", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    proto.graph.output.append(helper.make_tensor_value_info("i", TensorProto.INT64, [None] * 4))
    with pytest.raises(UnsupportedNodeError, match="run time"):
        canonicalise(read_model(proto))
    unused = net("MaxPool", OPEN, "y i", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    same_outputs(unused, {"x": numbers(2, 3, 7, 8)}, 0)


def test_maximum_of_bytes() -> None:
    n = node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    proto = model([n], {"x": OPEN}, {"y": [None] * 4}, dtype=TensorProto.INT8)
    x = np.random.default_rng(0).integers(-128, -100, (1, 1, 5, 6)).astype(np.int8)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    same_outputs(proto, {"x": x}, 0)


def test_lowest_numbers_by_type() -> None:
    assert lowest(ir.DataType.FLOAT) == np.finfo(np.float32).min
    assert lowest(ir.DataType.UINT8) == 0
    kind = ir.DataType.BFLOAT16.numpy()
    low = np.asarray(lowest(ir.DataType.BFLOAT16), kind)
    assert np.isfinite(low.astype(np.float32))
    assert np.asarray(low.view(np.uint16) + np.uint16(1)).view(kind).astype(np.float32) == -np.inf  # the next one is
