"""The emitted gates and guards against NumPy, in every float type that the runtime has kernels for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]
TYPES = [np.float32, np.float64, np.float16]


def _run(form: Callable[[Builder, ir.Value], ir.Value], x: Array) -> Array:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.from_numpy(x.dtype)), shape=ir.Shape(x.shape))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 18}, name="form")
    result = Builder(graph).Identity(form(Builder(graph), value), name="result")
    result.shape = ir.Shape(x.shape)
    graph.outputs.append(result)
    return Session(ir.Model(graph, ir_version=8), threads=1).run({"x": x})["result"]


def _numbers(dtype: type) -> Array:
    tiny, large = np.finfo(dtype).tiny, np.finfo(dtype).max
    return np.array([-np.inf, -large, -1, -tiny, -0.0, 0.0, tiny, 1, 6, large, np.inf], dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_step(dtype: type) -> None:
    x = _numbers(dtype)
    found = _run(forms.step, x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x > 0)


@pytest.mark.parametrize("dtype", TYPES)
def test_half_step(dtype: type) -> None:
    x = _numbers(dtype)
    np.testing.assert_array_equal(_run(forms.half_step, x), np.where(x == 0, 0.5, x > 0))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (None, 1.0), (-1.0, None), (1.0, -1.0)])
def test_between(dtype: type, low: float | None, high: float | None) -> None:
    x = _numbers(dtype)
    expected = np.ones(x.shape, bool)
    if low is not None:
        expected &= x > low
    if high is not None:
        expected &= x < high
    np.testing.assert_array_equal(_run(lambda op, v: forms.between(op, v, low, high), x), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_finite(dtype: type) -> None:
    x = _numbers(dtype)
    np.testing.assert_array_equal(_run(forms.finite, x), np.where(np.isinf(x), 0, x))


def test_finite_leaves_finite_constants_alone() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="form")
    op = Builder(graph)
    constant = op.constant(np.array([1.0, -2.0], np.float32))
    assert forms.finite(op, constant) is constant
    masked = op.constant(np.array([1.0, -np.inf], np.float32))
    assert forms.finite(op, masked) is not masked
