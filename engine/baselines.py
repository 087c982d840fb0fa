"""Baselines: what "nothing there" means for an input.

A baseline is part of the question that a path method answers, so it is named, stored on the result and
never chosen silently: the default is zero, in the space that the network sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.gaussian import blurred
from onnxplain.engine.places import Labels, spatial_axes

Array = np.ndarray[Any, Any]
KINDS = ("zero", "mean", "minimum", "maximum", "blur", "noise")

#: Standard deviation of the blurred baseline, as a share of the picture's longer side.
BLUR_SHARE = 0.1
#: Where its kernel ends, in standard deviations.
BLUR_END = 3.0


def make_baselines(spec: Any, x: Array, labels: Labels, *, seed: int = 0) -> list[Array]:
    """Baselines for one input, each in the shape of ``x``.

    Args:
        spec: ``"zero"``; ``"mean"`` (each channel's mean over places); ``"minimum"`` and ``"maximum"`` (the
            sample's smallest or largest value everywhere); ``"blur"`` (Gaussian);
            ``"noise"`` or ``"noise:10"`` (that many draws, uniform between the sample's extremes); a
            number; an array for one sample or for the whole batch; a list of any of these.
        x: ``[N, ...]``.
        labels: Axes of ``x``.
        seed: For noise; the same draws for every sample, so that batches and chunks change nothing.

    Raises:
        OptionError: Unknown kind, or an array that does not fit.
    """
    if isinstance(spec, (list, tuple)) and not all(isinstance(v, (int, float)) for v in spec):
        return [b for one in spec for b in make_baselines(one, x, labels, seed=seed)]
    if isinstance(spec, str):
        return _named(spec, x, labels, seed)
    array = np.asarray(spec, dtype=x.dtype)
    try:
        return [np.ascontiguousarray(np.broadcast_to(array, x.shape))]
    except ValueError:
        raise OptionError(
            f"a baseline of shape {array.shape} does not fit an input of shape {x.shape}; "
            "give one sample or the whole batch"
        ) from None


def named_kind(spec: str) -> tuple[str, int]:
    """The kind of a baseline that has a name, and how many are meant.

    Raises:
        OptionError: Unknown name.
    """
    kind, _, count = spec.partition(":")
    if kind not in KINDS or (count and (kind != "noise" or not count.isdigit() or int(count) < 1)):
        raise OptionError(
            f"unknown baseline '{kind}{':' + count if count else ''}'; "
            f"choose {', '.join(KINDS)} or noise:10, or give an array"
        )
    return kind, int(count or 1)


def _named(spec: str, x: Array, labels: Labels, seed: int) -> list[Array]:
    kind, count = named_kind(spec)
    axes = tuple(spatial_axes(labels).values())
    if kind == "zero":
        return [np.zeros_like(x)]
    if kind == "mean":
        return [np.broadcast_to(x.mean(axis=axes, keepdims=True), x.shape).astype(x.dtype)]
    if kind in ("minimum", "maximum"):
        extreme = (np.min if kind == "minimum" else np.max)(x, axis=tuple(range(1, x.ndim)), keepdims=True)
        return [np.broadcast_to(extreme, x.shape).astype(x.dtype)]
    if kind == "blur":
        return [_blur(x, axes)]
    return [_noise(x, seed, draw) for draw in range(count)]


def noise_share(shape: tuple[int, ...], seed: int, draw: int) -> Array:
    """Of one draw, how far each element is from the sample's smallest value to its largest."""
    return generator(seed, draw).random(shape)


def _noise(x: Array, seed: int, draw: int) -> Array:
    share = noise_share(x.shape[1:], seed, draw)
    flat = x.reshape(len(x), -1).astype(np.float64)
    low, high = (f(flat, axis=1).reshape(-1, *[1] * (x.ndim - 1)) for f in (np.min, np.max))
    return np.asarray(low + share * (high - low)).astype(x.dtype)


def _blur(x: Array, axes: Sequence[int]) -> Array:
    """Gaussian blur along the spatial axes, borders mirrored."""
    return blurred(x, axes, blur_width([x.shape[a] for a in axes]), truncate=BLUR_END).astype(x.dtype)


def blur_width(sizes: Sequence[int]) -> float:
    """Standard deviation of the blurred baseline in places, from the numbers of places."""
    return BLUR_SHARE * max(sizes, default=1)
