"""Time: how long an explanation takes."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least


@metric("time")
class TimeTaken(Metric):
    """Seconds per explanation of one sample alone, once model, graph and session are ready.

    Measured on the first samples, after one that does not count; NaN for the rest. Other work on the machine is
    in the figures, so that only those of one run should be compared.

    Args:
        samples: How many samples are timed.
    """

    summary: ClassVar[str] = "seconds per explanation, one sample at a time, sessions ready"
    source: ClassVar[str] = "wall clock"
    better: ClassVar[Better] = "lower"

    samples: int = 10

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 1)

    def measure(self, case: Case) -> Measured:
        case.explain(case.x[:1], case.target[:1])
        values = np.full(len(case), np.nan)
        for n in range(min(self.samples, len(case))):
            start = time.perf_counter()
            case.explain(case.x[n : n + 1], case.target[n : n + 1])
            values[n] = time.perf_counter() - start
        # All samples together, with reading the rewritten graph and opening its session.
        return Measured(values, facts={"unit": "s", "in_batch_with_compilation": case.seconds})
