"""The samples of an evaluation: inputs, and what is known about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.errors import InputError
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.explanation import Array
from onnxplain.engine.inputs import read_array

#: Names under which an ``.npz`` may hold inputs, labels, masks and boxes.
_INPUTS, _LABELS = ("x", "images", "inputs", "data"), ("y", "labels", "targets")


@dataclass
class Dataset:
    """Samples.

    Attributes:
        x: ``[N, ...]``.
        labels: ``[N]``: true classes, where they are known.
        masks: ``[N, places...]``: where the object is, 0 to 1, where it is known.
        names: One per sample.
        pictures: uint8 RGB per sample, where there are pictures.
    """

    x: Array
    labels: Array | None
    masks: Array | None
    names: list[str]
    pictures: list[Array | None]

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, rows: slice | Array) -> Dataset:
        """Some of the samples."""
        chosen = np.arange(len(self))[rows]
        return Dataset(
            self.x[chosen],
            None if self.labels is None else self.labels[chosen],
            None if self.masks is None else self.masks[chosen],
            [self.names[i] for i in chosen],
            [self.pictures[i] for i in chosen],
        )


def as_dataset(
    data: Any, scorer: Scorer, *, labels: Any = None, masks: Any = None, boxes: Any = None, limit: int | None = None
) -> Dataset:
    """Samples from whatever the user has.

    Args:
        data: A :class:`Dataset`; an array ``[N, ...]``; a mapping or an ``.npz`` with ``x`` (and ``y``, ``masks``,
            ``boxes``); or an iterable of inputs or of (input, label) pairs.
        scorer: Knows what the model takes.
        labels: ``[N]``: true classes, before those in ``data``.
        masks: ``[N, places...]``.
        boxes: ``[N, 4]``: x0, y0, x1, y1 in places, instead of masks.
        limit: At most so many samples.

    Raises:
        InputError: Nothing in it, or arrays that do not fit each other or the model.
    """
    if not isinstance(data, Dataset):
        data = _from_any(data, scorer)
    known = data.labels if labels is None else np.asarray(labels)
    where = data.masks if masks is None else np.asarray(masks, dtype=np.float64)
    if boxes is not None:
        where = box_masks(np.asarray(boxes), _place_sizes(data.x, scorer))
    for name, array in (("labels", known), ("masks", where)):
        if array is not None and len(array) != len(data.x):
            raise InputError(f"there are {len(array)} {name} for {len(data.x)} samples; give one per sample")
    result = Dataset(scorer.checked(data.x), known, where, data.names, data.pictures)
    if where is not None and where.shape[1:] != _place_sizes(result.x, scorer):
        raise InputError(
            f"masks of shape {where.shape[1:]} do not fit inputs of {_place_sizes(result.x, scorer)} places"
        )
    return result if limit is None else result.subset(slice(limit))


def _place_sizes(x: Array, scorer: Scorer) -> tuple[int, ...]:
    from onnxplain.engine.places import spatial_axes

    return tuple(x.shape[a] for a in spatial_axes(scorer.labels).values())


def _from_any(data: Any, scorer: Scorer) -> Dataset:
    if isinstance(data, (str, Path)):
        content = read_array(data)
        data = content if isinstance(content, dict) else {"x": content}
    if isinstance(data, Mapping):
        return _from_mapping(data, scorer)
    if isinstance(data, np.ndarray):
        return _plain(data)
    if isinstance(data, Iterable):
        return _from_items(data)
    raise InputError(f"samples cannot be taken from {type(data).__name__}; give an array, an .npz or an iterable")


def _from_mapping(data: Mapping[str, Any], scorer: Scorer) -> Dataset:
    key = next((k for k in (scorer.name, *_INPUTS) if k in data), None)
    if key is None:
        raise InputError(f"the samples have no inputs: there is {', '.join(data)}; call them 'x' or '{scorer.name}'")
    result = _plain(np.asarray(data[key]))
    found = next((k for k in _LABELS if k in data), None)
    result.labels = None if found is None else np.asarray(data[found])
    if "masks" in data:
        result.masks = np.asarray(data["masks"], dtype=np.float64)
    elif "boxes" in data:
        result.masks = box_masks(np.asarray(data["boxes"]), _place_sizes(result.x, scorer))
    return result


def _from_items(data: Iterable[Any]) -> Dataset:
    inputs, labels = [], []
    for item in data:
        pair = isinstance(item, (tuple, list)) and len(item) == 2
        inputs.append(np.asarray(item[0] if pair else item))
        labels += [item[1]] if pair else []
    if not inputs:
        raise InputError("the samples are empty; give at least one")
    if len({a.shape for a in inputs}) > 1:
        raise InputError("the samples differ in shape; bring them to one")
    result = _plain(np.stack(inputs))
    result.labels = np.asarray(labels) if len(labels) == len(inputs) else None
    return result


def _plain(x: Array) -> Dataset:
    if x.ndim < 2 or not len(x):
        raise InputError(f"samples of shape {x.shape} hold none; give an array [N, ...]")
    return Dataset(x, None, None, [str(i) for i in range(len(x))], [None] * len(x))


def box_masks(boxes: Array, sizes: tuple[int, ...]) -> Array:
    """Masks ``[N, H, W]`` that are 1 inside boxes ``[N, 4]`` (x0, y0, x1, y1, the last ones outside).

    Raises:
        InputError: Boxes of another shape, or inputs that are no pictures.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(sizes) != 2:
        raise InputError(f"boxes of shape {boxes.shape} are not understood; give [N, 4] for pictures: x0, y0, x1, y1")
    y, x = np.arange(sizes[0])[None, :, None], np.arange(sizes[1])[None, None, :]
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).astype(np.float64)
