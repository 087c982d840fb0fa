"""Normalisations for the exact evaluator, from their definitions in NumPy.

Kept apart from `reference_ops` for its size; that module lists them among the corrected ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class BatchNormalization(OpRun):
    """The evaluator fails at opset 7 and blends the batch's own statistics in at 9, for inference nodes too.

    There the training form is told by further outputs alone; ``momentum`` has a default and says nothing.
    """

    op_domain = ""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        mean: Array,
        var: Array,
        epsilon: Any = None,
        momentum: Any = None,
        spatial: Any = None,
        training_mode: Any = None,
    ) -> tuple[Array, ...]:
        if training_mode:
            axes = tuple(i for i in range(x.ndim) if i != 1)
            own_mean, own_var = x.mean(axes), x.var(axes)
            (y,) = self._run(x, scale, bias, own_mean, own_var, epsilon=epsilon)
            weight = float(momentum)
            return y, mean * weight + own_mean * (1 - weight), var * weight + own_var * (1 - weight)
        shape = (-1, *[1] * (x.ndim - 2))
        scale, bias, mean, var = (v.reshape(shape) for v in (scale, bias, mean, var))
        return ((scale * (x - mean) / np.sqrt(var + float(epsilon)) + bias).astype(x.dtype),)


NORMALIZATIONS: list[type[OpRun]] = [BatchNormalization]
