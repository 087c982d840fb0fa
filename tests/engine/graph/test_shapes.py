"""What is known of a value: numbers, symbols, nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxplain.engine.graph.shapes import constant, dims, is_float, rank, same, set_dims, static_dims


def value(shape: Any, dtype: ir.DataType | None = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(
        name="v", shape=None if shape is None else ir.Shape(shape), type=None if dtype is None else ir.TensorType(dtype)
    )


def initializer(array: Any) -> ir.Value:
    return ir.Value(name="k", const_value=ir.tensor(np.asarray(array)))


@pytest.mark.parametrize(
    ("shape", "known", "static"),
    [
        (None, None, None),
        ([], (), ()),
        ([2, 3], (2, 3), (2, 3)),
        (["N", 3], ("N", 3), None),
        ([None, 3], (None, 3), None),
        ([0], (0,), (0,)),
    ],
)
def test_sizes(shape: Any, known: Any, static: Any) -> None:
    v = value(shape)
    assert dims(v) == known
    assert static_dims(v) == static
    assert rank(v) == (None if known is None else len(known))


def test_sizes_of_a_constant_come_from_its_content() -> None:
    k = initializer(np.zeros((2, 3)))
    k.shape = ir.Shape(["A", "B"])
    assert dims(k) == (2, 3)
    assert constant(k) is not None
    assert constant(value([2])) is None
    assert constant(None) is None


def test_a_constant_that_is_an_input_may_be_fed_anew() -> None:
    k = initializer([1.0])
    graph = ir.Graph([k], [], nodes=[], initializers=[k])
    assert graph.inputs[0] is k
    assert constant(k) is None


def test_float_tensors() -> None:
    for dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        assert is_float(value([1], dtype))
    for dtype in (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.COMPLEX64, None):
        assert not is_float(value([1], dtype))
    assert not is_float(ir.Value(name="s", type=ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))))


def test_equal_sizes() -> None:
    assert same(3, 3)
    assert same("N", "N")
    assert not same(3, 4)
    assert not same("N", "M")
    assert not same(None, None)


def test_sizes_are_recorded() -> None:
    v = value(None)
    set_dims(v, ["N", None, 3])
    assert dims(v) == ("N", None, 3)
