"""Linear resampling against onnx's own reference of Resize."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.upsample import linear_matrix, upsampled


@pytest.mark.parametrize(("size", "out"), [(7, 224), (3, 10), (2, 2), (1, 5), (5, 3), (4, 1)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_against_resize(size: int, out: int, align_corners: bool) -> None:
    mode = "align_corners" if align_corners else "pytorch_half_pixel"
    if out == 1 and not align_corners:
        mode = "half_pixel"  # PyTorch's form puts a single place at the border, ours in the middle
    row = np.random.default_rng(0).normal(size=(1, 1, size))
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear", coordinate_transformation_mode=mode)
    info = [helper.make_tensor_value_info(n, t, None) for n, t in (("x", TensorProto.DOUBLE), ("s", TensorProto.INT64))]
    graph = helper.make_graph([node], "g", info, [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": row, "s": np.array([1, 1, out])})
    # 1e-6: the reference forms its coordinates in float32.
    np.testing.assert_allclose(upsampled(row, {2: out}, align_corners), expected, atol=1e-6)


def test_rows_are_means_of_neighbours() -> None:
    matrix = linear_matrix(3, 8, False)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert (matrix >= 0).all() and ((matrix > 0).sum(axis=1) <= 2).all()


def test_several_axes() -> None:
    """A plane stays a plane."""
    y, x = np.meshgrid(np.linspace(0, 1, 3), np.linspace(0, 1, 4), indexing="ij")
    fine = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 5), indexing="ij")
    np.testing.assert_allclose(upsampled(2 * y - x, {0: 9, 1: 5}, True), 2 * fine[0] - fine[1], atol=1e-12)
