"""The samples of an evaluation: inputs, and what is known about them.

They come as arrays, ``.npz``, any iterable, or a folder of pictures whose classes are the names of its subfolders or
rows of a CSV file. A name stands for a class only where the model's labels say so, or where it is a number.
"""

from __future__ import annotations

import csv
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.errors import InputError
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.explanation import Array
from onnxplain.engine.inputs import Item, gather_inputs, labels_from_metadata, read_array, read_labels

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
            ``boxes``); a folder of pictures (:func:`read_folder`); or an iterable of inputs or of (input, label)
            pairs.
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
    if isinstance(data, (str, Path)) and Path(data).is_dir():
        return read_folder(data, scorer.model)
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


# ----- folders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """A file and the name of its class; None where it is not known."""

    item: Item
    label: str | None


def labelled_files(folder: str | Path, classes: str | Path | None = None) -> list[Labelled]:
    """Pictures and arrays of a folder with the names of their classes.

    Args:
        folder: With a subfolder per class, or with files whose classes are not known or stand in `classes`.
        classes: A CSV file of two columns: path from the folder, and class. It also says which files are taken.

    Returns:
        Subfolders take turns, so that the first few hold some of each class; rows of a CSV file keep their order.

    Raises:
        InputError: No files, or a CSV file that cannot be read or names a file that is not there.
    """
    folder = Path(folder)
    if classes is not None:
        return _listed(folder, Path(classes))
    items = gather_inputs(folder, recursive=True)
    groups: dict[str | None, list[Labelled]] = {}
    for item in items:
        parts = item.path.relative_to(folder).parts
        name = parts[0] if len(parts) > 1 else None
        groups.setdefault(name, []).append(Labelled(item, name))
    turns = itertools.zip_longest(*groups.values())
    return [one for turn in turns for one in turn if one is not None]


def _listed(folder: Path, table: Path) -> list[Labelled]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"class file '{table}' cannot be read: {reason}; give a CSV file: path, class") from None
    if rows and not (folder / rows[0][0]).exists() and len(rows) > 1:
        rows = rows[1:]  # a heading
    found = []
    for row in rows:
        if len(row) < 2:
            raise InputError(f"class file '{table}' has the row '{row[0]}' without a class; write: path, class")
        if not (folder / row[0].strip()).is_file():
            raise InputError(f"class file '{table}' names '{row[0]}', which is not in '{folder}'; correct the path")
        (item,) = gather_inputs(folder / row[0].strip())
        found.append(Labelled(Item(row[0].strip(), item.kind, item.path), row[1].strip()))
    if not found:
        raise InputError(f"class file '{table}' has no rows; write: path, class")
    return found


def class_numbers(names: Sequence[str | None], labels: Sequence[str] | None) -> Array | None:
    """Numbers of named classes, ``[N]``; None where any of them is not known.

    Args:
        names: A whole number, or a name among the labels (of several names with commas between, one of them).
        labels: Names of the model's classes.

    Raises:
        InputError: A name that is neither.
    """
    if any(name is None for name in names):
        return None
    known: dict[str, int] = {}
    for number, label in enumerate(labels or ()):
        for one in (label, *label.split(",")):
            known.setdefault(one.strip().casefold(), number)
    numbers = []
    for name in names:
        text = str(name).strip()
        if text.casefold() in known:
            numbers.append(known[text.casefold()])
        elif text.isdecimal():
            numbers.append(int(text))
        else:
            near = ", ".join(difflib.get_close_matches(text.casefold(), known, n=3))
            remedy = f"did you mean {near}?" if near else "give the model's class names, or number the classes"
            raise InputError(f"class '{text}' is no number and none of the model's labels; {remedy}")
    return np.array(numbers, dtype=np.int64)


def read_folder(
    folder: str | Path,
    model: Any,
    *,
    classes: str | Path | None = None,
    labels: str | Path | Sequence[str] | None = None,
    preprocess: str | Path | None = None,
    limit: int | None = None,
) -> Dataset:
    """Pictures of a folder, as a model takes them.

    Args:
        folder: See :func:`labelled_files`.
        model: The loaded model; its own metadata may declare preprocessing and labels, and so may a card
            (``MODEL.toml``) beside it.
        classes: A CSV file with classes.
        labels: Names of the model's classes, or a file of them.
        preprocess: Preset or TOML card.
        limit: At most so many pictures.

    Raises:
        InputError: No pictures, no preprocessing declared, pictures of several sizes, or an unknown class.
        OptionError: Unknown preset.
    """
    from onnxplain.engine.cards import load_card, resolve

    path = model.source.path
    beside = None if path is None else Path(path).with_suffix(".toml")
    card = preprocess if preprocess is not None else beside if beside is not None and beside.is_file() else None
    preprocessing = resolve(card, None, model.metadata)
    if preprocessing is None:
        raise InputError(
            "no preprocessing is declared for pictures, and it is never guessed; name a preset or a TOML card"
        )
    if labels is None and card is not None:
        labels = load_card(card).labels
    known = read_labels(labels) if isinstance(labels, (str, Path)) else labels or labels_from_metadata(model.metadata)
    files = [f for f in labelled_files(folder, classes) if f.item.kind == "picture"][:limit]
    if not files:
        raise InputError(f"folder '{folder}' has no pictures in it; read its arrays and give those")
    from onnxplain.engine.pictures import read_picture

    views = [preprocessing.view(read_picture(f.item.path)) for f in files]
    arrays = [preprocessing.normalise(view)[0] for view in views]
    if len({a.shape for a in arrays}) > 1:
        raise InputError(f"the pictures of '{folder}' differ in size; declare one in the preprocessing")
    numbers = class_numbers([f.label for f in files], known)
    return Dataset(np.stack(arrays), numbers, None, [f.item.name for f in files], list(views))
