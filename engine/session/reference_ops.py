"""Operators that `onnx.reference` computes wrongly or not at all, for the verification runs.

The evaluator is our float64 oracle, so what is known to be wrong in it is replaced here, each with the
defect named. Nothing here runs unless ``providers=["reference"]`` is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxplain.engine.session.reference_windows import WINDOWED

CORRECTED: list[type[OpRun]] = [*WINDOWED]


class Pad(OpRun):
    """The evaluator refuses negative amounts, which cut."""

    op_domain = ""

    def _run(
        self,
        data: np.ndarray[Any, Any],
        pads: np.ndarray[Any, Any],
        constant_value: Any = None,
        axes: Any = None,
        mode: Any = "constant",
    ) -> tuple[np.ndarray[Any, Any]]:
        listed = range(data.ndim) if axes is None else np.asarray(axes).reshape(-1).tolist()
        begin, end = np.asarray(pads).reshape(2, -1).tolist()
        widths = [(0, 0)] * data.ndim
        for axis, before, after in zip(listed, begin, end, strict=True):
            cut = [slice(None)] * data.ndim
            cut[axis] = slice(max(-before, 0), data.shape[axis] - max(-after, 0))
            data = data[tuple(cut)]
            widths[axis] = (max(before, 0), max(after, 0))
        if mode != "constant":
            return (np.pad(data, widths, mode=mode),)
        fill = 0 if constant_value is None else np.asarray(constant_value).item()
        return (np.pad(data, widths, constant_values=fill),)


CORRECTED.append(Pad)
