"""Rules of RoiAlign and MaxRoiPool; boxes reach past the picture, and keep off the kinks at elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rule_cases import Case, case, check, distinct, normal, parametrize
from single_node import gradient_of

from onnxplain.engine.errors import BlockedGradientError

BOXES = np.asarray([[0.13, 0.21, 4.37, 5.11], [1.23, 2.17, 3.31, 3.07], [-2.41, 1.11, 6.83, 9.29]])
OWNERS = np.asarray([0, 1, 0], np.int64)


def boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return BOXES + rng.uniform(-0.02, 0.02, size=shape) if shape == BOXES.shape else normal(rng, shape)


def aligned(**arguments: Any) -> Case:
    return case(
        "RoiAlign", x=(2, 3, 6, 7), rois=BOXES.shape, owners=OWNERS, draw=boxes, batch=False, **arguments
    )  # fmt: skip


CASES = [
    aligned(output_height=2, output_width=3, sampling_ratio=2),
    aligned(output_height=3, output_width=2, sampling_ratio=1, spatial_scale=0.5),
    aligned(output_height=2, output_width=2),
    aligned(output_height=2, output_width=3, sampling_ratio=2, mode="max"),
    aligned(output_height=2, output_width=2, mode="max", coordinate_transformation_mode="output_half_pixel"),
    aligned(output_height=2, output_width=2, coordinate_transformation_mode="output_half_pixel"),
]


#: Sample, left, top, right, bottom; halves, an empty region, one past the picture, one of a single element.
REGIONS = np.asarray(
    [[0, 1, 0, 5, 3], [1, 0.5, 2.5, 3.6, 4.2], [0, 4, 4, 2, 1], [1, -2, -3, 9, 8], [1, 20, 20, 22, 23]]
)


def pooled(**arguments: Any) -> Case:
    """Elements differ by more than the step of the differences; the reference is cross-checked by onnxruntime's kernel."""
    return case("MaxRoiPool", x=(2, 3, 6, 7), rois=REGIONS, draw=distinct, wrt=("x",), batch=False, **arguments)


CASES += [
    pooled(pooled_shape=[2, 3]),
    pooled(pooled_shape=[1, 1]),
    pooled(pooled_shape=[3, 2], spatial_scale=0.5),
    pooled(pooled_shape=[8, 4], spatial_scale=1.25),  # cells whose edges are exact in float32 as in float64
    pooled(pooled_shape=[2, 2], opset=22, runtime=False),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_the_old_form_has_the_old_coordinates() -> None:
    rng = np.random.default_rng(3)
    arrays = {"x": rng.normal(size=(2, 3, 6, 7)).astype(np.float32), "rois": BOXES.astype(np.float32), "i": OWNERS}
    options = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    cotangent = rng.normal(size=(3, 3, 2, 2))
    old = gradient_of("RoiAlign", arrays, ["x"], ["rois", "i"], cotangent, opset=10, **options)["x"]
    mode = "output_half_pixel"
    new = gradient_of(
        "RoiAlign", arrays, ["x"], ["rois", "i"], cotangent, opset=16, coordinate_transformation_mode=mode, **options
    )["x"]
    np.testing.assert_array_equal(old, new)


def test_regions_of_max_roi_pool_are_told_to_have_no_derivative() -> None:
    arrays = {"x": np.ones((2, 3, 6, 7), np.float32), "rois": REGIONS.astype(np.float32)}
    with pytest.raises(BlockedGradientError, match="rounded to whole elements"):
        gradient_of("MaxRoiPool", arrays, ["rois"], ["x"], np.ones((5, 3, 2, 2)), pooled_shape=[2, 2])


def test_of_elements_that_are_equally_large_one_has_it_all() -> None:
    arrays = {"x": np.ones((1, 1, 4, 4), np.float32), "rois": np.asarray([[0, 0, 0, 3, 3]], np.float32)}
    found = gradient_of("MaxRoiPool", arrays, ["x"], ["rois"], np.full((1, 1, 1, 1), 5.0), pooled_shape=[1, 1])["x"]
    assert sorted(found.ravel().tolist()) == [0.0] * 15 + [5.0]
