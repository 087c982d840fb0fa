"""What a target may be, and which element of the output it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain.engine.errors import TargetError
from onnxplain.engine.targets import Answer, Target, Targets, as_target, as_targets, flat_indices, settled


@pytest.mark.parametrize("value", [None, "argmax"])
def test_the_largest_element_is_the_default(value: Any) -> None:
    assert flat_indices(as_target(value), 3, (10,)).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (4, (10,), [4, 4, 4]),
        (np.int64(4), (10,), [4, 4, 4]),
        (-1, (10,), [9, 9, 9]),
        ([1, 2, 3], (10,), [1, 2, 3]),
        (np.array([1, -1, 0], np.int32), (10,), [1, 9, 0]),
        ([5], (10,), [5, 5, 5]),
        ((1, 2), (3, 4), [6, 6, 6]),
        ((-1, -1), (3, 4), [11, 11, 11]),
        ((0, 1, 2), (2, 3, 4), [6, 6, 6]),
        ((7,), (10,), [7, 7, 7]),
        ([(0, 0), (1, 2), (2, 3)], (3, 4), [0, 6, 11]),
        (7, (3, 4), [7, 7, 7]),
        (0, (), [0, 0, 0]),
        (2, None, [2, 2, 2]),
    ],
)
def test_flat_index(value: Any, shape: tuple[int, ...] | None, expected: list[int]) -> None:
    found = flat_indices(as_target(value), 3, shape)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_tuple_index_is_that_of_numpy() -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 4))
    for index in np.ndindex(2, 3, 4):
        assert array.reshape(-1)[flat_indices(Target.index(index), 1, array.shape)[0]] == array[index]


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (10, (10,), "target 10 is out of range.*10 elements, 0 to 9"),
        (-11, (10,), "out of range"),
        ([0, 10, 1], (10,), "target 10 is out of range"),
        ([1, 2], (10,), "2 targets for 3 samples"),
        ([(0, 1), (1, 2)], (3, 4), "2 targets for 3 samples"),
        ((1, 4), (3, 4), "out of range"),
        ((1,), (3, 4), "1 indices.*give 2"),
        ((1, 2), None, "known shape"),
        (-1, None, "negative target needs an output of known size"),
        ([[1], [2], [0]], (10,), "targets of shape"),
        ([[0, 1], [1, 1], [0, 0]], (10,), "targets of shape"),
        (Target.index(1.5), (10,), "is no index"),  # type: ignore[arg-type]
        (1, (), "out of range"),
    ],
)
def test_what_does_not_fit_the_output(value: Any, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        flat_indices(as_target(value), 3, shape)


@pytest.mark.parametrize("value", ["cat", 1.0, True, np.float64(2), [0.5, 1.5], np.array(True), object(), {"a": 1}])
def test_what_is_no_target(value: Any) -> None:
    with pytest.raises(TargetError, match="give an index"):
        as_target(value)


def test_a_target_stays_itself() -> None:
    target = Target.weights([1.0, -1.0])
    assert as_target(target) is target
    assert target.kind == "weights"


def test_margin_of_two_classes() -> None:
    assert Target.margin(2, 0, 4).value.tolist() == [-1.0, 0.0, 1.0, 0.0]
    assert Target.margin(-1, 0, 3).value.tolist() == [-1.0, 0.0, 1.0]
    with pytest.raises(TargetError, match="target 4 is out of range"):
        Target.margin(0, 4, 4)


# ----- targets that the model answers first -------------------------------------------------------------


def test_ranks_count_from_the_largest() -> None:
    assert flat_indices(Target.rank(2), 3, (10,)).tolist() == [-3, -3, -3]
    with pytest.raises(TargetError, match="rank 10 is out of range"):
        flat_indices(Target.rank(10), 1, (10,))
    with pytest.raises(TargetError, match="rank -1"):
        Target.rank(-1)
    with pytest.raises(TargetError, match="top 0"):
        Target.top_k(0)


def settled_weights(target: Target, scores: Any) -> Any:
    (found,) = settled([target], lambda: Answer({"y": np.asarray(scores)}, "y", len(scores)))
    assert found.kind == "weights"
    return found.value


def test_margin_takes_the_outputs_size() -> None:
    weights = settled_weights(Target.margin(2, -4), np.zeros((3, 4)))
    assert weights.tolist() == [-1.0, 0.0, 1.0, 0.0]
    with pytest.raises(TargetError, match="target 4 is out of range"):
        settled_weights(Target.margin(4, 0), np.zeros((3, 4)))


SCORES = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
MASK = np.random.default_rng(1).random((4, 5)) > 0.5


def test_region_of_a_class() -> None:
    weights = settled_weights(Target.region(MASK, 1), SCORES)
    np.testing.assert_allclose((weights * SCORES).sum(axis=(1, 2, 3)), SCORES[:, 1][:, MASK].sum(axis=1))


def test_region_of_each_places_own_class() -> None:
    weights = settled_weights(Target.region(MASK), SCORES)
    np.testing.assert_allclose((weights * SCORES).sum(axis=(1, 2, 3)), SCORES.max(axis=1)[:, MASK].sum(axis=1))


def test_region_with_the_classes_last_and_masks_per_sample() -> None:
    masks = np.stack([MASK, ~MASK])
    weights = settled_weights(Target.region(masks, 2), np.moveaxis(SCORES, 1, -1))
    expected = [SCORES[n, 2][masks[n]].sum() for n in range(2)]
    np.testing.assert_allclose((weights * np.moveaxis(SCORES, 1, -1)).sum(axis=(1, 2, 3)), expected)


def test_region_where_the_axis_is_open() -> None:
    cube = np.random.default_rng(2).normal(size=(1, 3, 3, 3))
    mask = np.eye(3)
    for axis, along in [(None, 0), (0, 0), (2, 2), (-1, 2)]:
        weights = settled_weights(Target.region(mask, 1, axis=axis), cube)
        assert (weights * cube).sum() == pytest.approx(np.trace(np.take(cube[0], 1, axis=along)))
    with pytest.raises(TargetError, match=r"the mask has shape \(2, 2\)"):
        settled_weights(Target.region(np.ones((2, 2))), cube)


def test_several_targets() -> None:
    assert as_targets([1, 2]) is None, "one index per sample"
    several = as_targets([Target.index(1), Target.argmax()])
    assert several is not None and len(several) == 2
    assert [t.value for t in Target.top_k(3)] == [0, 1, 2]
    with pytest.raises(TargetError, match="no target in the list"):
        Targets([])


def test_an_output_that_is_not_there() -> None:
    with pytest.raises(TargetError, match="no output 'z'; it has 'y'"):
        settled([Target.region(MASK, output="z")], lambda: Answer({"y": SCORES}, "y", 2))
