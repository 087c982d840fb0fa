"""Models of opset 6: NumPy's answers, where attributes said how shapes go together; gradients that follow them.

No runtime loads that opset, so that what it means is spelt out here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import node

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.session.session import Session
from onnxplain.engine.vjp import vjp

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 1.5, size=(2, 3, 4, 5)).astype(np.float32)


def numbers(*shape: int) -> Array:
    return np.asarray(RNG.uniform(0.5, 1.5, size=shape), np.float32)


def model(made: onnx.NodeProto, feeds: dict[str, Array], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, 1, a.shape) for n, a in feeds.items()]
    graph = helper.make_graph([made], "g", infos, [helper.make_tensor_value_info("y", kind, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)


def answer(proto: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    return Session(canonicalise(read_model(proto)), threads=1).run(feeds)["y"]


FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Less": np.less,
             "Greater": np.greater}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "axis", "where"),
    [((3, 4), 1, (1, 3, 4, 1)), ((3,), 1, (1, 3, 1, 1)), ((5,), 3, (5,)), ((4, 5), None, (4, 5)), ((2,), 0, (2, 1, 1, 1)),
     ((1, 1), 0, (1, 1, 1, 1)), ((4, 5), -2, (4, 5))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("op_type", FUNCTIONS)
def test_the_axis_says_where_the_second_operand_lies(
    op_type: str, shape: tuple[int, ...], axis: int | None, where: tuple[int, ...]
) -> None:
    feeds = {"x": X, "z": numbers(*shape)}
    attributes = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    kind = TensorProto.BOOL if op_type in ("Less", "Greater") else TensorProto.FLOAT
    proto = model(node(op_type, "x z", "y", **attributes), feeds, kind)
    np.testing.assert_allclose(answer(proto, feeds), FUNCTIONS[op_type](X, feeds["z"].reshape(where)), rtol=1e-6)
    if op_type == "Mul":
        found = vjp(proto, feeds, {"y": np.ones_like(X)})["z"]
        axes = tuple(a for a in range(4) if a < 4 - len(where) or where[a - 4 + len(where)] == 1)
        np.testing.assert_allclose(found, X.sum(axis=axes).reshape(shape), rtol=1e-5)


def test_a_slope_per_channel() -> None:
    feeds = {"x": X - 1, "s": numbers(3)}
    proto = model(node("PRelu", "x s", "y"), feeds)
    slope = feeds["s"].reshape(3, 1, 1)
    np.testing.assert_allclose(answer(proto, feeds), np.where(X < 1, slope * (X - 1), X - 1), rtol=1e-6)
    found = vjp(proto, feeds, {"y": np.ones_like(X)})
    np.testing.assert_allclose(found["s"], np.minimum(X - 1, 0).sum(axis=(0, 2, 3)), rtol=1e-5)


def test_one_slope_for_all() -> None:
    feeds = {"x": X - 1, "s": numbers(1)}
    y = answer(model(node("PRelu", "x s", "y"), feeds), feeds)
    np.testing.assert_allclose(y, np.where(X < 1, feeds["s"] * (X - 1), X - 1), rtol=1e-6)


def test_broadcast_of_a_product() -> None:
    feeds = {"a": numbers(2, 3), "b": numbers(3, 4), "c": numbers(4)}
    y = answer(model(node("Gemm", "a b c", "y", broadcast=1), feeds), feeds)
    np.testing.assert_allclose(y, feeds["a"] @ feeds["b"] + feeds["c"], rtol=1e-5)


def test_two_scales() -> None:
    feeds = {"x": X}
    y = answer(model(node("Upsample", "x", "y", height_scale=2.0, width_scale=3.0), feeds), feeds)
    np.testing.assert_array_equal(y, X.repeat(2, axis=2).repeat(3, axis=3))


def test_statistics_at_inference() -> None:
    feeds = {"x": X, **{n: numbers(3) for n in ("s", "b", "m", "v")}}
    y = answer(model(node("BatchNormalization", "x s b m v", "y", is_test=1, epsilon=0.01), feeds), feeds)
    s, b, m, v = (feeds[n].reshape(3, 1, 1) for n in ("s", "b", "m", "v"))
    np.testing.assert_allclose(y, (X - m) / np.sqrt(v + 0.01) * s + b, rtol=1e-5)


def test_dropout_at_inference() -> None:
    np.testing.assert_array_equal(answer(model(node("Dropout", "x", "y", is_test=1), {"x": X}), {"x": X}), X)


@pytest.mark.parametrize("op_type", ["Dropout", "BatchNormalization"])
def test_training_mode_is_refused_in_words(op_type: str) -> None:
    feeds = {"x": X, **({n: numbers(3) for n in ("s", "b", "m", "v")} if op_type != "Dropout" else {})}
    with pytest.raises(UnsupportedNodeError, match="is_test is not set"):
        canonicalise(read_model(model(node(op_type, " ".join(feeds), "y"), feeds)))


@pytest.mark.parametrize(("op_type", "options"), [("Add", {"broadcast": 1, "axis": 1}), ("PRelu", {})])
def test_ranks_of_the_run_time_are_refused_in_words(op_type: str, options: dict[str, int]) -> None:
    feeds = {"x": X, "z": numbers(3)}
    proto = model(node(op_type, "x z", "y", **options), feeds)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedNodeError, match="known only at run time"):
        canonicalise(read_model(proto))
