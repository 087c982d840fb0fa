"""Correlation of rows, NaN where one of them is constant; ranks share ties."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.evaluation.fills import emptied
from onnxplain.engine.evaluation.similarity import ranks
from onnxplain.engine.explanation import Array

#: A row whose spread is below this share of its size is constant: what is left is the rounding of float32 scores.
_CONSTANT = 2e-7


def pearson(a: Array, b: Array, scale: Array | None = None) -> Array:
    """Pearson's coefficient of each row of ``[N, K]`` with the same row of another, ``[N]``.

    Args:
        a, b: The rows.
        scale: ``[N]``: size of what the second rows are differences of; a spread that is rounding beside it is none.
    """
    first, second = (np.asarray(v, dtype=np.float64) for v in (a, b))
    still = _constant(first) | _constant(second, scale)
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    size = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    size[still | (size == 0)] = np.nan
    return np.asarray(np.clip((first * second).sum(axis=1) / size, -1.0, 1.0))


def spearman(a: Array, b: Array, scale: Array | None = None) -> Array:
    """Pearson's coefficient of the ranks; equal values share the mean of their ranks."""
    first, second = (np.asarray(v, dtype=np.float64) for v in (a, b))
    found = pearson(ranks(first), ranks(second))
    return np.where(_constant(first) | _constant(second, scale), np.nan, found)


def _constant(rows: Array, scale: Array | None = None) -> Array:
    spread = rows.max(axis=1) - rows.min(axis=1)
    size = np.abs(rows).max(axis=1)
    return np.asarray(spread <= _CONSTANT * (size if scale is None else np.maximum(size, np.abs(scale))))


def subsets(seed: int, count: int, size: int, number: int) -> Iterator[Array]:
    """Subsets of ``size`` of ``count`` things, without replacement, the same for every sample.

    Args:
        seed: The user's.
        count: Of things.
        size: Of a subset.
        number: Of subsets.
    """
    for i in range(number):
        yield generator(seed, size, i).choice(count, size=size, replace=False)


def membership(chosen: list[Array], count: int) -> Array:
    """Subsets as rows of zeros and ones, ``[K, count]``."""
    rows = np.zeros((len(chosen), count))
    for row, members in zip(rows, chosen, strict=True):
        row[members] = 1.0
    return rows


def sums_and_drops(case: Case, chosen: list[Array], fill: float | str) -> tuple[Array, Array]:
    """Attribution of subsets of places, and how far the score falls without them; both ``[N, K]``.

    Args:
        case: What is measured; its own scorer scores.
        chosen: Places by flat number.
        fill: What is put in their place.
    """
    rows = membership(chosen, case.count)
    gone = rows.astype(bool)
    scores = case.evaluated(len(chosen), lambda samples, turns: emptied(case, samples, gone[turns], fill))
    return case.relevance @ rows.T, case.clean[:, None] - scores
