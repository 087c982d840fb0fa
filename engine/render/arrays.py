"""What may be drawn: the checks on arrays that every renderer shares, so that all of them refuse alike.

Guarantees: what comes back from here is real-valued and finite (maps, signals) or 8-bit RGB (pictures); anything
else has raised an :class:`InputError` that says what was passed and what is wanted. Nothing is copied without need.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError

Real = npt.NDArray[Any]
Float = npt.NDArray[np.floating[Any]]
RGB = npt.NDArray[np.uint8]


def real_array(values: npt.ArrayLike, what: str) -> Real:
    """``values`` as an array of a real floating type; integers become float64, float16 becomes float32.

    Args:
        values: Any real array.
        what: What the array is called in the message.

    Raises:
        InputError: Booleans, complex numbers, text or objects.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype.kind != "f":
        raise InputError(f"{what} has dtype {array.dtype}, which is not a real number; pass a float array")
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def finite_array(values: npt.ArrayLike, what: str) -> Real:
    """:func:`real_array`, and not empty, without NaN or infinity.

    Raises:
        InputError: No element, or one that is NaN or infinite; the message counts them.
    """
    array = real_array(values, what)
    if array.size == 0:
        raise InputError(f"{what} has shape {array.shape}, so there is nothing to draw; pass at least one value")
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(
            f"{what} holds {bad} NaN or infinite values of {array.size}, which no colour can show; "
            "find where they come from (often float16 overflow) or replace them"
        )
    return array


def map_2d(values: npt.ArrayLike, what: str = "map") -> Real:
    """:func:`finite_array` of rank 2, ``(H, W)``.

    Raises:
        InputError: Another rank; the message names the reduction to use.
    """
    array = finite_array(values, what)
    if array.ndim != 2:
        raise InputError(
            f"{what} has shape {array.shape} but one (H, W) map is drawn at a time; "
            "take one sample and reduce its channels with reduce_channels"
        )
    return array


def rgb_picture(picture: npt.ArrayLike) -> RGB:
    """A uint8 picture as ``(H, W, 3)`` RGB.

    Args:
        picture: uint8, ``(H, W)`` or ``(H, W, 1)`` grey, ``(H, W, 3)`` RGB, or ``(H, W, 4)`` RGBA (laid over white).

    Raises:
        InputError: Another dtype or shape, or an empty picture.
    """
    array = np.asarray(picture)
    if array.dtype != np.uint8:
        raise InputError(
            f"picture has dtype {array.dtype} but uint8 in 0..255 is drawn; pass the picture as it was read, "
            "before preprocessing"
        )
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise InputError(f"picture has shape {np.shape(picture)}; pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        opacity = array[:, :, 3:].astype(np.uint16)
        over_white = array[:, :, :3] * opacity + 255 * (255 - opacity)
        return ((over_white + 127) // 255).astype(np.uint8)
    return array
