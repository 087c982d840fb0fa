"""Max-sensitivity: how far an explanation moves when the input moves a little."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxplain.engine import method as host
from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.metric import Better, Metric, metric
from onnxplain.engine.evaluation.removal import at_least
from onnxplain.engine.explanation import Array


@metric("max_sensitivity")
class MaxSensitivity(Metric):
    """``max ||R(x + d) - R(x)|| / ||R(x)||`` over uniform d in a cube around x; the class stays that of x.

    Args:
        radius: Half the cube's side, as a share of the data's range.
        samples: Draws of d.
        normalised: Divide by ``||R(x)||``, where it is not zero; the paper's definition does not.
    """

    summary: ClassVar[str] = "largest change of the explanation when the input moves a little"
    source: ClassVar[str] = "Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations, arXiv 1901.09392"
    better: ClassVar[Better] = "lower"

    radius: float = 0.02
    samples: int = 10
    normalised: bool = True

    def __post_init__(self) -> None:
        at_least("radius", self.radius, 0)
        at_least("samples", self.samples, 1)

    def measure(self, case: Case) -> Measured:
        reach = self.radius * float(case.x.max() - case.x.min())
        moved = np.zeros((len(case), self.samples))
        clean = case.attribution.reshape(len(case), -1).astype(np.float64)
        pairs = np.arange(len(case) * self.samples)
        block = max(1, host.STAGING_BYTES // max(1, case.x[:1].nbytes))
        for first in range(0, len(pairs), block):
            rows, draws = np.divmod(pairs[first : first + block], self.samples)
            points = case.x[rows] + np.stack([self._step(case, int(k), reach) for k in draws])
            found = case.explain(points.astype(case.x.dtype), case.target[rows])[0]
            moved[rows, draws] = np.linalg.norm(found.reshape(len(rows), -1) - clean[rows], axis=1)
        size = np.linalg.norm(clean, axis=1)
        values = moved.max(axis=1) / (np.where(size > 0, size, 1.0) if self.normalised else 1.0)
        return Measured(values, facts={"draws": self.samples, "radius": reach, "of": case.ranked})

    @staticmethod
    def _step(case: Case, draw: int, reach: float) -> Array:
        return np.asarray(generator(case.seed, 5, draw).uniform(-reach, reach, case.x.shape[1:]))
