"""Tiles of the input's places: squares of one side, or a grid of so many cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxplain.engine.explanation import Array


def tiles(sizes: Sequence[int], side: int) -> Array:
    """Number of the tile of each place, in the places' shape; tiles at the far border may be smaller."""
    return _joined([np.arange(n) // side for n in sizes])


def grid(sizes: Sequence[int], cells: int) -> Array:
    """Number of the cell of each place, in the places' shape: at most so many cells along every axis."""
    return _joined([np.arange(n) * min(cells, n) // n for n in sizes])


def _joined(axes: Sequence[Array]) -> Array:
    number = np.zeros([len(a) for a in axes], dtype=np.int64)
    for i, along in enumerate(axes):
        shape = [1] * len(axes)
        shape[i] = len(along)
        number = number * (int(along.max()) + 1) + along.reshape(shape)
    return number


def tile_means(rows: Array, tile: Array) -> Array:
    """Mean over the places of each tile, ``[N, T]``.

    Args:
        rows: ``[N, P]``.
        tile: ``[P]``: number of each place's tile.
    """
    sums = np.stack([np.bincount(tile, row) for row in rows])
    return np.asarray(sums / np.bincount(tile))
