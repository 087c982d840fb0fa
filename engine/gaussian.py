"""Gaussian blur along chosen axes, as one matrix product per axis; NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def blurred(x: Array, axes: Sequence[int], sigma: float, *, border: str = "mirror", truncate: float = 4.0) -> Array:
    """A blurred copy, float64; the input itself where ``sigma`` is 0.

    Args:
        x: Any shape.
        axes: Which axes are blurred.
        sigma: Standard deviation in elements.
        border: What lies beyond the ends: ``mirror`` (the edge element is repeated) or ``zero``.
        truncate: Where the kernel ends, in standard deviations.
    """
    result = np.asarray(x, dtype=np.float64)
    for axis in axes if sigma > 0 else ():
        matrix = blur_matrix(x.shape[axis], sigma, border, truncate)
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return result


def kernel(size: int, sigma: float, truncate: float = 4.0) -> Array:
    """What an element weighs in one at distance 0, 1, ..., ``size - 1``, with zeros beyond the borders."""
    return np.asarray(blur_matrix(size, sigma, "zero", truncate)[0] if sigma > 0 else np.eye(1, size)[0])


def blur_matrix(size: int, sigma: float, border: str, truncate: float) -> Array:
    """``[size, size]``: row i holds the weights of the elements that make element i; see :func:`blurred`."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    places = np.arange(size)[:, None] + offsets
    rows = np.broadcast_to(np.arange(size)[:, None], places.shape)
    if border == "zero":
        inside = (places >= 0) & (places < size)
        np.add.at(matrix, (rows[inside], places[inside]), np.broadcast_to(weights, places.shape)[inside])
        return matrix
    places = places % (2 * size)
    places = np.where(places < size, places, 2 * size - 1 - places)
    np.add.at(matrix, (rows, places), np.broadcast_to(weights, places.shape))
    return matrix
