"""Reads what a user points at (arrays, folders, class names) and checks that an array fits a model's input.

A runtime's own complaint about a wrong input comes late and names tensors, not remedies; and what it does not
complain about (NaN, a silent rounding of fractions to integers) gives an explanation of nothing. Guarantee: after
:func:`validate_feed` the array has the declared dtype, rank and static sizes, at least one sample, and finite
values only; every change of dtype kept the values, or rounded one float format to another.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnxplain.engine.errors import InputError
from onnxplain.engine.pictures import PICTURE_SUFFIXES, read_bytes, read_picture

__all__ = [
    "ARRAY_SUFFIXES",
    "Item",
    "features_from_metadata",
    "gather_inputs",
    "labels_from_metadata",
    "read_array",
    "read_labels",
    "read_picture",
    "validate_feed",
    "validate_feeds",
]

ARRAY_SUFFIXES = (".npy", ".npz")
LABELS_KEY = "onnxplain.labels"
FEATURES_KEY = "onnxplain.features"
Array = NDArray[Any]
Shape = Sequence[int | str | None]


@dataclass(frozen=True)
class Item:
    """One thing to explain: a name unique within its run, what kind of file it is, and where it lies."""

    name: str
    kind: Literal["picture", "array"]
    path: Path


# ---------------------------------------------------------------------------------------------- files


def read_array(path: str | Path) -> Array | dict[str, Array]:
    """Read a ``.npy`` file as one array, or a ``.npz`` file as name -> array. Nothing is unpickled.

    Raises:
        InputError: Missing, damaged, no NumPy file, or with Python objects or records inside.
    """
    path = Path(path)
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise InputError(f"array file '{path}' is neither .npy nor .npz; save it with numpy.save or numpy.savez")
    try:
        # opened here and not by numpy.load, which leaves a damaged .npz open
        with path.open("rb") as stream:
            if not stream.read(6).startswith((b"\x93NUMPY", b"PK")):
                raise ValueError("it is no NumPy file")
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _plain(loaded, path)
            if not loaded.files:
                raise InputError(f"array file '{path}' holds no arrays; save some with numpy.savez")
            return {name: _plain(loaded[name], path) for name in loaded.files}
    except InputError:
        raise
    except Exception as error:  # on damaged files zipfile, zlib, tokenize and numpy raise a dozen unrelated types
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]
        if "allow_pickle" in reason or "Object arrays" in reason:
            why = "it holds Python objects, which are never loaded; save plain numbers"
        elif isinstance(error, OSError) and error.errno is not None:
            why = f"{reason}; check the path"
        else:
            why = f"{reason}; save it again with numpy.save or numpy.savez"
        raise InputError(f"array file '{path}' cannot be read: {why}") from None


def _plain(array: Array, path: Path) -> Array:
    if array.dtype.kind not in "biufcUS":
        raise InputError(f"array file '{path}' holds {array.dtype} elements; save plain numbers")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _natural(path: Path) -> list[Any]:
    """Sort key under which picture-9 stands before picture-10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [[int(part) if part.isdecimal() else 0, part] for part in parts]


def _kind(path: Path) -> Literal["picture", "array"] | None:
    suffix = path.suffix.lower()
    return "picture" if suffix in PICTURE_SUFFIXES else "array" if suffix in ARRAY_SUFFIXES else None


def _folder_items(folder: Path, recursive: bool) -> list[Item]:
    found = folder.rglob("*") if recursive else folder.iterdir()
    items = []
    for path in sorted((path.relative_to(folder) for path in found), key=_natural):
        kind = _kind(path)
        if kind and not any(part.startswith(".") for part in path.parts) and (folder / path).is_file():
            items.append(Item(path.as_posix(), kind, folder / path))
    if not items:
        raise InputError(
            f"folder '{folder}' has no pictures and no arrays in it; name a folder or files that have some"
        )
    return items


def gather_inputs(paths: str | Path | Iterable[str | Path], *, recursive: bool = False) -> list[Item]:
    """List what files and folders hold, in the order given; a folder's files come in natural order.

    Args:
        paths: Pictures, ``.npy`` and ``.npz`` files, and folders of them. Other files in a folder are passed over,
            hidden ones too; another file named directly is refused.
        recursive: Look into subfolders.

    Returns:
        Items whose names are unique: the file name (below a folder the path from there), with its folder in front
        where two would be the same.

    Raises:
        InputError: Nothing there, an empty folder, or a file of another kind.
    """
    items: list[Item] = []
    for path in [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]:
        kind = _kind(path)
        if path.is_dir():
            items += _folder_items(path, recursive)
        elif not path.exists():
            raise InputError(f"input '{path}' does not exist; check the path")
        elif kind is None:
            known = " ".join((*PICTURE_SUFFIXES, *ARRAY_SUFFIXES))
            raise InputError(f"input '{path}' is of no known kind; known are {known}")
        else:
            items.append(Item(path.name, kind, path))
    if not items:
        raise InputError("no input was named; give at least one picture, array or folder")
    return _unique(items)


