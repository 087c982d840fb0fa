"""How well a shadow's answer agrees with the model's own: part of every result that rests on a shadow."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def agreement(own: Array | None, shadow: Array | None) -> dict[str, Any] | None:
    """The largest difference of two answers, and how many samples have the same largest element.

    Args:
        own: What the model returned.
        shadow: What its float form returned; None where there is none.

    Returns:
        ``largest_difference``, ``relative`` (to the largest of the model's own numbers), ``same_argmax``,
        ``samples`` and one sentence under ``words``.
    """
    if own is None or shadow is None or own.shape != shadow.shape or not own.size or own.ndim == 0:
        return None
    first, second = own.astype(np.float64).reshape(len(own), -1), shadow.astype(np.float64).reshape(len(own), -1)
    difference = float(np.max(np.abs(first - second)))
    relative = difference / max(float(np.max(np.abs(first))), 1e-30)
    same = int(np.sum(first.argmax(axis=1) == second.argmax(axis=1)))
    words = f"the float form that was explained differs from the model's own output by at most {difference:.3g} ({relative:.2%})"
    if first.shape[1] > 1:
        words += f" and has the same largest element for {same} of {len(own)} samples"
    return {
        "largest_difference": difference, "relative": relative, "same_argmax": same, "samples": len(own), "words": words,
    }  # fmt: skip


def widened(array: Array) -> Array:
    """Half precision as float32, in which points between inputs and baselines are computed."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 and array.dtype.kind not in "iu" else array
