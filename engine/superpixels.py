"""Superpixels: regions of a picture that look alike, as scikit-image finds them.

They are found in the array that the network sees, spread to 0..1, so that a picture needs no second copy
and every network with one or more channels is served. Same array, same regions.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.extras import optional

Array = np.ndarray[Any, Any]

#: What the number after the colon is, by kind, and what it is where none is given.
SUPERPIXELS: dict[str, float] = {"slic": 50, "felzenszwalb": 100}


def superpixels(picture: Array, kind: str = "slic", amount: float | None = None) -> Array:
    """Regions of one picture, numbered from 0.

    Args:
        picture: ``[H, W, C]``, any scale.
        kind: ``slic`` (compact regions of like size; Achanta et al. 2012) or ``felzenszwalb`` (regions that
            follow edges; Felzenszwalb and Huttenlocher 2004).
        amount: For ``slic`` about how many regions (50), for ``felzenszwalb`` the scale: more is larger (100).

    Returns:
        int64 ``[H, W]``.

    Raises:
        OptionError: Unknown kind, an amount below 1, or no scikit-image.
    """
    if kind not in SUPERPIXELS:
        raise OptionError(f"unknown superpixels '{kind}'; choose one of {', '.join(SUPERPIXELS)}")
    amount = SUPERPIXELS[kind] if amount is None else amount
    if amount < 1:
        raise OptionError(f"superpixels '{kind}:{amount:g}' are not possible; give a number of at least 1")
    segmentation = optional("skimage.segmentation", f"players='{kind}'", "choose players='grid:8'")
    low, high = float(picture.min()), float(picture.max())
    shown = (picture.astype(np.float64) - low) / (high - low if high > low else 1.0)
    if kind == "slic":
        found = segmentation.slic(
            shown, n_segments=round(amount), compactness=10.0, start_label=0,
            convert2lab=shown.shape[-1] == 3, channel_axis=-1,
        )  # fmt: skip
    else:
        # Regions below a 500th of the picture are merged into a neighbour: nobody could tell them apart.
        smallest = max(1, shown.shape[0] * shown.shape[1] // 500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it warns of more than three channels, and takes them
            found = segmentation.felzenszwalb(shown, scale=amount, sigma=0.5, min_size=smallest, channel_axis=-1)
    return np.asarray(np.unique(found, return_inverse=True)[1].reshape(found.shape), dtype=np.int64)
