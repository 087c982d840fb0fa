"""What a target may be, and which element of the output it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain.engine.errors import TargetError
from onnxplain.engine.targets import Target, as_target, flat_indices


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
