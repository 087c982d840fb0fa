"""What is explained: an element of an output, the largest one, or any scalar made from the outputs.

A target is one scalar per sample. Some are known beforehand (a class, weights); others depend on what
the model answered (a region of what it segmented, the detection nearest to a box): those are settled once,
from the clean input, before anything is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxplain.engine.errors import TargetError

Array = np.ndarray[Any, Any]

Kind = Literal["index", "rank", "weights", "cosine", "distance", "lazy"]


@dataclass(frozen=True)
class Answer:
    """What the model says about the clean input, for targets that depend on it.

    Attributes:
        outputs: The model's own outputs by name.
        output: Name of the explained one, unless the target names another.
        count: Number of samples.
    """

    outputs: Mapping[str, Array]
    output: str
    count: int

    def of(self, name: str | None) -> Array:
        """An output.

        Raises:
            TargetError: There is none of that name.
        """
        name = name or self.output
        if name not in self.outputs:
            raise TargetError(f"the model has no output '{name}'; it has {', '.join(map(repr, self.outputs))}")
        return self.outputs[name]


@dataclass(frozen=True, eq=False)
class Target:
    """The explained scalar of each sample.

    Use the constructors: :meth:`argmax`, :meth:`index`, :meth:`rank`, :meth:`weights`, :meth:`margin`,
    :meth:`region`, :meth:`box`, :meth:`similarity`; :meth:`top_k` makes several.

    Attributes:
        kind: ``index`` (one element per sample), ``rank`` (the k-th largest), ``weights`` (a weighted sum),
            ``cosine`` and ``distance`` (to a reference), ``lazy`` (one of these, once the model answered).
        value: Indices, rank, weights, reference, or the function that settles it; None for the largest element.
        output: Name of the output that is meant; None for the explainer's.
        whole: That output has no batch axis: all of it belongs to the one sample.
        words: What is explained, in words, where no index says it.
    """

    kind: Kind
    value: Any = None
    output: str | None = None
    whole: bool = False
    words: str = ""

    @staticmethod
    def argmax() -> Target:
        """The largest element of each sample's output."""
        return Target("index")

    @staticmethod
    def index(value: int | Sequence[int] | Array, output: str | None = None) -> Target:
        """One class for all samples, or one per sample; tuples are indices into an output of higher rank."""
        return Target("index", value, output)

    @staticmethod
    def rank(value: int, output: str | None = None) -> Target:
        """The element with the ``value``-th largest score of each sample; 0 is the largest.

        Raises:
            TargetError: A negative rank.
        """
        if value < 0:
            raise TargetError(f"rank {value} is not possible; give 0 for the largest element, 1 for the next, ...")
        return Target("rank", int(value), output)

    @staticmethod
    def top_k(k: int, output: str | None = None) -> Targets:
        """The k elements with the largest scores of each sample, each explained by itself.

        Raises:
            TargetError: Fewer than one.
        """
        if k < 1:
            raise TargetError(f"top {k} is not possible; give at least 1")
        return Targets([Target.rank(i, output) for i in range(k)])

    @staticmethod
    def weights(value: Any, output: str | None = None, *, whole: bool = False) -> Target:
        """A weighted sum of elements: an array for one sample's output, or for the whole batch.

        Args:
            value: Weights; 0 for elements that do not count.
            output: Name of the output; the explainer's by default.
            whole: The output has no batch axis (a list of detections): the weights are for all of it.
        """
        return Target("weights", np.asarray(value), output, whole, "a weighted sum")

    @staticmethod
    def margin(first: int, second: int, classes: int | None = None) -> Target:
        """The difference of two classes' scores.

        Args:
            first, second: Flat indices.
            classes: Their number; by default as many as the output has.
        """
        words = f"margin of {first} over {second}"
        if classes is None:
            return Target("lazy", lambda answer: _margin(first, second, answer.of(None), words), words=words)
        weights = _margin_weights(first, second, classes)
        return Target("weights", weights, words=words)

    @staticmethod
    def region(
        mask: Any, class_index: int | None = None, *, output: str | None = None, axis: int | None = None
    ) -> Target:
        """The score of a class, summed over a region of a dense prediction (segmentation, depth, a series).

        Args:
            mask: What counts: booleans or weights in the output's places ``[H, W]``, or one per sample.
            class_index: The class; by default each place's own best one, fixed from the clean input.
            output: Name of the output; the explainer's by default.
            axis: Axis of the classes in one sample's output; by default the one that the mask leaves over,
                the first where there is a choice.
        """
        weights = np.asarray(mask)
        return Target("lazy", lambda answer: _region(answer, weights, class_index, output, axis), output)

    @staticmethod
    def box(
        box: Sequence[float],
        class_index: int | None = None,
        *,
        boxes: str | None = None,
        scores: str | None = None,
        form: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy",
        first_class: int = 4,
        overlap: float = 0.5,
    ) -> Target:
        """The score of the detection that overlaps a given box the most.

        Before non-maximum suppression the candidates are all anchors, after it the detections that are left.

        Args:
            box: Four numbers in the units and the ``form`` of the model's own boxes.
            class_index: The class; by default the detection's best one.
            boxes: Output that holds the boxes: four numbers of a row or a column each; the explainer's by default.
            scores: Output that holds the scores, a number or a row of classes per box; by default what stands
                beside the box in the same row, from ``first_class`` on.
            form: Corners ``xyxy`` or ``yxyx``, corner and size ``xywh``, or centre and size ``cxcywh``.
            first_class: Where the classes' scores begin in a row that also holds the box.
            overlap: Intersection over union that the detection must have at least.
        """
        from onnxplain.engine.detections import nearest_detection

        corners = [float(v) for v in box]

        def settle(answer: Answer) -> Target:
            return nearest_detection(answer, corners, class_index, boxes, scores, form, first_class, overlap)

        return Target("lazy", settle, scores or boxes)

    @staticmethod
    def similarity(
        reference: Any, metric: Literal["cosine", "dot", "distance"] = "cosine", *, output: str | None = None
    ) -> Target:
        """How near the output is to a reference embedding.

        Args:
            reference: The embedding of what is compared with: one for all samples, or one per sample.
            metric: ``cosine`` of the angle, ``dot`` product, or ``distance``: the negative squared one.
            output: Name of the output; the explainer's by default.

        Raises:
            TargetError: Unknown metric.
        """
        if metric not in ("cosine", "dot", "distance"):
            raise TargetError(f"unknown metric '{metric}'; choose one of cosine, dot, distance")
        kind: Kind = "weights" if metric == "dot" else metric
        words = {"cosine": "cosine similarity", "dot": "dot product", "distance": "negative squared distance"}
        return Target(kind, np.asarray(reference), output, words=f"{words[metric]} to a reference")

    def settle(self, answer: Callable[[], Answer]) -> Target:
        """The same target without open questions; the model is asked only where it has to be."""
        return self.value(answer()) if self.kind == "lazy" else self


