"""Elementwise operators that `onnx.reference` computes too coarsely for a float64 oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Erf(OpRun):
    """The evaluator rounds to float32."""

    op_domain = ""

    def _run(self, x: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any]]:
        return (np.asarray(_erf(x)).astype(x.dtype),)


#: All of this module, for :data:`onnxplain.engine.session.reference_ops.CORRECTED`.
ELEMENTWISE: list[type[OpRun]] = [Erf]
