"""Operators that `onnx.reference` computes wrongly or not at all, for the verification runs.

The evaluator is our float64 oracle, so what is known to be wrong in it is replaced here, each with the
defect named. Nothing here runs unless ``providers=["reference"]`` is asked for.
"""

from __future__ import annotations

from onnx.reference.op_run import OpRun

CORRECTED: list[type[OpRun]] = []
