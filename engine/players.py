"""Players: the parts of an input that are kept or replaced together.

What a method that runs the model on altered inputs can find out is what its players are: single features,
pixels, squares of a grid, superpixels, words, or any partition that the user gives. Every element of the
input belongs to exactly one player, so that values of players can be spread over elements and still sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.superpixels import SUPERPIXELS, superpixels

Array = np.ndarray[Any, Any]

#: Ways to form players; ``grid``, ``patches``, ``axis`` and superpixels take a number after a colon.
KINDS = ("auto", "features", "places", "grid", "patches", "axis", *SUPERPIXELS)

#: ``auto``: pictures in squares, this many along a side, and series in this many stretches.
AUTO_SQUARES, AUTO_STRETCHES = 8, 32


@dataclass(frozen=True)
class Players:
    """A partition of the inputs.

    Attributes:
        owner: Per input, the number of the player that each element belongs to: ``[N, ...]``, broadcastable
            to the input. Players of the second input are numbered after those of the first.
        counts: ``[N]``: players per sample.
    """

    owner: dict[str, Array]
    counts: Array

    def spread(self, values: Sequence[Array], x: Mapping[str, Array]) -> dict[str, Array]:
        """Each player's value in equal parts over its elements, so that elements sum to players.

        Args:
            values: Per sample, ``[players]``.
            x: The inputs, for their shapes.

        Returns:
            float64 array per input.
        """
        result = {}
        for name, array in x.items():
            rows = []
            for sample, value in enumerate(values):
                owner = np.broadcast_to(self.owner[name][sample], array.shape[1:])
                sizes = np.bincount(owner.reshape(-1), minlength=len(value))
                rows.append((value / np.maximum(sizes, 1))[owner])
            result[name] = np.stack(rows)
        return result

    def describe(self) -> str:
        """In words: how many there are."""
        low, high = int(self.counts.min()), int(self.counts.max())
        return f"{low} players" if low == high else f"{low} to {high} players"


def make_players(spec: Any, x: Mapping[str, Array], labels: Mapping[str, Labels], auto: str = "") -> Players:
    """The players of a batch.

    Args:
        spec: ``features`` (every element by itself), ``places`` (all channels of a pixel, time step or token),
            ``grid:8`` (that many parts along each side), ``patches:16`` (parts of that many places a side),
            ``axis:1`` (one player per index of that axis; the batch is axis 0), ``slic:50``, ``felzenszwalb:100``
            (superpixels), an array of whole numbers in the shape of the places, of one sample or of the batch,
            or a dictionary of these by input. ``auto``: features of tables, tokens of texts, squares of pictures,
            stretches of series (a single step by itself would be a spike that no network was trained on).
        x: The inputs, ``[N, ...]``.
        labels: Their axes.
        auto: What ``auto`` means for pictures, where it is not squares.

    Raises:
        OptionError: Unknown kind, an array that does not fit, or an input that has no such parts.
    """
    specs = spec if isinstance(spec, Mapping) else dict.fromkeys(x, spec)
    unknown = sorted(set(specs) - set(x))
    if unknown:
        raise OptionError(f"players names {unknown}, which are not attributed to; it may name {sorted(x)}")
    owner: dict[str, Array] = {}
    counts = np.zeros(len(next(iter(x.values()))), dtype=np.int64)
    for name, array in x.items():
        mine, own_counts = _renumbered(_owners(specs.get(name, "auto"), array, labels[name], auto))
        owner[name] = mine + counts.reshape(-1, *[1] * (mine.ndim - 1))
        counts = counts + own_counts
    return Players(owner, counts)


def check_players(spec: Any) -> None:
    """Refuse a kind of players that does not exist, before anything runs.

    Raises:
        OptionError: It does not.
    """
    for one in spec.values() if isinstance(spec, Mapping) else [spec]:
        if isinstance(one, str):
            _parse(one)
        elif np.asarray(one).dtype.kind not in "iu":
            raise OptionError(
                f"players={one!r} is not possible; choose one of {', '.join(KINDS)}, or give an array of whole numbers"
            )


def needs_data(spec: Any, x: Array, labels: Labels, auto: str = "") -> bool:
    """Whether the players depend on what is in the input, as superpixels do.

    Args:
        spec, labels, auto: As for :func:`make_players`, of one input.
        x: An array of the input's shape.
    """
    if not isinstance(spec, str):
        return False
    kind, _ = _parse(spec)
    return (_automatic(x, labels, auto)[0] if kind == "auto" else kind) in SUPERPIXELS


def _parse(spec: str) -> tuple[str, int | None]:
    kind, colon, text = spec.partition(":")
    if kind not in KINDS:
        raise OptionError(f"players='{spec}' is not possible; choose one of {', '.join(KINDS)}, or give an array")
    takes = kind not in ("auto", "features", "places")
    needs = kind in ("grid", "patches", "axis")
    if (colon and not (takes and text.isdigit() and int(text) > 0)) or (needs and not colon):
        example = f"'{kind}:8', with a number from 1" if takes else f"'{kind}'"
        raise OptionError(f"players='{spec}' is not possible; write {example}")
    return kind, int(text) if colon else None


def _owners(spec: Any, x: Array, labels: Labels, auto: str) -> Array:
    """Player per element, broadcastable to ``x``; numbers may have gaps."""
    if not isinstance(spec, str):
        return _given(np.asarray(spec), x, labels)
    kind, number = _parse(spec)
    places = spatial_axes(labels)
    if kind == "auto":
        kind, number = _automatic(x, labels, auto)
    if kind == "features":
        return np.arange(int(np.prod(x.shape[1:]))).reshape(1, *x.shape[1:])
    if kind in SUPERPIXELS:
        return _regions(x, places, kind, number)
    if kind == "axis":
        if number is None or number >= x.ndim:
            raise OptionError(f"players='{spec}' names no axis of an input of shape {x.shape}; give 1 to {x.ndim - 1}")
        return _along(x, {number: np.arange(x.shape[number])})
    if kind == "places":
        return _along(x, {a: np.arange(x.shape[a]) for a in places.values()})
    assert number is not None
    if kind == "grid":
        parts = {a: np.arange(x.shape[a]) * min(number, x.shape[a]) // x.shape[a] for a in places.values()}
    else:
        parts = {a: np.arange(x.shape[a]) // number for a in places.values()}
    return _along(x, parts)


def _automatic(x: Array, labels: Labels, auto: str) -> tuple[str, int | None]:
    places = spatial_axes(labels)
    if x.ndim == 2 or not places:
        return "features", None
    if are_tokens(labels):
        return "places", None
    if len(places) == 1:
        return "grid", AUTO_STRETCHES
    return _parse(auto) if auto and len(places) == 2 else ("grid", AUTO_SQUARES)


def are_tokens(labels: Labels) -> bool:
    """Whether places stand each for itself, as words do: one axis of places, their features behind it."""
    return len(labels) == 3 and list(spatial_axes(labels).values()) == [1]


def _along(x: Array, parts: Mapping[int, Array]) -> Array:
    """Combined numbers of the parts along several axes; other axes have size one."""
    result = np.zeros((1,) * x.ndim, dtype=np.int64)
    for axis, part in parts.items():
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        result = result * (int(part.max()) + 1) + part.reshape(shape)
    return result


def _regions(x: Array, places: Mapping[str, int], kind: str, number: int | None) -> Array:
    if set(places) != {"y", "x"}:
        raise OptionError(
            f"players='{kind}' are regions of pictures, and an input of shape {x.shape} is none; choose 'places' or 'grid:8'"
        )
    y, width = places["y"], places["x"]
    pictures = np.moveaxis(x, (y, width), (1, 2)).reshape(len(x), x.shape[y], x.shape[width], -1)
    found = np.stack([superpixels(picture, kind, number) for picture in pictures])
    shape = [len(x), *[1] * (x.ndim - 1)]
    shape[y], shape[width] = x.shape[y], x.shape[width]
    return (found if y < width else found.transpose(0, 2, 1)).reshape(shape)


def _given(array: Array, x: Array, labels: Labels) -> Array:
    """The user's own partition."""
    axes = sorted(spatial_axes(labels).values())
    sizes = tuple(x.shape[a] for a in axes)
    flat = tuple(x.shape[a] if a in axes else 1 for a in range(1, x.ndim))
    fits = {
        x.shape: x.shape,
        (len(x), *sizes): (len(x), *flat),
        sizes: (1, *flat),
        x.shape[1:]: (1, *x.shape[1:]),
    }
    if array.dtype.kind not in "iu" or array.shape not in fits:
        raise OptionError(
            f"players of type {array.dtype} and shape {array.shape} do not fit an input of shape {x.shape}; "
            f"give whole numbers of shape {sizes}, {x.shape[1:]}, or that for the whole batch"
        )
    return array.astype(np.int64).reshape(fits[array.shape])


def _renumbered(owner: Array) -> tuple[Array, Array]:
    """Numbers 0, 1, ... without gaps in each sample, and how many there are."""
    rows, counts = [], []
    for row in owner:
        names, numbers = np.unique(row, return_inverse=True)
        rows.append(numbers.reshape(row.shape))
        counts.append(len(names))
    return np.stack(rows), np.array(counts, dtype=np.int64)
