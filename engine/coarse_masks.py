"""Random smooth masks: a coarse grid of zeros and ones, enlarged linearly and shifted at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.players import are_tokens
from onnxplain.engine.upsample import upsampled

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CoarseMasks:
    """How the masks over one sample are drawn.

    Attributes:
        shape: Of the sample.
        labels: Its axes, the batch in front.
        cells: Of the grid, along each axis; axes of at most as many places, features of tables and tokens of texts are
            drawn one by one.
        keep: Probability that a cell is kept.
    """

    shape: tuple[int, ...]
    labels: Labels
    cells: int
    keep: float

    @cached_property
    def steps(self) -> dict[int, int]:
        """Places of a cell, per axis that is enlarged."""
        single = len(self.shape) == 1 or are_tokens(self.labels)
        sizes = {a: self.shape[a] for a in self._places}
        return {a: -(-size // self.cells) for a, size in sizes.items() if not single and size > self.cells}

    @property
    def _places(self) -> list[int]:
        return [a - 1 for a in spatial_axes(self.labels).values()]

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of what is drawn; one along axes that are no places."""
        return tuple(
            1 if a not in self._places else self.cells if a in self.steps else size for a, size in enumerate(self.shape)
        )

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of a mask: the places' sizes, and one along other axes."""
        return tuple(size if a in self._places else 1 for a, size in enumerate(self.shape))

    def draw(self, rng: np.random.Generator) -> tuple[Array, dict[int, int]]:
        """The grid of one mask, 0 or 1, and where the mask begins in what it is enlarged to."""
        grid = (rng.random(self.grid) < self.keep).astype(np.float64)
        return grid, {axis: int(rng.integers(step)) for axis, step in self.steps.items()}

    def mask(self, rng: np.random.Generator) -> Array:
        """One mask in 0..1."""
        grid, starts = self.draw(rng)
        # One cell more than the grid has, so that a shift by less than a cell still covers everything.
        mask = upsampled(grid, {a: self.enlarged(a) for a in self.steps}, align_corners=False)
        where = [slice(None)] * len(self.shape)
        for axis, start in starts.items():
            where[axis] = slice(start, start + self.shape[axis])
        return np.asarray(mask[tuple(where)], dtype=np.float32)

    def enlarged(self, axis: int) -> int:
        """Places that the grid is enlarged to along an axis."""
        return (self.cells + 1) * self.steps[axis]
