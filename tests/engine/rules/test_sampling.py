"""Rules of GridSample and AffineGrid; places reach past the edges, and keep off the kinks at elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from rule_cases import Case, case, check, normal, parametrize
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import BlockedGradientError


def places(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A normal tensor, or a grid in [-1.7, 1.7] on the lattice of sevenths plus an offset."""
    if shape[-1] not in (2, 3) or len(shape) < 4:
        return normal(rng, shape)
    return (rng.integers(-12, 12, size=shape) + rng.uniform(0.35, 0.65, size=shape)) / 7.0


def sampled(opset: int = 20, **arguments: Any) -> Case:
    return case("GridSample", opset=opset, draw=places, batch=False, **arguments)


PADDINGS = ("zeros", "border", "reflection")
CASES = [
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="linear", padding_mode=p) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="linear", padding_mode=p, align_corners=1) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="cubic", padding_mode=p) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="cubic", padding_mode=p, align_corners=1) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), wrt=("x",), mode="nearest", padding_mode=p) for p in PADDINGS),
    *(sampled(x=(1, 2, 3, 4, 5), g=(1, 2, 3, 2, 3), mode="linear", padding_mode=p) for p in PADDINGS),
    sampled(x=(1, 2, 3, 4, 5), g=(1, 2, 3, 2, 3), mode="nearest", wrt=("x",), align_corners=1),
    sampled(opset=16, x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="bilinear"),
    sampled(opset=16, x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="bicubic", padding_mode="border"),
    sampled(opset=22, x=(2, 1, 1, 4), g=(2, 3, 4, 2), mode="linear", padding_mode="reflection", align_corners=1),
    case("AffineGrid", theta=(2, 2, 3), size=np.asarray([2, 3, 4, 5]), opset=20, batch=False, symbolic=False),
    case("AffineGrid", theta=(2, 3, 4), size=np.asarray([2, 3, 4, 5, 3]), align_corners=1, opset=20, batch=False, symbolic=False),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


# ----- the grid in nearest mode: zero, and said so ------------------------------------------------------


def moved(mode: str) -> onnx.ModelProto:
    """y = the picture x sampled where g says, times the sum of g."""
    nodes = [
        node("GridSample", "x g", "s", mode=mode),
        node("ReduceSum", "g axes", "t", keepdims=0),
        node("Mul", "s t", "y"),
    ]
    return model(
        nodes,
        {"x": ["N", 1, 3, 3], "g": ["N", 2, 2, 2]},
        {"y": ["N", 1, 2, 2]},
        {"axes": np.array([1, 2, 3])},
        opset=20,
    )


PICTURE = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
GRID = np.array([[[[-0.3, 0.2], [0.4, -0.6]], [[0.1, 0.7], [-0.8, 0.3]]]], np.float32)
SAID = "s_node (GridSample): the derivative by 'g' is zero: in nearest mode"


def test_vjp_lists_the_zero_of_the_grid() -> None:
    feeds, u = {"x": PICTURE, "g": GRID}, {"y": np.ones((1, 1, 2, 2), np.float32)}
    found = ox.vjp(moved("nearest"), feeds, u)
    (said,) = found.blocked
    assert said.startswith(SAID)
    sampled_sum = ox.vjp(moved("nearest"), feeds, u, wrt=["x"])
    assert sampled_sum.blocked == ()
    # d y / d g through the sum alone: the sum of the four samples, everywhere
    picked = PICTURE[0, 0][np.rint(1.5 * GRID[..., 1] + 1).astype(int), np.rint(1.5 * GRID[..., 0] + 1).astype(int)]
    np.testing.assert_allclose(found["g"], np.full(GRID.shape, picked.sum()), rtol=1e-6)
    assert ox.vjp(moved("linear"), feeds, u).blocked == ()


def test_explanations_and_the_pre_flight_list_it_too() -> None:
    e = ox.explain(moved("nearest"), {"x": PICTURE, "g": GRID}, method="gradient")
    assert len(e.blocked) == 1
    assert e.blocked[0].startswith(SAID)
    report = ox.check(moved("nearest"))
    assert report.ok
    assert [f"{b.node} ({b.operator}): {b.remedy}" for b in report.blocked] == list(e.blocked)


def test_a_grid_that_nothing_else_depends_on_is_an_error() -> None:
    proto = model(
        [node("GridSample", "x g", "y", mode="nearest")],
        {"x": ["N", 1, 3, 3], "g": ["N", 2, 2, 2]}, {"y": ["N", 1, 2, 2]}, opset=20,
    )  # fmt: skip
    feeds = {"x": PICTURE, "g": GRID}
    for refused in (
        lambda: ox.vjp(proto, feeds, {"y": np.ones((1, 1, 2, 2), np.float32)}, wrt=["g"]),
        lambda: ox.explain(proto, feeds, method="gradient", wrt=["g"]),
    ):
        with pytest.raises(BlockedGradientError, match=r"GridSample.*bilinear or bicubic"):
            refused()
    report = ox.check(proto, wrt=["g"])
    assert not report.ok
    assert "bilinear or bicubic" in report.problem
    assert [b.operator for b in report.blocked] == ["GridSample"]
