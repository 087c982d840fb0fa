"""The picture of one explanation by itself, for files and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxplain.engine.errors import OutputError
from onnxplain.engine.render.colormaps import DIVERGING, SEQUENTIAL, apply
from onnxplain.engine.render.normalize import display_range
from onnxplain.engine.render.png import encode

if TYPE_CHECKING:
    from onnxplain.engine.explanation import Explanation

#: Maps smaller than this are enlarged, so that an 8x8 map is a picture and not a speck.
SHORTEST = 256


def map_png(explanation: Explanation, sample: int = 0) -> bytes:
    """One sample's map in colours, as PNG bytes.

    Raises:
        OutputError: The map is no picture (a series, a table); its numbers go into .npz or .json.
    """
    values = explanation.map(sample)
    if values.ndim != 2:
        raise OutputError(f"a map of shape {values.shape} is no picture; save it as .npz or .json")
    factor = max(1, -(-SHORTEST // min(values.shape)))
    shown = np.repeat(np.repeat(values, factor, axis=0), factor, axis=1)
    unit = display_range(shown, signed=explanation.signed).to_unit(shown)
    return encode(apply(unit, DIVERGING if explanation.signed else SEQUENTIAL))
