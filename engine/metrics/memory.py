"""Memory: how far one explanation pushes a fresh process."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.footprint import footprint
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least


@metric("memory")
class Memory(Metric):
    """Peak growth of resident host memory in MiB, of a fresh process that loads the model and explains.

    One measurement, which stands for every sample; memory of a GPU is not in it. The libraries' own code is not
    counted as far as it is loaded before the model. NaN for maps that know nothing of the model.

    Args:
        batch: Samples that are explained at once.
    """

    summary: ClassVar[str] = "peak growth of a fresh process that loads the model and explains, in MiB"
    source: ClassVar[str] = "resident memory as the operating system counts it"
    better: ClassVar[Better] = "lower"

    batch: int = 1

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 1)

    def measure(self, case: Case) -> Measured:
        if case.origin is None:
            return Measured(np.full(len(case), np.nan), facts={"unit": "MiB"})
        found = footprint(case, self.batch)
        facts = {"unit": "MiB", "batch": min(self.batch, len(case)), **dataclasses.asdict(found)}
        return Measured(np.full(len(case), found.total), facts=facts)