def _unique(items: list[Item]) -> list[Item]:
    """Put the folder's name in front of names that occur twice, and a number behind what is still the same."""
    times = Counter(item.name for item in items)
    used: set[str] = set()
    result = []
    for item in items:
        wanted = f"{item.path.absolute().parent.name}/{item.name}" if times[item.name] > 1 else item.name
        name, number = wanted, 2
        while name in used:
            name, number = f"{wanted}#{number}", number + 1
        used.add(name)
        result.append(Item(name, item.kind, item.path))
    return result


# --------------------------------------------------------------------------------------------- labels


def read_labels(path: str | Path) -> list[str]:
    """Read class names: one a line, or JSON (a list, or an object index -> name or index -> [id, name]).

    Raises:
        InputError: Unreadable, empty, not UTF-8, or JSON of another form (an index missing, a name that is no text).
    """
    path = Path(path)
    try:
        text = read_bytes(path, "label file").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"label file '{path}' is not UTF-8 text; save it as UTF-8") from None
    if path.suffix.lower() == ".json":
        return _labels_from_json(text, f"label file '{path}'")
    labels = [line.strip() for line in text.splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise InputError(f"label file '{path}' has no names in it; write one a line")
    return labels


def labels_from_metadata(metadata: Mapping[str, str]) -> list[str] | None:
    """Class names that the model carries under ``onnxplain.labels`` (JSON), or None.

    Raises:
        InputError: The entry is not JSON of a form that :func:`read_labels` takes.
    """
    text = metadata.get(LABELS_KEY)
    return None if text is None else _labels_from_json(text, f"model metadata '{LABELS_KEY}'")


def features_from_metadata(metadata: Mapping[str, str]) -> list[str] | None:
    """Names of a table's columns that the model carries under ``onnxplain.features`` (JSON), or None.

    Raises:
        InputError: The entry is not JSON of a form that :func:`read_labels` takes.
    """
    text = metadata.get(FEATURES_KEY)
    return None if text is None else _labels_from_json(text, f"model metadata '{FEATURES_KEY}'")


def _labels_from_json(text: str, where: str) -> list[str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not valid JSON ({error}); correct it, or use a text file with one name a line"
        ) from None
    if isinstance(content, dict):
        missing = next((index for index in range(len(content)) if str(index) not in content), None)
        if missing is not None:
            raise InputError(
                f"{where} has {len(content)} entries but none for index {missing}; number them from 0 without gaps"
            )
        content = [content[str(index)] for index in range(len(content))]
    if not isinstance(content, list) or not content:
        raise InputError(f"{where} is neither a list of names nor an object index -> name; write one of the two")
    names = [item[-1] if isinstance(item, list) and item else item for item in content]
    wrong = next((index for index, name in enumerate(names) if not isinstance(name, str)), None)
    if wrong is not None:
        raise InputError(f"{where} holds {content[wrong]!r} at index {wrong}, which is no text; give a name")
    return names


# ---------------------------------------------------------------------------------------------- feeds


def _is_float(dtype: np.dtype[Any]) -> bool:
    """NumPy's own floats, and the small ones of ml_dtypes, which NumPy counts as opaque."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float8", "float4"))


def _as_array(name: str, value: Any) -> Array:
    try:
        # onnxruntime's own values, on whatever device, give their array by that method only
        array = np.asarray(value.numpy() if hasattr(value, "device_name") and hasattr(value, "numpy") else value)
    except ValueError:
        raise InputError(f"input '{name}' is a ragged list, not an array; give rows of equal length") from None
    except (TypeError, RuntimeError) as e:
        raise InputError(
            f"input '{name}', a {type(value).__name__}, cannot be read as an array ({str(e).splitlines()[0]}); "
            "give a NumPy array, of a tensor on another device tensor.detach().cpu()"
        ) from None
    if array.dtype.kind == "O" and not all(isinstance(item, str) for item in array.flat):
        raise InputError(f"input '{name}' holds Python objects, not numbers; give a numeric array")
    return array


def _shape_text(shape: Shape) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _fits(shape: Sequence[int], declared: Shape) -> bool:
    return len(shape) == len(declared) and all(
        not isinstance(wanted, int) or size == wanted for size, wanted in zip(shape, declared, strict=True)
    )


def _shape_remedy(shape: tuple[int, ...], declared: Shape) -> str:
    """What would make the array fit, where that is plain to see."""
    if _fits((1, *shape), declared):
        return "add the batch axis: array[None]"
    if len(shape) == len(declared) == 4:
        for axes, layout in (((0, 3, 1, 2), "NCHW"), ((0, 2, 3, 1), "NHWC")):
            if _fits([shape[axis] for axis in axes], declared):
                return f"it fits after array.transpose{axes}, so the model takes {layout}"
    if len(shape) == len(declared) and _fits(shape[1:], declared[1:]):
        return f"the model's batch is fixed: give {declared[0]} samples at a time, or export it with a dynamic batch"
    return "reshape or preprocess it to that shape"


def _check_shape(name: str, shape: tuple[int, ...], declared: Shape | None) -> None:
    if declared is not None and not _fits(shape, declared):
        what = "rank" if len(shape) != len(declared) else "shape"
        got = f"{len(shape)} ({_shape_text(shape)})" if what == "rank" else _shape_text(shape)
        wanted = f"{len(declared)} ({_shape_text(declared)})" if what == "rank" else _shape_text(declared)
        raise InputError(
            f"input '{name}' has {what} {got} but the model takes {wanted}; {_shape_remedy(shape, declared)}"
        )
    # a zero further in may be meant: a cache of past tokens starts with length 0
    if shape and shape[0] == 0:
        raise InputError(f"input '{name}' of shape {_shape_text(shape)} is an empty batch; give at least one sample")


def _check_finite(name: str, array: Array) -> None:
    """NaN or infinity anywhere makes every attribution of that sample meaningless."""
    values = array if array.dtype.kind in "fc" else array.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(axis) for axis in np.argwhere(~finite)[0])
        count = int(finite.size - np.count_nonzero(finite))
        raise InputError(
            f"input '{name}' has {count} value(s) that are NaN or infinite, the first at index {where}; "
            "replace them, or leave those samples out"
        )


def _to_float(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if _is_float(array.dtype):
        if not np.isfinite(cast.astype(np.float64)).all():
            raise InputError(f"input '{name}' has values too large for the model's {dtype.name}; scale them down")
        return cast
    # up to 2**53 whole numbers are exact in float64, so the comparison there decides
    largest = max(abs(int(array.max())), abs(int(array.min()))) if array.size else 0
    if largest > 2**53 or not np.array_equal(cast.astype(np.float64), array.astype(np.float64)):
        raise InputError(
            f"input '{name}' holds {array.dtype} values that {dtype.name} cannot represent exactly; "
            f"cast it to {dtype.name} yourself if rounding is meant"
        )
    return cast


def _to_integer(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    array = array if array.dtype.kind in "biuf" else array.astype(np.float32)  # ml_dtypes: exact in float32
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise InputError(
            f"input '{name}' holds {array.dtype} values with fractions but the model takes {dtype.name}; "
            "give whole numbers, such as token ids or pixels in 0..255"
        )
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise InputError(
            f"input '{name}' holds values from {int(array.min())} to {int(array.max())} but the model's {dtype.name} "
            f"takes {low} to {high}; correct the values"
        )
    return array.astype(dtype)


def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype:
        return array
    is_text, wants_text = array.dtype.kind in "OUS", dtype.kind in "OUS"
    if is_text and wants_text:
        return array.astype(np.object_)
    numeric = array.dtype.kind in "biuf" or _is_float(array.dtype)
    if not is_text and not wants_text and numeric:
        if _is_float(dtype):
            return _to_float(name, array, dtype)
        if dtype.kind in "biu":
            return _to_integer(name, array, dtype)
    wanted = "text" if wants_text else dtype.name
    raise InputError(
        f"input '{name}' holds {'text' if is_text else array.dtype} but the model takes {wanted}; give {wanted}"
    )


def validate_feed(name: str, array: Any, declared_dtype: DTypeLike, declared_shape: Shape | None) -> Array:
    """Check one input against what the model declares, and give it the declared dtype.

    What is cast: one float format to another (rounded to nearest, since the model declares that precision; refused
    where it would overflow), whole numbers to floats and floats to whole numbers (only where every value survives).

    Args:
        name: Input name, for messages.
        array: Array or nested list, batch axis first.
        declared_dtype: NumPy dtype of the model's input; ``object`` or ``str`` for text.
        declared_shape: Static sizes as int, symbolic or unknown ones as str or None; None where even the rank is open.

    Returns:
        C-contiguous array of native byte order.

    Raises:
        InputError: Wrong rank or static size, no samples, a dtype that would change values, NaN or infinity.
    """
    value = _as_array(name, array)
    _check_shape(name, value.shape, declared_shape)
    if value.dtype.kind == "c" or _is_float(value.dtype):
        _check_finite(name, value)
    value = _cast(name, value, np.dtype(declared_dtype).newbyteorder("="))
    return np.asarray(value, order="C")


def validate_feeds(
    feeds: Mapping[str, Any], declared: Mapping[str, tuple[DTypeLike, Shape | None]]
) -> dict[str, Array]:
    """Check all inputs of a model: :func:`validate_feed` on each, none missing and none unknown.

    Args:
        feeds: Input name -> array.
        declared: Input name -> (dtype, shape), every input that the model needs.

    Raises:
        InputError: As :func:`validate_feed`; or a name that the model does not have, or one that was not given.
    """
    names = ", ".join(declared)
    for name in feeds:
        if name not in declared:
            near = ", ".join(difflib.get_close_matches(name, declared, n=3)) or names
            raise InputError(f"the model has no input '{name}'; did you mean {near}?")
    for name in declared:
        if name not in feeds:
            raise InputError(f"input '{name}' was not given; the model needs {names}")
    return {name: validate_feed(name, feeds[name], *declared[name]) for name in declared}
