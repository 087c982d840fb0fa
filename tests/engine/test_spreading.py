"""Spreading keeps sums, whatever the sizes; where nothing is at the border it is interpolation, rescaled."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.session.session import Session
from onnxplain.engine.spreading import spread


def run(x: np.ndarray[Any, Any], sizes: tuple[int, ...], align_corners: bool, known: bool) -> np.ndarray[Any, Any]:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    shape = ir.Shape(["N", *(x.shape[1:] if known else [f"d{i}" for i in range(x.ndim - 1)])])
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    graph.inputs.append(value)
    op = Builder(graph)
    graph.outputs.append(spread(op, value, [op.constant([s]) for s in sizes], align_corners))
    session = Session(ir.Model(graph, ir_version=8), ["CPUExecutionProvider"])
    return next(iter(session.run({"x": x.astype(np.float32)}).values()))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("source", "target"),
    [((3, 4), (9, 7)), ((3, 4), (3, 4)), ((1, 5), (6, 5)), ((9, 8), (4, 3)), ((7,), (20,)), ((2, 3, 2), (5, 4, 6))],
)
def test_sums_are_kept(source: tuple[int, ...], target: tuple[int, ...], align_corners: bool, known: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, *source))
    found = run(x, target, align_corners, known)
    assert found.shape == (2, *target)
    axes = tuple(range(1, found.ndim))
    np.testing.assert_allclose(found.sum(axis=axes), x.sum(axis=axes), rtol=1e-4, atol=1e-5)
    if source == target:
        np.testing.assert_allclose(found, x, rtol=1e-6)


def test_a_point_spreads_as_a_triangle() -> None:
    """Doubled by half pixels, a point inside gives 1/4 and 3/4 on both sides, and these sum to two."""
    x = np.zeros((1, 4))
    x[0, 1] = 1
    np.testing.assert_allclose(run(x, (8,), False, True)[0], np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8, atol=1e-7)


def test_nothing_is_invented() -> None:
    assert run(np.abs(np.random.default_rng(1).normal(size=(1, 3, 3))), (8, 8), True, True).min() >= 0
