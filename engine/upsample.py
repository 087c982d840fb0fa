"""Linear resampling of coarse grids to an input's places, along any number of axes.

The two coordinate conventions are those of the graph's own Resize: ``align_corners``, and half-pixel
centres with the border held.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=64)
def linear_matrix(size: int, out: int, align_corners: bool) -> Array:
    """``[out, size]``: each row has the weights of the two grid points around one place; rows sum to one."""
    if align_corners:
        at = np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        at = np.clip((np.arange(out) + 0.5) * (size / out) - 0.5, 0, size - 1)
    low = np.minimum(np.floor(at).astype(int), size - 1)
    matrix = np.zeros((out, size))
    matrix[np.arange(out), low] = 1.0 - (at - low)
    matrix[np.arange(out), np.minimum(low + 1, size - 1)] += at - low
    matrix.flags.writeable = False
    return matrix


def upsampled(array: Array, sizes: Mapping[int, int], align_corners: bool) -> Array:
    """An array at new sizes along some axes, linearly between its points; float64.

    Args:
        array: Any shape.
        sizes: New size per axis.
        align_corners: Whether the outermost points lie on the border's centres.
    """
    result = np.asarray(array, dtype=np.float64)
    for axis, out in sizes.items():
        if result.shape[axis] != out:
            matrix = linear_matrix(result.shape[axis], out, align_corners)
            result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return result
