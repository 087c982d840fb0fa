"""Maps and pictures to the size they are shown at.

Guarantees: a tiny picture (8x8, 28x28) keeps its hard pixels, by whole factors; a large one is averaged down before
anything else is computed on it, so that the memory a figure takes does not grow with its pictures; a coarse map
(7x7) is spread smoothly over its picture, half-pixel centres, and never overshoots its own range.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import OptionError
from onnxplain.engine.render.arrays import RGB, Real, map_2d, rgb_picture

# Enlarged this many times or more, a picture is shown with hard pixels: a smooth one would only look out of focus.
_HARD_PIXELS_FROM = 3


def has_hard_pixels(height: int, width: int, longest: int) -> bool:
    """Whether a picture is so small for a box of side ``longest`` that it is shown with hard pixels."""
    return longest >= _HARD_PIXELS_FROM * max(height, width)


def shown_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """``(height, width)`` at which a picture is shown in a box of side ``longest``.

    At most ``longest``; smaller where a tiny picture is enlarged by a whole factor. Never below one pixel.
    """
    if has_hard_pixels(height, width, longest):
        factor = longest // max(height, width)
        return height * factor, width * factor
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit_picture(picture: npt.ArrayLike, longest: int) -> RGB:
    """A picture in a box of side ``longest``: averaged down, enlarged smoothly, or from three times on hard pixels.

    Args:
        picture: uint8, as :func:`onnxplain.engine.render.arrays.rgb_picture` takes it.
        longest: Pixels of the box.

    Returns:
        uint8 RGB of the size that :func:`shown_size` gives.

    Raises:
        InputError: Not a uint8 picture.
        OptionError: ``longest`` below 1.
    """
    import cv2

    if longest < 1:
        raise OptionError(f"the picture's size is {longest} pixels; pass a positive number")
    array = np.ascontiguousarray(rgb_picture(picture))
    height, width = shown_size(array.shape[0], array.shape[1], longest)
    if (height, width) == array.shape[:2]:
        return array
    if has_hard_pixels(array.shape[0], array.shape[1], longest):
        method = cv2.INTER_NEAREST
    else:
        method = cv2.INTER_AREA if longest < max(array.shape[:2]) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(array, (width, height), interpolation=method), np.uint8)


def shrink_map(values: npt.ArrayLike, height: int, width: int) -> Real:
    """A map averaged over areas along each axis on which it is larger than wanted; the other axis is left alone.

    Args:
        values: ``(H, W)``, any finite magnitudes.
        height: Rows wanted at most.
        width: Columns wanted at most.

    Raises:
        InputError: Not a finite ``(H, W)`` map.
    """
    import cv2

    array = map_2d(values)
    rows, columns = min(height, array.shape[0]), min(width, array.shape[1])
    if array.shape == (rows, columns):
        return array
    # float32 for OpenCV, relative to the largest magnitude, so that nothing overflows or vanishes on the way.
    scale = float(np.max(np.abs(array))) or 1.0
    relative = np.ascontiguousarray((array / scale).astype(np.float32))
    small = np.asarray(cv2.resize(relative, (columns, rows), interpolation=cv2.INTER_AREA), np.float64)
    return small.reshape(rows, columns) * scale


def enlarge_map(
    map01: npt.NDArray[np.float32], height: int, width: int, *, hard: bool = False
) -> npt.NDArray[np.float32]:
    """A normalized map spread over a picture: linearly between pixel centres, or with hard pixels.

    Args:
        map01: ``(H, W)`` float32.
        height: Rows wanted, at least H.
        width: Columns wanted, at least W.
        hard: Nearest pixel instead of linear.
    """
    import cv2

    if map01.shape == (height, width):
        return map01
    method = cv2.INTER_NEAREST if hard else cv2.INTER_LINEAR
    spread = cv2.resize(np.ascontiguousarray(map01), (width, height), interpolation=method)
    return np.asarray(spread, np.float32).reshape(height, width)
