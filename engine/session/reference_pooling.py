"""Pooling by norms for the exact evaluator, straight from its definition in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxplain.engine.session.reference_windows import Geometry

Array = np.ndarray[Any, Any]


class LpPool(OpRun):
    """The evaluator takes the mean of the cells that exist times the size of the kernel."""

    op_domain = ""

    def _run(self, x: Array, p: int = 2, **attributes: Any) -> tuple[Array]:
        geometry = Geometry(x.shape[2:], attributes["kernel_shape"], attributes)
        powers = geometry.padded(np.abs(x) ** p, 0.0)
        total = sum(view for _, view in geometry.taps(powers))
        return (np.asarray(total ** (1.0 / p)).astype(x.dtype),)


class GlobalLpPool(OpRun):
    """The evaluator has none."""

    op_domain = ""

    def _run(self, x: Array, p: int = 2) -> tuple[Array]:
        axes = tuple(range(2, x.ndim))
        return (np.asarray((np.abs(x) ** p).sum(axes, keepdims=True) ** (1.0 / p)).astype(x.dtype),)


POOLING: list[type[OpRun]] = [LpPool, GlobalLpPool]
