"""Rules of Resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from rule_cases import Case, case, check, parametrize
from run_time import gradient, ints, model

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


HALF = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
COORDINATES = (*HALF, "asymmetric", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(
    x: tuple[int, ...] = (2, 3, 4, 5),
    *,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    roi: np.ndarray | None = None,
    transform: str = "half_pixel",
    **attributes: Any,
) -> Case:
    """A case of Resize: operands by name, ``transform`` for the long attribute."""
    operands = {"roi": roi, "scales": scales} | ({} if sizes is None else {"sizes": sizes})
    attributes["coordinate_transformation_mode"] = transform
    opset = 19 if transform == "half_pixel_symmetric" else 18
    options = {k: attributes.pop(k) for k in ("rtol32", "symbolic", "runtime", "batch", "name") if k in attributes}
    return case("Resize", x=x, **operands, opset=opset, attributes=attributes, **options)


UP, DOWN, ODD = floats(1, 1, 2, 2), floats(1, 1, 0.5, 0.6), floats(1, 1, 1.3, 2.5)

NEAREST = [
    resize(scales=s, transform=t, nearest_mode=n, mode="nearest")
    for t in COORDINATES
    for n in ROUNDINGS
    for s in (UP, ODD)
]
MODES = [
    resize(scales=s, transform=t, mode=m) for m in ("linear", "cubic") for t in COORDINATES for s in (UP, DOWN, ODD)
]
CASES = [
    resize(sizes=ints(2, 3, 7, 3), mode="linear", symbolic=False, batch=False),
    resize(sizes=ints(8, 10), mode="nearest", axes=[2, 3]),
    resize(sizes=ints(10, 8), mode="nearest", axes=[3, 2]),
    resize(sizes=ints(12, 10), mode="nearest", axes=[2, 3], transform="asymmetric", nearest_mode="floor"),
    resize(sizes=ints(7), mode="linear", axes=[3]),
    resize(sizes=ints(1, 1), mode="linear", axes=[2, 3], transform="pytorch_half_pixel"),
    resize((2, 3, 4), scales=floats(1, 1, 3), mode="nearest"),
    resize((2, 2, 3, 2, 2), scales=floats(1, 1, 2, 1.5, 2), mode="linear"),
    resize((2, 2, 3, 2, 2), scales=floats(1, 1, 2, 3, 2), mode="nearest"),
    resize((2, 3, 4, 3), scales=floats(1, 2, 2, 1), mode="linear"),
    resize((2, 3, 4, 3), scales=floats(1, 2, 2, 1), mode="nearest"),
    resize((3, 4), scales=floats(2, 1.5), mode="linear", batch=False),
    resize((4,), scales=floats(1.5), mode="nearest", batch=False),
    resize((2, 3, 2), scales=floats(1.5, 1.4, 2.6), mode="nearest", batch=False),
    resize(scales=floats(1, 1, 1, 1), mode="linear"),
    resize(scales=UP, mode="cubic", cubic_coeff_a=-0.5),
    *(resize(scales=s, mode="cubic", exclude_outside=1) for s in (UP, DOWN)),
    *(resize((2, 2, 9, 8), scales=DOWN, mode=m, antialias=1) for m in ("linear", "cubic")),
    resize((2, 2, 9, 8), scales=floats(1, 1, 0.4, 0.5), mode="cubic", antialias=1, exclude_outside=1),
    *(
        resize((2, 3, 4, 6), sizes=ints(7, 8), mode=m, axes=[2, 3], keep_aspect_ratio_policy=p)
        for m in ("linear", "nearest", "cubic")
        for p in ("not_larger", "not_smaller")
    ),
]
#: Leaves the picture on one side. onnxruntime ignores the region along an axis whose size stays the same.
ROI = floats(0, 0, 0.21, -0.31, 1, 1, 0.68, 0.83)
CROPS = [
    *(
        resize(
            roi=ROI, sizes=ints(2, 3, 6, 7), transform="tf_crop_and_resize", mode=m, extrapolation_value=v,
            symbolic=False, batch=False,
        )
        for m in ("linear", "cubic", "nearest")
        for v in (0.0, 1.7)
    ),
    resize(
        roi=floats(0.1, 0.3, 1.2, 0.9), sizes=ints(3, 4), axes=[2, 3], transform="tf_crop_and_resize", mode="linear"
    ),
    resize(roi=ROI, scales=ODD, transform="tf_crop_and_resize", mode="linear", extrapolation_value=-2.0),
]  # fmt: skip


@parametrize(NEAREST)
def test_nearest(case: Case) -> None:
    check(case)


@parametrize(MODES)
def test_modes(case: Case) -> None:
    check(case)


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


@parametrize(CROPS)
def test_crops(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("kind", ["scales", "sizes"])
def test_amounts_known_only_at_run_time(mode: str, kind: str) -> None:
    """The gradient is the transpose of the operator, column by column, on a graph that knows no size."""
    shape = (1, 2, 3, 4)
    amount = floats(1, 1, 2, 1.5) if kind == "scales" else ints(1, 2, 6, 6)
    names = ["x", "", "amount"] if kind == "scales" else ["x", "", "", "amount"]
    feeds = {"x": np.zeros(shape, np.float32), "amount": amount}
    proto = model([helper.make_node("Resize", names, ["y"], mode=mode)], feeds)
    runtime = onnxruntime.InferenceSession(proto.SerializeToString())
    seed = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
    units = np.eye(24, dtype=np.float32).reshape(24, *shape)
    expected = [np.vdot(runtime.run(None, {**feeds, "x": unit})[0], seed) for unit in units]
    found = gradient(proto, feeds, seed)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)  # float32 sums of 36 numbers near 1


def test_a_batch_known_only_at_run_time_costs_nothing() -> None:
    """Sizes put together from Shape(x): only the axes that really change are multiplied by a matrix."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], end=2),
        helper.make_node("Concat", ["shape", "target"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    feeds = {"x": np.zeros((2, 3, 4, 4), np.float32)}
    proto = model(nodes, feeds)
    proto.graph.initializer.append(helper.make_tensor("target", 7, [2], [6, 6]))
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.output_value()
    rewriter.backward_from({y: rewriter.add_input("seed", y.dtype, None)}, [rewriter.value("x")])
    assert sum(n.op_type == "MatMul" for n in rewriter.graph) == 2
    seed = np.ones((2, 3, 6, 6), np.float32)
    assert gradient(proto, feeds, seed).sum() == pytest.approx(seed.sum())


def test_a_scale_that_depends_on_the_input_is_refused() -> None:
    feeds = {"x": np.zeros((1, 1, 2, 2), np.float32), "scales": floats(1, 1, 2, 2)}
    proto = model([helper.make_node("Resize", ["x", "", "scales"], ["y"])], feeds)
    with pytest.raises(UnsupportedNodeError, match="its scales depend"):
        gradient(proto, feeds, np.zeros((1, 1, 4, 4), np.float32), wrt="scales")


def test_an_aspect_ratio_of_a_region_is_refused() -> None:
    node = helper.make_node(
        "Resize",
        ["x", "roi", "", "sizes"],
        ["y"],
        axes=[2, 3],
        coordinate_transformation_mode="tf_crop_and_resize",
        keep_aspect_ratio_policy="not_larger",
    )
    feeds = {"x": np.zeros((1, 1, 2, 2), np.float32), "roi": floats(0, 0, 1, 1), "sizes": ints(4, 4)}
    with pytest.raises(UnsupportedNodeError, match="aspect ratio of a region"):
        gradient(model([node], feeds), feeds, np.zeros((1, 1, 4, 4), np.float32))
