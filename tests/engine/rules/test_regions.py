"""Rules of RoiAlign; boxes reach past the picture, and keep off the kinks at elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from rule_cases import Case, case, check, normal, parametrize
from single_node import gradient_of

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
