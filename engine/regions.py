"""Regions of a picture that overlap, at several scales, and their order by the attribution that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxplain.engine.extras import optional

Array = np.ndarray[Any, Any]

#: Side of the grid on which regions are found, the scales of Felzenszwalb's method, its blur and smallest region,
#: the radius by which regions grow, and how many new elements a region has to bring: the authors' values for XRAI.
SIDE, SCALES, SIGMA, SMALLEST, RADIUS, NEW = 224, (50, 100, 150, 250, 500, 1200), 0.8, 150, 5, 50


def overlapping_regions(picture: Array) -> Array:
    """Regions at all scales, grown a little: bool ``[R, H, W]``.

    They are found on a grid of 224 x 224, so that the constants mean the same for every picture.

    Args:
        picture: ``[H, W, C]``, any scale of values.

    Raises:
        OptionError: No scikit-image.
    """
    segmentation = optional("skimage.segmentation", "method 'xrai'", "use integrated_gradients")
    transform = optional("skimage.transform", "method 'xrai'", "use integrated_gradients")
    import cv2

    height, width = picture.shape[:2]
    low, high = float(picture.min()), float(picture.max())
    shown = 2.0 * (picture.astype(np.float64) - low) / (high - low if high > low else 1.0) - 1.0
    if (height, width) != (SIDE, SIDE):
        shown = transform.resize(shown, (SIDE, SIDE), order=3, mode="edge", anti_aliasing=True)
    offsets = np.arange(-RADIUS, RADIUS + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= RADIUS**2).astype(np.uint8)
    # Each element of the picture looks up the grid's element under its centre.
    rows = ((np.arange(height) + 0.5) * SIDE / height).astype(int)
    columns = ((np.arange(width) + 0.5) * SIDE / width).astype(int)
    found = []
    for scale in SCALES:
        numbered = segmentation.felzenszwalb(shown, scale=scale, sigma=SIGMA, min_size=SMALLEST, channel_axis=-1)
        for number in range(int(numbered.max()) + 1):
            grown = cv2.dilate((numbered == number).astype(np.uint8), disk)
            found.append(grown[np.ix_(rows, columns)].astype(bool))
    return np.stack(found)


def by_density(regions: Array, attribution: Array, fast: bool) -> Iterator[tuple[Array, float]]:
    """Regions in the order in which they explain most per element: what each newly covers, and its mean there.

    Args:
        regions: bool ``[R, P]``.
        attribution: ``[P]``.
        fast: Order once by the mean over the whole region, instead of over what it would newly cover.
    """
    least = max(1.0, NEW * attribution.size / SIDE**2)
    members = np.ascontiguousarray(regions.T)
    counts = members.sum(axis=0).astype(np.float64)
    sums = attribution @ members
    means = sums / np.maximum(counts, 1.0)
    free = np.ones(attribution.size, dtype=bool)
    left = np.ones(len(regions), dtype=bool)
    while True:
        left &= counts >= least
        if not left.any():
            return
        density = means if fast else sums / np.maximum(counts, 1.0)
        best = int(np.argmax(np.where(left, density, -np.inf)))
        new = regions[best] & free
        yield new, float(density[best])
        free &= ~new
        left[best] = False
        taken = members[new]
        counts -= taken.sum(axis=0)
        sums -= attribution[new] @ taken
