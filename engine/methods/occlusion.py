"""Occlusion: how far the score falls when a window of the input is replaced. Forward passes alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.baselines import make_baselines
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import REDUCTIONS, STAGING_BYTES, Method, Parts, Plan, Run, choose, method, reduce_channels
from onnxplain.engine.places import Labels, spatial_axes

#: Window and stride of inputs with places where none is asked for: at most this many, and this share of the axis.
LARGEST_WINDOW, WINDOW_SHARE = 15, 4


@method("occlusion")
class Occlusion(Method):
    """The drop of the score under each window, spread evenly over what the window covers.

    Where windows overlap, an element gets the sum of their drops over the sum of their sizes, so that
    windows that do not overlap sum to the sum of their drops. Needs no gradient: it serves every model.

    Args:
        window: Places per axis of a window; by default single features for rows, and for pictures and
            series 15, at most a quarter of the axis. All channels of a place go together.
        stride: Places between windows; by default half a window.
        value: What is put in a window's place: see :mod:`onnxplain.engine.baselines`.
        average: False: every element gets the plain sum of the drops of the windows that cover it.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "drop of the score when a window of the input is replaced; forward passes alone"
    source: ClassVar[str] = "Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2; Ancona et al. 2018, arXiv 1711.06104"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity", "sensitivity"})
    walks: ClassVar[bool] = True

    window: int | None = None
    stride: int | None = None
    value: Any = 0.0
    average: bool = True
    reduction: str = "sum"

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)
        for name, size in (("window", self.window), ("stride", self.stride)):
            if size is not None and size < 1:
                raise OptionError(f"{name}={size} must be at least 1, or None for the default")

    def build(self, plan: Plan) -> None:
        """The score alone, which every graph returns."""

    def reduce(self, run: Run) -> Parts:
        attributions, notes = {}, []
        for name, x in run.x.items():
            windows = list(self._windows(x.shape, run.labels[name]))
            attributions[name] = self._drops(run, name, windows).astype(x.dtype)
            notes.append(f"{len(windows)} windows over '{name}', one forward pass each")
        saliency = None
        if len(attributions) == 1:
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction)
        return Parts(attributions, saliency, signed=self.reduction == "sum", notes=notes)

    def _windows(self, shape: tuple[int, ...], labels: Labels) -> Iterator[tuple[slice, ...]]:
        """Index of each window in one sample; the last one along an axis ends with the axis."""
        places = set(spatial_axes(labels).values())
        choices = []
        for axis in range(1, len(shape)):
            length = shape[axis]
            if axis not in places:
                choices.append([slice(None)])
                continue
            usual = 1 if len(shape) == 2 else max(1, min(LARGEST_WINDOW, length // WINDOW_SHARE))
            size = min(self.window or usual, length)
            step = self.stride or max(1, size // 2)
            starts = list(range(0, length - size + 1, step))
            starts += [length - size] if starts[-1] + size < length else []
            choices.append([slice(s, s + size) for s in starts])
        return itertools.product(*choices)

    def _drops(self, run: Run, name: str, windows: list[tuple[slice, ...]]) -> Array:
        x = run.x[name]
        filled = make_baselines(self.value, x, run.labels[name], seed=run.seed)
        if len(filled) != 1:
            raise OptionError(f"value={self.value!r} stands for {len(filled)} values; give one")
        total, covered = np.zeros(x.shape, dtype=np.float64), np.zeros(x.shape[1:], dtype=np.float64)
        for where in windows:
            covered[where] += covered[where].size if self.average else 0
        if not self.average:
            covered[...] = 1
        count = len(x)
        block = max(1, STAGING_BYTES // max(1, sum(a[:1].nbytes for a in run.x.values())))
        for first in range(0, count * len(windows), block):
            numbers = np.arange(first, min(first + block, count * len(windows)))
            samples, turns = numbers % count, numbers // count
            points = {n: a[samples] for n, a in run.x.items()}
            for row, (sample, turn) in enumerate(zip(samples, turns, strict=True)):
                points[name][row][windows[turn]] = filled[0][sample][windows[turn]]
            scores = np.asarray(run.evaluate(points, samples, ["score"])["score"], dtype=np.float64).reshape(-1)
            for sample, turn, score in zip(samples, turns, scores, strict=True):
                total[sample][windows[turn]] += run.score[sample] - score
        # With gaps between windows (a stride past the window) some elements lie under none: they get 0.
        return np.asarray(total / np.where(covered > 0, covered, 1.0))
