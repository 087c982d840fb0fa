"""onnxruntime-training beside the engine: the gap between their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import onnxplain as ox
from onnxplain.engine.session import training_backend

Array = np.ndarray[Any, Any]

needed = pytest.mark.skipif(
    training_backend.place() is None,
    reason="needs onnxruntime-training (pip install --no-deps --target FOLDER onnxruntime-training-cpu==1.19.2) "
    f"and {training_backend.VARIABLE}=FOLDER",
)

#: Norm of the difference over the norm: float32, with sums taken in another order.
CLOSE = 1e-5


def agree(proto: Any, feeds: dict[str, Array], seeds: dict[str, Array], wrt: Sequence[str] | None = None) -> None:
    """Every tensor of ``wrt`` agrees to :data:`CLOSE`."""
    gap, name = worst(proto, feeds, seeds, wrt)
    assert gap <= CLOSE, f"{name}: {gap:.1e}"


def worst(
    proto: Any, feeds: dict[str, Array], seeds: dict[str, Array], wrt: Sequence[str] | None = None
) -> tuple[float, str]:
    """The largest gap, and which tensor's it is."""
    own = ox.vjp(proto, feeds, seeds, wrt=wrt)
    other = ox.vjp(proto, feeds, seeds, wrt=wrt, backend="ort-training")
    assert set(other) == set(own)
    gaps = {}
    for name, wanted in own.items():
        assert other[name].shape == wanted.shape and other[name].dtype == wanted.dtype, name
        gaps[name] = float(np.linalg.norm(other[name] - wanted) / max(float(np.linalg.norm(wanted)), 1e-20))
    assert any(np.abs(a).max() > 0 for a in other.values())
    name = max(gaps, key=gaps.__getitem__)
    return gaps[name], name


def normal(*shape: int, seed: int = 0) -> Array:
    """Draws of the normal distribution, the same at every call."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
