"""What is explained: an element of an output, the largest one, or any weighted sum of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxplain.engine.errors import TargetError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Target:
    """The explained scalar of each sample's output.

    Use the constructors: :meth:`argmax`, :meth:`index`, :meth:`weights`, :meth:`margin`.

    Attributes:
        kind: ``index`` (one element per sample, chosen in the graph) or ``weights`` (a weighted sum).
        value: Indices or weights; None for the largest element.
    """

    kind: Literal["index", "weights"]
    value: Any = None

    @staticmethod
    def argmax() -> Target:
        """The largest element of each sample's output."""
        return Target("index")

    @staticmethod
    def index(value: int | Sequence[int] | Array) -> Target:
        """One class for all samples, or one per sample; tuples are indices into an output of higher rank."""
        return Target("index", value)

    @staticmethod
    def weights(value: Any) -> Target:
        """A weighted sum of elements: an array for one sample's output, or for the whole batch."""
        return Target("weights", np.asarray(value))

    @staticmethod
    def margin(first: int, second: int, classes: int) -> Target:
        """The difference of two classes' scores."""
        for index in (first, second):
            _in_range(index, classes, str(index))
        weights = np.zeros(classes)
        weights[first] += 1.0
        weights[second] -= 1.0
        return Target("weights", weights)


def as_target(value: Any) -> Target:
    """``None``, ``"argmax"``, an int, one int per sample, a tuple index or a :class:`Target` as a Target.

    Raises:
        TargetError: Anything else.
    """
    if isinstance(value, Target):
        return value
    if value is None or (isinstance(value, str) and value == "argmax"):
        return Target.argmax()
    if isinstance(value, (bool, str, float)):
        raise TargetError(f"target {value!r} is no class; give an index, one index per sample, or 'argmax'")
    if isinstance(value, (int, np.integer, tuple)):
        return Target("index", value)
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        return Target("index", array)
    raise TargetError(f"target of type {type(value).__name__} is not understood; give an index, or Target.weights(...)")


def flat_indices(target: Target, count: int, shape: Sequence[int] | None) -> Array:
    """Flat index per sample, ``int64 [N]``; -1 stands for the largest element.

    Args:
        target: Of kind ``index``.
        count: Number of samples.
        shape: Shape of one sample's output where it is known.

    Raises:
        TargetError: Wrong number of indices, wrong rank, or an index out of range.
    """
    value = target.value
    if value is None:
        return np.full(count, -1, dtype=np.int64)
    if isinstance(value, tuple):
        if shape is None:
            raise TargetError("a tuple index needs an output of known shape; give a flat index instead")
        if len(value) != len(shape):
            raise TargetError(
                f"target {value} has {len(value)} indices, and a sample's output has shape {tuple(shape)}; "
                f"give {len(shape)}"
            )
        position = [_in_range(int(v), n, str(value)) for v, n in zip(value, shape, strict=True)]
        return np.full(count, np.ravel_multi_index(position, tuple(shape)), dtype=np.int64)
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TargetError(f"target {value!r} is no index; give whole numbers, or Target.weights(...)")
    if array.ndim == 2 and shape is not None and array.shape[1] == len(shape) != 1:
        return _rows_of_tuples(array, count, shape)
    if array.ndim > 1:
        raise TargetError(
            f"targets of shape {array.shape} are not understood; give one flat index per sample, "
            "or one tuple index per sample for an output of known shape"
        )
    array = array.astype(np.int64).reshape(-1)
    if array.size not in (1, count):
        raise TargetError(f"{array.size} targets for {count} samples; give one for all, or one per sample")
    size = int(np.prod(shape)) if shape is not None else None
    if size is not None:
        array = np.array([_in_range(int(v), size, str(int(v))) for v in array], dtype=np.int64)
    elif (array < 0).any():
        raise TargetError("a negative target needs an output of known size; give an index from 0")
    return np.broadcast_to(array, (count,)).copy()


def _rows_of_tuples(array: Array, count: int, shape: Sequence[int]) -> Array:
    if len(array) != count:
        raise TargetError(f"{len(array)} targets for {count} samples; give one for all, or one per sample")
    return np.concatenate([flat_indices(Target("index", tuple(row)), 1, shape) for row in array.tolist()])


def _in_range(index: int, size: int, shown: str) -> int:
    if not -size <= index < size:
        raise TargetError(f"target {shown} is out of range: the explained output has {size} elements, 0 to {size - 1}")
    return index % size
