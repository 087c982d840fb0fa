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

#: Standard deviation of the blur, as a share of the longest axis of places.
BLUR_SHARE = 0.1
#: Of the noise on imputed places, as ROAD has it.
IMPUTED_NOISE = 0.01


def filled(case: Case, x: Array, sample: int, removed: Array, fill: Any) -> Array:
    """A copy of one input with some places replaced in all channels.

    Args:
        case: Knows the input's axes.
        x: One clean input.
        sample: Its number.
        removed: Places by flat number.
        fill: A number, or one of `FILLS`.
    """
    mask = np.zeros(case.count, dtype=bool)
    mask[removed] = True
    where = np.broadcast_to(case.over_input(mask[None])[0], x.shape)
    return np.where(where, replacement(case, x, sample, mask, fill), x).astype(x.dtype)


def replacement(case: Case, x: Array, sample: int, mask: Array, fill: Any) -> Array:
    """What stands in the place of removed places, broadcastable to the input."""
    axes = tuple(a - 1 for a in case.places)
    if not isinstance(fill, str):
        return np.asarray(fill, dtype=np.float64)
    if fill == "black":
        return np.asarray(case.x.min(), dtype=np.float64)
    if fill == "mean":
        return np.asarray(x.mean(axis=axes, keepdims=True))
    if fill == "blur":
        sigma = BLUR_SHARE * max(x.shape[a] for a in axes)
        return np.asarray(blurred(x[None].astype(np.float64), [a + 1 for a in axes], sigma)[0])
    if fill == "noise":
        return np.asarray(generator(case.seed, 1).uniform(x.min(), x.max(), size=x.shape))
    return noisy_linear(x, axes, mask.reshape([x.shape[a] for a in axes]), case.seed)


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


__all__ = ["FILLS", "filled", "noisy_linear"]
