"""From a signed attribution over channels to one map, by the reductions that attribution tools use.

Tools disagree on this step more than on the attribution itself, so it is a named choice with an explicit axis and
is never applied silently. Guarantees: the axis disappears and nothing else changes; ``sum``, ``mean`` and
``largest`` keep the sign, ``sum_abs``, ``max_abs`` and ``l2`` do not; NaN stays NaN; no overflow inside ``l2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.render.arrays import Real, real_array

SIGNED_REDUCTIONS = frozenset({"sum", "mean", "largest"})
"""Reductions whose result has a sign, and so wants a diverging colour map."""


def _sum_abs(values: Real, axis: int) -> Real:
    return np.asarray(np.sum(np.abs(values), axis=axis, dtype=np.float64))


def _max_abs(values: Real, axis: int) -> Real:
    return np.asarray(np.max(np.abs(values), axis=axis))


def _sum(values: Real, axis: int) -> Real:
    return np.asarray(np.sum(values, axis=axis, dtype=np.float64))


def _mean(values: Real, axis: int) -> Real:
    return np.asarray(np.mean(values, axis=axis, dtype=np.float64))


def _l2(values: Real, axis: int) -> Real:
    # Divided by the largest magnitude first: squares of float64 values past 1e154 would overflow.
    largest = np.max(np.abs(values), axis=axis, keepdims=True)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1)
    norm = np.sqrt(np.sum(np.square(values / scale), axis=axis, dtype=np.float64))
    return np.asarray(norm * np.squeeze(scale, axis=axis))


def _largest(values: Real, axis: int) -> Real:
    index = np.expand_dims(np.argmax(np.abs(values), axis=axis), axis)
    return np.squeeze(np.take_along_axis(values, index, axis=axis), axis=axis)


REDUCTIONS: Mapping[str, Callable[[Real, int], Real]] = MappingProxyType(
    {"sum_abs": _sum_abs, "max_abs": _max_abs, "sum": _sum, "l2": _l2, "mean": _mean, "largest": _largest}
)
"""Every reduction by name: ``(values, axis) -> values without that axis``."""


def reduce_channels(attribution: npt.ArrayLike, how: str = "sum_abs", *, channel_axis: int) -> Real:
    """One map from an attribution over channels.

    Args:
        attribution: Signed attribution, any rank from 1: ``(C, H, W)``, ``(H, W, C)``, ``(T, D)``, ``(N, C, H, W)``...
        how: ``sum_abs`` (sum of magnitudes), ``max_abs`` (largest magnitude), ``sum``, ``mean``, ``l2`` (Euclidean
            norm) or ``largest`` (the value of largest magnitude with its sign; the first channel wins a tie).
        channel_axis: The axis that disappears; negative counts from the end.

    Returns:
        The array without ``channel_axis``, in the attribution's floating type (at least float32; float64 for
        integers). Sums are accumulated in float64.

    Raises:
        OptionError: Unknown ``how``.
        InputError: The axis does not exist or is empty, or the array is not real.
    """
    if how not in REDUCTIONS:
        raise OptionError(f"unknown channel reduction '{how}'; choose one of {', '.join(sorted(REDUCTIONS))}")
    values = real_array(attribution, "attribution")
    if not -values.ndim <= channel_axis < values.ndim:
        raise InputError(
            f"attribution has shape {values.shape}, so axis {channel_axis} does not exist; "
            f"pass a channel_axis in {-values.ndim}..{values.ndim - 1}"
        )
    if values.shape[channel_axis] == 0:
        raise InputError(f"attribution has shape {values.shape} with no channel to reduce on axis {channel_axis}")
    return REDUCTIONS[how](values, channel_axis).astype(values.dtype, copy=False)
