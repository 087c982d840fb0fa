"""Sizes that a graph computes are followed to the tensors that are made with them, behind Loops as well."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import Dims, dims


def node(kind: str, operands: str, result: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, operands.split(), [result], **attributes)


def sizes_behind_a_loop(nodes: list[onnx.NodeProto], **weights: object) -> Dims | None:
    """Sizes of ``y``, which the nodes compute from the states of all steps ``x``: ``[T, N, 3]``."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Tanh", ["s"], ["s2"]),
            helper.make_node("Identity", ["s2"], ["k"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info(n, t, None) for n, t in [("c2", TensorProto.BOOL), ("s2", 1), ("k", 1)]],
    )
    loop = helper.make_node("Loop", ["trips", "", "fed"], ["last", "x"], body=body)
    graph = helper.make_graph(
        [loop, *nodes],
        "g",
        [helper.make_tensor_value_info("fed", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in {**weights, "trips": 2}.items()],
    )
    model = canonicalise(read_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])))
    return named(dims(model.graph.outputs[0]))


def named(sizes: Dims | None) -> Dims | None:
    """Without the symbols that the standard's inference makes up."""
    if sizes is None:
        return None
    return tuple(None if isinstance(d, str) and d.startswith("unk__") else d for d in sizes)


ZERO = np.zeros((), np.float32)
INT32 = TensorProto.INT32


def test_expand_by_the_batch_as_keras_writes_it() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Cast", "shape", "small", to=INT32),
        node("Slice", "small one two zero", "batch"),
        node("Concat", "batch four", "packed", axis=0),
        node("Cast", "packed", "wide", to=TensorProto.INT64),
        node("Expand", "nought wide", "y"),
    ]
    four = np.asarray([4], np.int32)
    assert sizes_behind_a_loop(nodes, one=[1], two=[2], zero=[0], four=four, nought=ZERO) == ("N", 4)


def test_reshape_by_computed_sizes() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape index", "batch", axis=0),
        node("Unsqueeze", "batch zero", "one"),
        node("Mul", "two three", "six"),
        node("Concat", "open one six", "sizes", axis=0),
        node("Reshape", "x sizes", "y"),
    ]
    weights = {"index": 1, "zero": [0], "two": [2], "three": [3], "open": [-1]}
    assert sizes_behind_a_loop(nodes, **weights) == (None, "N", 6)


def test_constant_of_shape_and_a_copied_size() -> None:
    nodes = [node("Shape", "x", "shape", start=1), node("ConstantOfShape", "shape", "y")]
    assert sizes_behind_a_loop(nodes) == ("N", 3)
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("Reshape", "t sizes", "y")]
    assert sizes_behind_a_loop(nodes, sizes=[0, -1]) == ("N", None)


@pytest.mark.parametrize("kind", ["Div", "Max"])
def test_what_is_not_followed_is_not_known(kind: str) -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node(kind, "shape two", "less"),
        node("Expand", "nought less", "y"),
    ]
    found = sizes_behind_a_loop(nodes, two=[2], nought=ZERO)
    assert found is None or set(found) == {None}


def test_a_fraction_is_no_size() -> None:
    """0.5 must not be taken for 0: the product is 4, not 0."""
    nodes = [
        node("Cast", "eight", "real", to=TensorProto.FLOAT),
        node("Mul", "real half", "four"),
        node("Cast", "four", "size", to=TensorProto.INT64),
        node("Shape", "x", "shape", start=1, end=2),
        node("Concat", "shape size", "sizes", axis=0),
        node("Expand", "nought sizes", "y"),
    ]
    weights = {"eight": [8], "half": np.asarray([0.5], np.float32), "nought": ZERO}
    assert sizes_behind_a_loop(nodes, **weights) in [("N", 4), ("N", None)]
