"""Gradients of the forms that operators had in older opsets, which ONNX's own suite does not test with floats.

The same five checks as for every rule, on the old form as a file has it: what says how, or how far, lay in
attributes that later became inputs; Softmax flattened; the mode of a normalisation followed from its outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rule_cases import Case, case, check, distinct, parametrize, uniform
from single_node import gradient_of, model_of, outputs_of

POSITIVE = uniform(0.5, 2.0)


def at(opsets: tuple[int, ...], op_type: str, **arguments: Any) -> list[Case]:
    """The same variant at several opsets."""
    return [case(op_type, opset=opset, **arguments) for opset in opsets]


SHAPES = [
    *at((7, 11), "Squeeze", x=(2, 1, 3, 1), attributes={"axes": [1, 3]}),
    *at((7, 12), "Squeeze", x=(2, 1, 3), batch=False, symbolic=False),
    *at((7, 11), "Unsqueeze", x=(2, 3), attributes={"axes": [0, 2]}, batch=False),
    *at((7, 10, 12), "Split", x=(2, 7, 2), attributes={"axis": 1, "split": [3, 4]}, outputs=2),
    *at((7, 11), "Split", x=(2, 6), attributes={"axis": -1}, outputs=3),
    *at((7, 9), "Slice", x=(3, 5, 4), attributes={"starts": [1, -3], "ends": [4, 100], "axes": [1, 2]}, batch=False),
    case("Slice", x=(3, 5), attributes={"starts": [1], "ends": [-1]}, opset=7, batch=False),
    *at((7, 10), "Pad", x=(2, 3, 4), attributes={"pads": [0, 1, 2, 0, 0, 1], "mode": "constant", "value": 1.5}),
    *at((7, 10), "Pad", x=(2, 3, 5), attributes={"pads": [0, 0, 2, 0, 0, 1], "mode": "reflect"}),
    *at((7, 10), "Pad", x=(2, 3, 5), attributes={"pads": [0, 0, -1, 0, 0, 1], "mode": "edge"}, runtime=False),
    *at((7, 10), "Flatten", x=(2, 3, 4), attributes={"axis": 2}, batch=False),
    *at((9, 13), "Flatten", x=(2, 3, 4), attributes={"axis": 1}),
]
REDUCTIONS = [
    *at((7, 11, 12), "ReduceSum", x=(2, 3, 4), attributes={"axes": [1, 2], "keepdims": 0}),
    *at((7, 11), "ReduceSum", x=(2, 3, 4), batch=False),
    *(
        variant
        for name in ("ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare", "ReduceProd")
        for variant in at((7, 13, 17), name, x=(2, 3, 4), attributes={"axes": [-1]})
    ),
    *at((7, 13), "ReduceLogSum", x=(2, 3, 4), attributes={"axes": [1]}, draw=POSITIVE),
    *(
        variant
        for name in ("ReduceMax", "ReduceMin")
        for variant in at((7, 12, 17), name, x=(2, 3, 4), attributes={"axes": [2], "keepdims": 0}, draw=distinct)
    ),
]
BOUNDS = [
    *at((7, 10), "Clip", x=(2, 5), attributes={"min": -0.7, "max": 0.4}),
    case("Clip", x=(2, 5), attributes={"min": -0.2}, opset=7),
    case("Clip", x=(2, 5), opset=7),
    *at((7, 9), "TopK", x=(2, 6), attributes={"k": 2, "axis": 1}, outputs=2, draw=distinct),
    case("TopK", x=(2, 6), k=np.asarray([3], np.int64), outputs=2, draw=distinct, opset=10),
    *at((7, 10), "Dropout", x=(2, 5), attributes={"ratio": 0.4}),
    case("Dropout", x=(2, 5), ratio=np.asarray(0.4), opset=12),
]
NORMALISED = [
    *at((7, 9), "BatchNormalization", x=(2, 3, 4), s=(3,), b=(3,), m=(3,), v=(3,), draw=POSITIVE, rtol=1e-6),
    case("InstanceNormalization", x=(2, 3, 5), s=(3,), b=(3,), opset=7),
    *at((18,), "GroupNormalization", x=(2, 4, 3), s=(2,), b=(2,), attributes={"num_groups": 2}, runtime=False),
    *at((21,), "GroupNormalization", x=(2, 4, 3), s=(4,), b=(4,), attributes={"num_groups": 2}, runtime=False),
]
SCALED = [
    *at((7, 8), "Upsample", x=(1, 2, 3, 4), attributes={"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    *at((7,), "Upsample", x=(1, 2, 3, 4), attributes={"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    case("Upsample", x=(1, 2, 3, 4), scales=np.asarray([1, 1, 2, 2], np.float32), opset=9),
]
SCATTERED = [
    *at((9, 10), "Scatter", x=(3, 4), i=np.asarray([[1, 0], [2, 3]]), u=(2, 2), attributes={"axis": 1}, batch=False),
    case("ScatterElements", x=(3, 4), i=np.asarray([[1, 0], [1, 3]]), u=(2, 2), attributes={"axis": 1, "reduction": "add"},
         opset=16, batch=False),
    case("ScatterND", x=(3, 4), i=np.asarray([[1], [1]]), u=(2, 4), attributes={"reduction": "mul"}, opset=16, batch=False,
         draw=POSITIVE),
]  # fmt: skip
#: Tagged differentiable, and without any test of floats in the suite.
UNTESTED = [
    *at((7, 18), "GlobalLpPool", x=(2, 3, 4, 5), attributes={"p": 3}),
    case("GlobalLpPool", x=(2, 3, 4), opset=7),
    *(case("Trilu", x=(2, 3, 4), opset=14, attributes={"upper": u}) for u in (0, 1)),
    case("Trilu", x=(4, 4), k=np.asarray(-1), opset=14, batch=False),
    case("Trilu", x=(2, 3, 5), k=np.asarray(2), opset=18, attributes={"upper": 0}),
]


@parametrize(
    [*SHAPES, *REDUCTIONS, *BOUNDS, *NORMALISED, *SCALED, *SCATTERED, *UNTESTED],
)
def test_old_form(case: Case) -> None:
    check(case)


# The evaluator takes these for their newer forms; onnxruntime has kernels of the old ones.


def jacobian(
    op_type: str, x: np.ndarray[Any, Any], opset: int, extra: dict[str, Any], **attributes: Any
) -> np.ndarray[Any, Any]:
    """Of onnxruntime's plain answers: exact for a linear operator, by differences of 1e-2 otherwise."""
    proto = model_of(op_type, {"x": x, **extra}, list(extra), opset=opset, **attributes)
    columns = []
    for unit in np.eye(x.size).reshape(-1, *x.shape):
        ends = (outputs_of(proto, {"x": (x + h * unit).astype(np.float32)})[0] for h in (1e-2, -1e-2))
        columns.append(np.subtract(*ends).ravel().astype(np.float64) / 2e-2)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_below_opset_13_all_axes_from_one_on_are_one(op_type: str, opset: int, axis: int) -> None:
    if axis < 0 and opset < 11:
        axis = 2  # axes count from the front there
    x = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    seed = np.random.default_rng(1).normal(size=x.shape)
    found = gradient_of(op_type, {"x": x}, cotangent=seed, opset=opset, axis=axis)["x"]
    slopes = seed.ravel() @ jacobian(op_type, x, opset, {}, axis=axis)
    # third derivatives times 1e-4, and float32 over a step of 1e-2
    np.testing.assert_allclose(found.ravel(), slopes, atol=2e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 0.5, 2), (1, 1, 0.75, 1)], ids=str)
def test_resize_of_opset_10(scales: tuple[float, ...], mode: str) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    extra = {"s": np.asarray(scales, np.float32)}
    matrix = jacobian("Resize", x, 10, extra, mode=mode)
    seed = np.random.default_rng(1).normal(
        size=outputs_of(model_of("Resize", {"x": x, **extra}, ["s"], opset=10, mode=mode), {"x": x})[0].shape
    )
    found = gradient_of("Resize", {"x": x, **extra}, ["x"], ["s"], seed, opset=10, mode=mode)["x"]
    np.testing.assert_allclose(found.ravel(), seed.ravel() @ matrix, atol=1e-4)
