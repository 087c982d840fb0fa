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


class Gelu(OpRun):
    """The evaluator expands it to its own float32 Erf."""

    op_domain = ""

    def _run(self, x: np.ndarray[Any, Any], approximate: str = "none") -> tuple[np.ndarray[Any, Any]]:
        if approximate == "tanh":
            gate = 1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            gate = 1 + _erf(x / math.sqrt(2))
        return (np.asarray(0.5 * x * gate).astype(x.dtype),)


#: All of this module, for :data:`onnxplain.engine.session.reference_ops.CORRECTED`.
ELEMENTWISE: list[type[OpRun]] = [Erf, Gelu]
