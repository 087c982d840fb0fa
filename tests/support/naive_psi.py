"""FullGrad's psi with plain NumPy, for maps of the input's own resolution."""

from __future__ import annotations

from typing import Any

import numpy as np


def naive_psi(u: np.ndarray[Any, Any], sign: str, rescale: str, scope: str) -> np.ndarray[Any, Any]:
    """``[N, C, H, W]`` to ``[N, H, W]``."""
    v = {"abs": np.abs(u), "pos": np.maximum(u, 0), "neg": np.maximum(-u, 0), "signed": u}[sign].astype(np.float64)
    axes = {"layer": (1, 2, 3), "channel": (2, 3), "batch": (0, 1, 2, 3)}[scope]
    if rescale != "none":
        if sign == "signed":
            v = v / (np.abs(v).max(axis=axes, keepdims=True) + 1e-30)
        elif rescale == "max":
            v = v / (v.max(axis=axes, keepdims=True) + 1e-30)
        else:
            v = v - v.min(axis=axes, keepdims=True)
            v = v / (v.max(axis=axes, keepdims=True) + 1e-6)
    return np.asarray(v.sum(axis=1))
