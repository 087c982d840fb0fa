"""Fits a picture to the size a network takes: geometry (cover and crop, stretch, letterbox) and resampling.

A map is only as faithful as the picture under it, so the picture has to reach the network as it did in
training. Most training pipelines resample with a filter that widens when it shrinks (antialiasing);
OpenCV's bilinear and bicubic do not. Both are offered, and which one holds is declared. The antialiased
filters here are separable weighted sums, rounded once at the end: they give Pillow's numbers up to
Pillow's own rounding between its two passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "area")


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -1/2 (IEEE Trans. ASSP 29, 1981)."""
    t = np.abs(x)
    inner = (1.5 * t - 2.5) * t * t + 1.0
    outer = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    return np.where(t < 1.0, inner, np.where(t < 2.0, outer, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


KERNELS: dict[str, Kernel] = {"bilinear": _triangle, "bicubic": _cubic, "lanczos": _lanczos}


def _weights(length: int, out: int, start: int, stop: int, kernel: Kernel) -> NDArray[np.float32]:
    """Rows ``start:stop`` of the matrix that resamples ``length`` points to ``out``; each row sums to one."""
    scale = length / out
    centres = (np.arange(start, stop) + 0.5) * scale
    distance = (np.arange(length) + 0.5)[None, :] - centres[:, None]
    rows = kernel(distance / max(scale, 1.0))
    return np.asarray(rows / rows.sum(axis=1, keepdims=True), dtype=np.float32)


def _resample_window(
    picture: Picture, size: tuple[int, int], top: int, left: int, window: tuple[int, int], kernel: Kernel
) -> Picture:
    """The part ``[top:top+h, left:left+w]`` of the picture resampled to ``size``, without computing the rest."""
    rows = _weights(picture.shape[0], size[0], top, top + window[0], kernel)
    columns = _weights(picture.shape[1], size[1], left, left + window[1], kernel)
    used_rows, used_columns = np.flatnonzero(rows.any(axis=0)), np.flatnonzero(columns.any(axis=0))
    y, x = slice(used_rows[0], used_rows[-1] + 1), slice(used_columns[0], used_columns[-1] + 1)
    part = picture[y, x].astype(np.float32)
    partly = np.tensordot(rows[:, y], part, axes=(1, 0))
    whole = np.tensordot(columns[:, x], partly, axes=(1, 1)).transpose(1, 0, 2)
    return np.clip(np.rint(whole), 0, 255).astype(np.uint8)


def _opencv_resize(picture: Picture, size: tuple[int, int], interpolation: str) -> Picture:
    import cv2

    flags: dict[str, int] = {
        "nearest": cv2.INTER_NEAREST_EXACT,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
        "area": cv2.INTER_AREA,
    }
    resized: Any = cv2.resize(np.ascontiguousarray(picture), (size[1], size[0]), interpolation=flags[interpolation])
    return np.asarray(resized, dtype=np.uint8)


def resample(
    picture: Picture,
    size: tuple[int, int],
    *,
    interpolation: str = "bilinear",
    antialias: bool = True,
    window: tuple[int, int, int, int] | None = None,
) -> Picture:
    """Resample a picture, or only a window of the result.

    Args:
        picture: uint8, height x width x 3.
        size: Height and width of the whole result, in pixels.
        interpolation: One of :data:`INTERPOLATIONS`.
        antialias: Widen the filter when shrinking (Pillow, torchvision, Keras with ``antialias=True``). Without
            it OpenCV's filter of that name is used. ``nearest`` and ``area`` are OpenCV's in both cases.
        window: ``(top, left, height, width)`` inside the result; None is all of it.

    Returns:
        uint8, window height x window width x 3.
    """
    top, left, height, width = window or (0, 0, *size)
    if picture.shape[:2] == size:
        return np.ascontiguousarray(picture[top : top + height, left : left + width])
    if antialias and interpolation in KERNELS:
        return _resample_window(picture, size, top, left, (height, width), KERNELS[interpolation])
    return np.ascontiguousarray(
        _opencv_resize(picture, size, interpolation)[top : top + height, left : left + width],
    )


def cover_window(
    height: int, width: int, size: tuple[int, int], crop_ratio: float
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Shorter side first, then a centre crop: the size to resample to, and the window to keep.

    The picture is scaled, aspect kept, until it just covers ``size / crop_ratio``; the centre of ``size`` is kept.
    Rounding follows torchvision: the longer side is cut to an integer, the offset is rounded half to even.
    """
    cover_height, cover_width = round(size[0] / crop_ratio), round(size[1] / crop_ratio)
    if cover_height * width >= cover_width * height:  # the height is what limits
        whole = (cover_height, max(size[1], int(cover_height * width / height)))
    else:
        whole = (max(size[0], int(cover_width * height / width)), cover_width)
    top, left = round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
    return whole, (top, left, *size)


def letterbox_window(
    height: int, width: int, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The whole picture inside ``size``, aspect kept: its size there, and where it lies ``(top, left, h, w)``."""
    ratio = min(size[0] / height, size[1] / width)
    inner = (min(size[0], max(1, round(height * ratio))), min(size[1], max(1, round(width * ratio))))
    return inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2, *inner)
