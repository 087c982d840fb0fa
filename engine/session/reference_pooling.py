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


class MaxRoiPool(OpRun):
    """The evaluator lacks it."""

    op_domain = ""

    def _run(
        self, x: np.ndarray[Any, Any], rois: np.ndarray[Any, Any], pooled_shape: Any = (), spatial_scale: Any = 1.0
    ) -> tuple[np.ndarray[Any, Any]]:
        rows, columns = (int(n) for n in pooled_shape)
        y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
        for r, (sample, *corners) in enumerate(rois):
            scaled = np.asarray(corners) * float(spatial_scale)
            left, top, right, bottom = (np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype(int)
            height, width = max(bottom - top + 1, 1) / rows, max(right - left + 1, 1) / columns
            for i in range(rows):
                for j in range(columns):
                    down = slice(
                        *np.clip([top + np.floor(i * height), top + np.ceil((i + 1) * height)], 0, x.shape[2]).astype(
                            int
                        )
                    )
                    across = slice(
                        *np.clip([left + np.floor(j * width), left + np.ceil((j + 1) * width)], 0, x.shape[3]).astype(
                            int
                        )
                    )
                    cell = x[int(sample), :, down, across]
                    y[r, :, i, j] = cell.max(axis=(1, 2)) if cell.size else 0
        return (y,)


POOLING: list[type[OpRun]] = [LpPool, GlobalLpPool, MaxRoiPool]
