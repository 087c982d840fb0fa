"""Quantisation for the reference evaluator, which lacks DequantizeLinear below opset 19 and rounds its scales to float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_25

Array = np.ndarray[Any, Any]


class DequantizeLinear(DequantizeLinear_25):
    """The evaluator lacks the forms below opset 19, of which the newest is an extension."""

    op_domain = ""

    def _run(self, *args: Any, axis: Any = None, block_size: Any = None, output_dtype: Any = None) -> Any:
        return super()._run(
            *args, axis=1 if axis is None else axis, block_size=block_size or 0, output_dtype=output_dtype or 0
        )


class DynamicQuantizeLinear(OpRun):
    """The evaluator rounds the scale to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array, Array, Array]:
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        scale = (high - low) / 255 if high > low else 1.0
        zero = np.clip(np.rint(-low / scale), 0, 255)
        levels = np.clip(np.rint(x / scale) + zero, 0, 255)
        return levels.astype(np.uint8), np.asarray(scale, x.dtype), zero.astype(np.uint8)


QUANTIZATION: list[type[OpRun]] = [DequantizeLinear, DynamicQuantizeLinear]
