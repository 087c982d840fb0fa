"""The network and the pictures that ship, ready to be explained."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.cards import from_metadata
from onnxplain.engine.errors import InputError
from onnxplain.engine.inputs import read_picture
from onnxplain.engine.loading import load
from onnxplain.models import demo_model, demo_samples


def demo_input() -> np.ndarray[Any, Any]:
    """The sample pictures as the demo network takes them, ``float32 [N, 1, 28, 28]``."""
    preprocessing = from_metadata(load(demo_model()).metadata)
    if preprocessing is None:
        raise InputError("the demo network lost its preprocessing; reinstall onnxplain")
    return np.concatenate([preprocessing.apply(read_picture(s.path)) for s in demo_samples()])
