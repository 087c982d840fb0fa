"""Rules of operators that join, cut and pick elements."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from rule_cases import Case, case, check, distinct, normal, parametrize
from run_time import gradient, ints, model, of_one_node, scattered, terms_of

MAX = np.iinfo(np.int64).max
CONST = np.arange(12.0).reshape(2, 3, 2) - 4.2
FLAGS = np.asarray([True, False, True])

CASES = [
    case("Concat", a=(2, 3, 2), b=(2, 1, 2), axis=1, batch=False),
    case("Concat", a=(2, 3, 2), b=(2, 3, 2), c=(2, 3, 1), axis=-1, batch=False),
    case("Concat", a=(2, 3, 2), b=CONST, c=(2, 1, 2), axis=1, batch=False, symbolic=False),
    case("Concat", a=(2, 3, 2), b=(1, 3, 2), axis=0, batch=False),
    case("Concat", a=(2, 3), axis=1),
    case("Split", x=(2, 6), split=ints(1, 2, 3), axis=1, outputs=3),
    case("Split", x=(2, 5), num_outputs=2, axis=-1, outputs=2),
    case("Split", x=(4, 3), num_outputs=2, axis=0, outputs=2, batch=False),
    case("Slice", x=(2, 5, 4), starts=ints(1), ends=ints(4), axes=ints(1)),
    case("Slice", x=(4, 5), starts=ints(1, 0), ends=ints(3, 9), batch=False),
    case("Slice", x=(2, 5, 4), starts=ints(-3, 1), ends=ints(-1, MAX), axes=ints(1, -1)),
    case("Slice", x=(2, 5, 4), starts=ints(1, 0), ends=ints(2, -1), axes=ints(-2, 2), steps=ints(1, 1)),
    case("Slice", x=(2, 5, 4), starts=ints(-100), ends=ints(100), axes=ints(1)),
    case("Slice", x=(2, 5, 4), starts=ints(-1), ends=ints(-MAX), axes=ints(1), steps=ints(-1)),
    case("Slice", x=(2, 5, 4), starts=ints(3, 0), ends=ints(0, MAX), axes=ints(1, 2), steps=ints(-1, 2)),
    case("Slice", x=(2, 7), starts=ints(1), ends=ints(6), axes=ints(1), steps=ints(3)),
    case("Slice", x=(2, 7, 3), starts=ints(-2), ends=ints(-7), axes=ints(1), steps=ints(-2)),
    case("Slice", x=(2, 4, 6), starts=ints(0, 1), ends=ints(MAX, MAX), axes=ints(1, 2), steps=ints(2, 2)),
    case("Slice", x=(2, 5), starts=ints(4), ends=ints(2), axes=ints(1), symbolic=False),
    case("Slice", x=(2, 5), starts=np.asarray([1], np.int32), ends=np.asarray([-1], np.int32), axes=None),
    case("Trilu", x=(2, 3, 4)),
    case("Trilu", x=(2, 3, 4), k=np.asarray(-1), upper=0),
    case("Trilu", x=(4, 3), k=np.asarray(1), batch=False),
    case("Compress", x=(2, 3, 4), condition=FLAGS, axis=1),
    case("Compress", x=(2, 3, 4), condition=FLAGS[:2], axis=-1),
    case("Compress", x=(2, 3), condition=FLAGS, batch=False),
    case("ReverseSequence", x=(2, 4, 3), lens=ints(3, 1), batch_axis=0, time_axis=1, batch=False),
    case("ReverseSequence", x=(4, 2, 3), lens=ints(4, 2), batch=False),
    case("CenterCropPad", x=(2, 5, 4), shape=ints(3, 7), axes=[1, -1]),
    case("CenterCropPad", x=(2, 4), shape=ints(3, 5), batch=False),
    case("OneHot", indices=ints(1, 0, 2, -1), depth=np.asarray(4), values=(2,), batch=False),
    case("OneHot", indices=ints(1, 5).reshape(2, 1), depth=ints(3), values=(2,), axis=0, batch=False),
]
GATHERS = [
    case("Gather", x=(5, 3), i=ints(1, 1, 4), batch=False),
    case("Gather", x=(5, 3), i=ints(1, 0, 4, 1).reshape(2, 2), batch=False),
    case("Gather", x=(2, 5, 3), i=ints(1, -1, 1), axis=1),
    case("Gather", x=(2, 5, 3), i=ints(1, -1, 1, 0, 2, 2).reshape(2, 3).astype(np.int32), axis=-2),
    case("Gather", x=(2, 3, 5), i=ints(1, -1, 1, 0).reshape(2, 2), axis=-1),
    case("Gather", x=(2, 5, 3), i=ints(3, 0, -1), axis=1),
    case("Gather", x=(2, 4, 3), i=ints(3, 0, 1, 2), axis=1),
    case("Gather", x=(2, 5, 3), i=ints(2, 3), axis=1),
    case("Gather", x=(2, 5, 3), i=ints(-3, -2), axis=1),
    case("Gather", x=(2, 5, 3), i=ints(-1, 0), axis=1),
    case("Gather", x=(2, 5, 3), i=np.asarray(0), axis=1),
    case("Gather", x=(2, 5, 3), i=np.asarray(-1), axis=1),
    case("Gather", x=(3, 2), i=np.asarray(1), batch=False),
    case("GatherElements", x=(3, 4), i=ints(1, 0, -1, 2, 2, 1).reshape(2, 3), axis=0, batch=False),
    case("GatherElements", x=(3, 4), i=ints(1, 0, -1, 3, 3, 3).reshape(3, 2), axis=-1, batch=False),
    case("GatherND", x=(3, 4, 2), i=ints(1, 0, -1, 2, 1, 0).reshape(3, 2), batch=False),
    case("GatherND", x=(3, 4, 2), i=ints(1, 1, 0).reshape(3, 1), batch=False),
    case("GatherND", x=(2, 3, 4), i=ints(1, 1).reshape(2, 1), batch_dims=1, batch=False),
    case("GatherND", x=(2, 2, 3), i=ints(1, 1, 2, 0).reshape(2, 2, 1), batch_dims=2, batch=False),
]
#: Elements that differ by more than the step of the differences: the order stays.
ORDERED = [
    case("Unique", x=(7,), draw=distinct, batch=False),
    case("Unique", x=(3, 4), outputs=4, draw=distinct, batch=False),
    case("Unique", x=(3, 4), sorted=0, draw=distinct, batch=False),
    case("Unique", x=(3, 2, 4), axis=0, draw=distinct, batch=False),
    case("Unique", x=(3, 2, 4), axis=-1, outputs=4, draw=distinct, batch=False),
]


@parametrize(CASES + ORDERED)
def test_rule(case: Case) -> None:
    check(case)


@parametrize(GATHERS)
def test_gather(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [
        ((1,), (3,), (1,)),
        ((-2,), (99,), (1,)),
        ((-99,), (-1,), None),
        ((3,), (-99,), (-1,)),
        ((0,), (5,), (2,)),
        ((4,), (2,), (1,)),
    ],
)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_slice_bounds_known_only_at_run_time(
    starts: tuple[int], ends: tuple[int], steps: tuple[int] | None, kind: type
) -> None:
    x = np.zeros((2, 5, 2), np.float32)
    numbers = np.arange(x.size).reshape(x.shape)[:, slice(starts[0], ends[0], steps[0] if steps else None)]
    seed = np.random.default_rng(0).normal(size=numbers.shape).astype(np.float32)
    feeds = {"x": x, "starts": np.asarray(starts, kind), "ends": np.asarray(ends, kind), "axes": np.asarray([1], kind)}
    if steps:
        feeds["steps"] = np.asarray(steps, kind)
    np.testing.assert_array_equal(of_one_node("Slice", feeds, seed), scattered(numbers, seed, x.shape))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_gather_indices_known_only_at_run_time(axis: int, shape: tuple[int, ...]) -> None:
    x = np.zeros((3, 4, 3), np.float32)
    indices = np.random.default_rng(0).integers(-3, 3, size=shape)
    numbers = np.take(np.arange(x.size).reshape(x.shape), indices, axis)
    seed = np.random.default_rng(1).normal(size=numbers.shape).astype(np.float32)
    found = of_one_node("Gather", {"x": x, "i": np.asarray(indices)}, seed, axis=axis)
    np.testing.assert_allclose(found, scattered(numbers, seed, x.shape), rtol=1e-6)


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (0, 2)])
@pytest.mark.parametrize("sizes", [ints(1, 2, 3), None])
def test_a_part_that_nothing_uses(present: tuple[int, ...], sizes: np.ndarray | None) -> None:
    """Parts without adjoint are zeros, whether their sizes are told by the model or fed."""
    x = np.zeros((2, 6), np.float32)
    names = ["a", "b", "c"]
    nodes = [helper.make_node("Split", ["x", "sizes"], names, axis=1)]
    nodes.append(helper.make_node("Concat", [names[i] for i in present], ["y"], axis=1))
    feeds = {"x": x, "sizes": ints(1, 2, 3)}
    proto = model(nodes, feeds)
    if sizes is not None:
        proto.graph.initializer.append(helper.make_tensor("sizes", 7, [3], sizes.tolist()))
        del proto.graph.input[1], feeds["sizes"]
    parts = [[0], [1, 2], [3, 4, 5]]
    numbers = np.arange(12).reshape(2, 6)[:, [i for p in present for i in parts[p]]]
    seed = np.random.default_rng(1).normal(size=numbers.shape).astype(np.float32)
    np.testing.assert_array_equal(gradient(proto, feeds, seed), scattered(numbers, seed, x.shape))


def test_concat_of_one_tensor_twice() -> None:
    feeds = {"x": np.zeros((2, 2), np.float32)}
    proto = model([helper.make_node("Concat", ["x", "x"], ["y"], axis=1)], feeds)
    seed = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(gradient(proto, feeds, seed), seed[:, :2] + seed[:, 2:])


@pytest.mark.parametrize("order", [("x", "k", "z"), ("k", "x", "z"), ("z", "k", "x")])
def test_concat_with_an_operand_that_is_not_asked_for(order: tuple[str, ...]) -> None:
    """Sizes of the run time: the part of x is found wherever it stands."""
    rng = np.random.default_rng(0)
    feeds = {k: normal(rng, (2, n)).astype(np.float32) for k, n in (("x", 2), ("k", 3), ("z", 1))}
    proto = model([helper.make_node("Concat", list(order), ["y"], axis=1)], feeds)
    seed = rng.normal(size=(2, 6)).astype(np.float32)
    start = sum(feeds[k].shape[1] for k in order[: order.index("x")])
    np.testing.assert_array_equal(gradient(proto, feeds, seed), seed[:, start : start + 2])


@pytest.mark.parametrize("op_type", ["Gather", "GatherElements", "GatherND", "Compress"])
def test_half_precision_adds_up_in_full(op_type: str) -> None:
    """Scatter-add has no float16 kernel on the CPU; adjoints of a half-precision model are float32 anyway."""
    second = {"Compress": np.asarray([True, False, True]), "GatherND": ints(2, 2, 0).reshape(3, 1)}
    index = second.get(op_type, ints(2, 2, 0))
    seed = np.asarray([1, 2, 3] if op_type != "Compress" else [3, 2], np.float16)
    found = of_one_node(op_type, {"x": np.zeros(3, np.float16), "i": index}, seed)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [3, 0, 2] if op_type == "Compress" else [3, 0, 3])


def test_equal_elements_share_the_gradient_of_their_value() -> None:
    seed = np.asarray([6, 8, 10], np.float32)
    found = of_one_node("Unique", {"x": np.asarray([[3, 1, 3], [2, 3, 1]], np.float32)}, seed)
    np.testing.assert_array_equal(found, np.asarray([[10 / 3, 3, 10 / 3], [8, 10 / 3, 3]], np.float32))


def test_equal_slices_share_the_gradient_of_theirs() -> None:
    x = np.asarray([[1, 0, 1], [2, 5, 2]], np.float32)
    proto = model([helper.make_node("Unique", ["x"], ["y"], axis=1, sorted=0)], {"x": x})
    seed = np.asarray([[4, 5], [6, 7]], np.float32)
    np.testing.assert_array_equal(gradient(proto, {"x": x}, seed), [[2, 5, 2], [3, 7, 3]])


def test_what_is_joined_but_not_active_is_a_bias_at_its_place() -> None:
    """The class token's case: a constant in front of what depends on the input."""
    feeds = {"x": np.ones((1, 2, 2), np.float32)}
    proto = model([helper.make_node("Concat", ["token", "x"], ["y"], axis=1)], feeds)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 1, 2), 5, np.float32), "token"))
    ((kind, name, value),) = terms_of(proto, feeds, np.ones((1, 3, 2), np.float32))
    assert (kind, name) == ("explicit", "token")
    np.testing.assert_array_equal(value, [[[5, 5], [0, 0], [0, 0]]])
