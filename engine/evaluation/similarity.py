"""How alike two maps are: rank correlation, structural similarity, gradients' histograms, cosine, shared top places.

All take maps ``[N, places...]`` and give one number per sample, float64, 1 for a map and itself; NaN where it is not
defined (a map without contrast, places that are no picture).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.explanation import Array
from onnxplain.engine.extras import optional

#: Side of SSIM's window where the map is large enough.
WINDOW = 5
#: Side of HOG's cells in pixels, where at least this many of them fit along the shorter side.
CELL, CELLS = 16, 4
#: Share of the magnitudes that sets the top of the range; what lies above it is cut, as single places outshine maps.
PERCENTILE = 99.0


def spearman(a: Array, b: Array) -> Array:
    """Rank correlation over places, signs included; equal values share their mean rank."""
    return _pearson(ranks(_rows(a)), ranks(_rows(b)))


def spearman_absolute(a: Array, b: Array) -> Array:
    """Rank correlation of magnitudes."""
    return spearman(np.abs(a), np.abs(b))


def cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle between the maps as vectors."""
    x, y = _rows(a), _rows(b)
    return _ratio((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def overlap(a: Array, b: Array, share: float = 0.1, seed: int = 0) -> Array:
    """Share of the most salient places (by magnitude) that both maps have in common; ties by seed."""
    x, y = np.abs(_rows(a)), np.abs(_rows(b))
    count = max(1, round(share * x.shape[1]))
    ties = generator(seed, 0).random(x.shape[1])
    tops = [[set(np.lexsort((ties, -row))[:count].tolist()) for row in rows] for rows in (x, y)]
    return np.array([len(p & q) / count for p, q in zip(*tops, strict=True)])


def ssim(a: Array, b: Array) -> Array:
    """Structural similarity of magnitudes from 0 to 1 (see :func:`shown`), window 5."""
    metrics = optional("skimage.metrics", "SSIM", "leave it out")
    window = min(WINDOW, *a.shape[1:])
    window -= 1 - window % 2
    if a.ndim not in (2, 3) or window < 3:
        return np.full(len(a), np.nan)
    x, y = shown(a), shown(b)
    pairs = zip(x, y, strict=True)
    found = [metrics.structural_similarity(p, q, win_size=window, data_range=1.0) for p, q in pairs]
    return np.where(_flat(x) | _flat(y), np.nan, np.asarray(found, dtype=np.float64))


def hog(a: Array, b: Array) -> Array:
    """Rank correlation of histograms of oriented gradients of magnitudes from 0 to 1."""
    feature = optional("skimage.feature", "HOG", "leave it out")
    if a.ndim != 3 or min(a.shape[1:]) < 2 * CELLS:
        return np.full(len(a), np.nan)
    side = min(CELL, min(a.shape[1:]) // CELLS)

    def of(maps: Array) -> Array:
        return np.stack([feature.hog(m, pixels_per_cell=(side, side), cells_per_block=(1, 1)) for m in shown(maps)])

    return spearman(of(a), of(b))


def shown(maps: Array) -> Array:
    """Magnitudes from 0 to 1: cut at the 99th percentile, the least at 0."""
    values = np.abs(maps).astype(np.float64)
    axes = tuple(range(1, values.ndim))
    high = np.percentile(values, PERCENTILE, axis=axes, keepdims=True)
    high = np.where(high > 0, high, values.max(axis=axes, keepdims=True))
    low = values.min(axis=axes, keepdims=True)
    return np.asarray(np.clip((values - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0))


def _rows(maps: Array) -> Array:
    return maps.reshape(len(maps), -1).astype(np.float64)


def _flat(maps: Array) -> Array:
    rows = _rows(maps)
    return np.asarray(rows.max(axis=1) == rows.min(axis=1))


def ranks(rows: Array) -> Array:
    """Mean ranks, as ``scipy.stats.rankdata`` gives them."""
    found = np.zeros(rows.shape)
    for n, row in enumerate(rows):
        _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        found[n] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def _pearson(x: Array, y: Array) -> Array:
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return _ratio((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def _ratio(above: Array, below: Array) -> Array:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def mean_known(values: Array, axis: Any = None) -> Array:
    """Mean over what is a number; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))


#: By name: whether it looks at signs, and the function.
SIMILARITIES: dict[str, tuple[bool, Callable[[Array, Array], Array]]] = {
    "spearman": (True, spearman),
    "spearman_absolute": (False, spearman_absolute),
    "ssim": (False, ssim),
    "hog": (False, hog),
    "cosine": (True, cosine),
}