class Targets(Sequence[Target]):
    """Several scalars of one output or of several, explained in one run that shares the forward pass."""

    def __init__(self, targets: Sequence[Any]) -> None:
        if not targets:
            raise TargetError("there is no target in the list; give at least one")
        self._targets = tuple(as_target(t) for t in targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: Any) -> Any:
        return self._targets[index]

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets)


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


def as_targets(value: Any) -> Targets | None:
    """Several targets, where ``value`` is a list of :class:`Target` or already :class:`Targets`; else None."""
    if isinstance(value, Targets):
        return value
    if isinstance(value, (list, tuple)) and any(isinstance(v, Target) for v in value):
        return Targets(value)
    return None


def settled(targets: Sequence[Target], answer: Callable[[], Answer]) -> list[Target]:
    """All targets without open questions; the model is asked at most once, and only if it has to be."""
    cache: list[Answer] = []

    def once() -> Answer:
        if not cache:
            cache.append(answer())
        return cache[0]

    return [t.settle(once) for t in targets]


def flat_indices(target: Target, count: int, shape: Sequence[int] | None) -> Array:
    """Flat index per sample, ``int64 [N]``; -1 stands for the largest element, -k for the k-th largest.

    Args:
        target: Of kind ``index`` or ``rank``.
        count: Number of samples.
        shape: Shape of one sample's output where it is known.

    Raises:
        TargetError: Wrong number of indices, wrong rank, or an index out of range.
    """
    value = target.value
    if target.kind == "rank":
        size = int(np.prod(shape)) if shape is not None else None
        if size is not None and value >= size:
            raise TargetError(f"rank {value} is out of range: the explained output has {size} elements")
        return np.full(count, -1 - value, dtype=np.int64)
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


def _margin_weights(first: int, second: int, classes: int) -> Array:
    weights = np.zeros(classes)
    weights[_in_range(first, classes, str(first))] += 1.0
    weights[_in_range(second, classes, str(second))] -= 1.0
    return weights


def _margin(first: int, second: int, output: Array, words: str) -> Target:
    shape = output.shape[1:]
    return Target("weights", _margin_weights(first, second, int(np.prod(shape))).reshape(shape), words=words)


def _region(answer: Answer, mask: Array, class_index: int | None, output: str | None, axis: int | None) -> Target:
    scores = answer.of(output)
    shape = scores.shape[1:]
    mask = mask if mask.ndim and len(mask) == answer.count and mask.ndim == len(shape) else mask[None]
    places = mask.shape[1:]
    if places == shape:  # one score per place
        return Target("weights", np.broadcast_to(mask, scores.shape).astype(np.float64), output, words="a region")
    fits = [i for i in range(len(shape)) if (*shape[:i], *shape[i + 1 :]) == places]
    if axis is not None:
        fits = [axis % len(shape)] if axis % len(shape) in fits else []
    if not fits:
        raise TargetError(
            f"the mask has shape {places}, and a sample's output {shape}; give a mask with the output's places, "
            "that is its shape without the axis of the classes"
        )
    along = fits[0] + 1
    size = scores.shape[along]
    if class_index is None:
        chosen, name = scores.argmax(axis=along), "each place's own class"
    else:
        chosen = np.full((answer.count, *places), _in_range(class_index, size, str(class_index)))
        name = f"class {class_index}"
    hot = np.moveaxis(np.eye(size)[chosen], -1, along)
    return Target("weights", hot * np.expand_dims(mask, along), output, words=f"{name} in a region")
