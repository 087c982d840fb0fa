"""The path of Guided Integrated Gradients: towards the input, through the features that matter least first.

Each step moves the features whose gradient is smallest as far as a band around the straight line allows,
until the path is as near to the input as the straight line would be. The gradient is taken once per step,
so a step is one pass for all samples; what follows is bookkeeping in float64, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxplain.engine.explanation import Array
from onnxplain.engine.landscape import Packing
from onnxplain.engine.method import Run
from onnxplain.engine.paths import Stretch, visit

#: Relative and absolute difference below which two distances are the same.
CLOSE = 1e-9


class GuidedPath:
    """Steps of Guided IG; the gradient at the start of a step is multiplied by all of the step's moves.

    Args:
        x: Array per subject, ``[N, ...]``; all subjects' features compete with each other.
        baseline: In the same shapes.
        steps: Number of steps.
        fraction: Share of features that is moved at a time.
        max_dist: Half width of the band around the straight line, as a share of the way; 0 is the line itself.
    """

    def __init__(
        self, x: Mapping[str, Array], baseline: Mapping[str, Array], steps: int, fraction: float, max_dist: float
    ) -> None:
        self.packing = Packing(x)
        self.end, self.start = self.packing.join(x), self.packing.join(baseline)
        self.steps, self.fraction, self.max_dist = steps, fraction, max_dist

    def _split(self, flat: Array) -> dict[str, Array]:
        """Per subject ``[1, G, ...]``: one step."""
        return {n: a[None] for n, a in self.packing.split(flat).items()}

    def travel(self, run: Run, samples: Array) -> Iterator[Stretch]:
        """Step by step, the samples side by side."""
        x, low = self.end[samples], self.start[samples]
        z = low.copy()
        keys = ["score", *(f"gradient/{n}" for n in run.x)]
        for step in range(self.steps):
            found = visit(run, self._split(z), samples, keys)
            gradients = {n: found[f"gradient/{n}"] for n in run.x}
            size = np.abs(self.packing.join({n: g[0] for n, g in gradients.items()}))
            after = self._step(z, size, x, low, (step + 1) / self.steps)
            yield Stretch(slice(None), self._split(after - z), gradients, found["score"].reshape(1, -1))
            z = after

    def _step(self, z: Array, size: Array, x: Array, low: Array, alpha: float) -> Array:
        """Where the path goes from ``z``, given the gradient's magnitudes there."""
        nearest, furthest = max(alpha - self.max_dist, 0.0), min(alpha + self.max_dist, 1.0)
        way = x - low
        hind, front = low + nearest * way, low + furthest * way
        still = way == 0
        wanted = np.abs(way).sum(axis=1) * (1.0 - alpha)
        progress = np.where(still, furthest, (z - low) / np.where(still, 1.0, way))
        z = np.where(progress < nearest, hind, z)
        rows = np.arange(len(z))
        # Each turn takes at least one feature of every row that is left to the front of the band.
        while len(rows):
            distance = np.abs(z[rows] - x[rows]).sum(axis=1)
            rows = rows[~np.isclose(distance, wanted[rows], rtol=CLOSE, atol=CLOSE)]
            if len(rows):
                rows = rows[self._advance(z, rows, size, front, x, wanted)]
        return z

    def _advance(self, z: Array, rows: Array, size: Array, front: Array, x: Array, wanted: Array) -> Array:
        """Move the least important features of these rows, in place; says which rows have further to go."""
        here, limit = z[rows], front[rows]
        magnitude = np.where(here == limit, np.inf, size[rows])
        place = int(np.floor(self.fraction * (magnitude.shape[1] - 1)))
        threshold = np.partition(magnitude, place, axis=1)[:, place : place + 1]
        chosen = (magnitude <= threshold) & np.isfinite(magnitude)
        room = np.abs((here - limit) * chosen).sum(axis=1)
        missing = np.abs(here - x[rows]).sum(axis=1) - wanted[rows]
        share = np.where(room > 0, missing / np.where(room > 0, room, 1.0), np.inf)
        part = np.clip(share, 0.0, 1.0)[:, None]
        moved = np.where(part >= 1.0, limit, here + part * (limit - here))
        z[rows] = np.where(chosen, moved, here)
        return (share > 1.0) & chosen.any(axis=1)
