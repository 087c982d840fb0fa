"""What is put in the place of removed places: a number, the mean, a blurred picture, noise, or the neighbours.

``noisy_linear`` is ROAD's imputation (Rong et al. 2022, arXiv 2202.00449): every removed place is the weighted
mean of its neighbours plus a little noise, so that removal itself leaks nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.explanation import Array
from onnxplain.engine.extras import optional
from onnxplain.engine.gaussian import blurred

#: Named fills; any number is one, too.
FILLS = ("black", "mean", "blur", "noise", "noisy_linear")

#: Those that depend on which places are removed.
_BY_MASK = ("noisy_linear",)
#: Standard deviation of the blur, as a share of the longest axis of places.
BLUR_SHARE = 0.1
#: Of the noise on imputed places, as ROAD has it.
IMPUTED_NOISE = 0.01


def emptied(case: Case, samples: Array, masks: Array, fill: Any) -> Array:
    """Copies of clean inputs with some places replaced in all channels, ``[B, ...]``.

    Args:
        case: Knows the inputs and their axes.
        samples: ``[B]``: which input each copy is of, in rising order.
        masks: bool ``[B, P]``: what is removed.
        fill: A number, or one of `FILLS`.
    """
    x = case.x[samples]
    if isinstance(fill, str) and fill in _BY_MASK:
        return np.stack([_imputed(case, one, mask) for one, mask in zip(x, masks, strict=True)])
    first, place = np.unique(samples, return_inverse=True)  # a sample's own fill is made once for all its copies
    stand_in = replacement(case, case.x[first], fill)
    return np.where(case.over_input(masks), stand_in[place] if len(stand_in) > 1 else stand_in, x).astype(x.dtype)


def filled(case: Case, x: Array, removed: Array, fill: Any) -> Array:
    """A copy of one input with some places replaced in all channels.

    Args:
        case: Knows the input's axes.
        x: One input, clean or altered before.
        removed: Places by flat number.
        fill: A number, or one of `FILLS`.
    """
    mask = np.zeros(case.count, dtype=bool)
    mask[removed] = True
    if isinstance(fill, str) and fill in _BY_MASK:
        return _imputed(case, x, mask)
    found = np.where(case.over_input(mask[None]), replacement(case, x[None], fill), x[None])
    return np.asarray(found[0], dtype=x.dtype)


def replacement(case: Case, x: Array, fill: Any) -> Array:
    """What stands in the place of removed places, one per input or one for all.

    Args:
        case: Knows the inputs' axes and range.
        x: Inputs ``[B, ...]``.
        fill: A number, or one of `FILLS` that does not depend on what is removed.
    """
    axes = tuple(case.places)
    if not isinstance(fill, str):
        return np.full((1,) * x.ndim, fill, dtype=np.float64)
    if fill == "black":
        return np.full((1,) * x.ndim, case.x.min(), dtype=np.float64)
    if fill == "mean":
        return np.asarray(x.mean(axis=axes, keepdims=True))
    if fill == "blur":
        return blurred(x, axes, BLUR_SHARE * max(x.shape[a] for a in axes))
    # The same unit draw for all, stretched to each input's own range.
    inner = tuple(range(1, x.ndim))
    low, high = x.min(axis=inner, keepdims=True), x.max(axis=inner, keepdims=True)
    return np.asarray(low + (high - low) * generator(case.seed, 1).random(x.shape[1:]))


def _imputed(case: Case, x: Array, mask: Array) -> Array:
    axes = tuple(a - 1 for a in case.places)
    found = noisy_linear(x, axes, mask.reshape([x.shape[a] for a in axes]), case.seed)
    return np.where(case.over_input(mask[None])[0], found, x).astype(x.dtype)


def noisy_linear(x: Array, axes: tuple[int, ...], mask: Array, seed: int) -> Array:
    """ROAD's imputation of the masked places of one input.

    Args:
        x: One input.
        axes: Its axes of places: one or two.
        mask: bool ``[places...]``: what is removed.
        seed: Of the noise.
    """
    sparse = optional("scipy.sparse", "the fill 'noisy_linear'", "choose another fill")
    linalg = optional("scipy.sparse.linalg", "the fill 'noisy_linear'", "choose another fill")
    flat = mask.reshape(-1)
    number = np.full(flat.size, -1)
    number[flat] = np.arange(flat.sum())
    if not flat.any() or flat.all():
        return np.asarray(x.mean(axis=axes, keepdims=True))
    values = np.moveaxis(x, axes, range(len(axes))).reshape(flat.size, -1).astype(np.float64)
    rows, columns, weights = _neighbours(mask)
    inner = flat[rows]
    rows, columns, weights = rows[inner], columns[inner], weights[inner]
    total = np.bincount(number[rows], weights, minlength=int(flat.sum()))
    unknown = flat[columns]
    system = sparse.coo_matrix(
        (-weights[unknown], (number[rows[unknown]], number[columns[unknown]])), shape=(len(total), len(total))
    ) + sparse.diags(total)
    right = np.zeros((len(total), values.shape[1]))
    np.add.at(right, number[rows[~unknown]], weights[~unknown, None] * values[columns[~unknown]])
    solved = linalg.spsolve(system.tocsc(), right).reshape(len(total), -1)
    result = values.copy()
    result[flat] = solved + generator(seed, 2).normal(0.0, IMPUTED_NOISE, size=solved.shape)
    moved = [x.shape[a] for a in axes]
    rest = [n for a, n in enumerate(x.shape) if a not in axes]
    return np.moveaxis(result.reshape(*moved, *rest), range(len(axes)), axes)


def _neighbours(mask: Array) -> tuple[Array, Array, Array]:
    """Pairs of places that touch, and their weights: 1/6 along an axis, 1/12 across (1/2 on a line)."""
    grid = np.arange(mask.size).reshape(mask.shape)
    rows, columns, weights = [], [], []
    for step in np.ndindex(*[3] * mask.ndim):
        shift = np.array(step) - 1
        length = int(np.abs(shift).sum())
        if not length:
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, mask.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, mask.shape, strict=True))
        rows.append(grid[here].reshape(-1))
        columns.append(grid[there].reshape(-1))
        weight = 0.5 if mask.ndim == 1 else 1 / 6 if length == 1 else 1 / 12
        weights.append(np.full(rows[-1].size, weight))
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)


__all__ = ["FILLS", "emptied", "filled", "noisy_linear", "replacement"]
