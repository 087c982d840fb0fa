"""Occlusion: how far the score falls when a window of the input is replaced. Forward passes alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.masks import score_blocks
from onnxplain.engine.method import Parts, Plan, Run, Variant, deliver, method
from onnxplain.engine.methods.perturbation import Perturbation
from onnxplain.engine.paths import baseline_sets
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.players import are_tokens
from onnxplain.engine.shipping.drawn import fixed_sizes
from onnxplain.engine.shipping.variants import one_baseline, ship_windows

#: Window and stride of inputs with places where none is asked for: at most this many, and this share of the axis.
LARGEST_WINDOW, WINDOW_SHARE = 15, 4


@method("occlusion")
class Occlusion(Perturbation):
    """The drop of the score under each window, spread evenly over what the window covers.

    Where windows overlap, an element gets the sum of their drops over the sum of their sizes, so that
    windows that do not overlap sum to the sum of their drops. Needs no gradient: it serves every model.
    ``window=1, per_channel=True`` is Occlusion-1: every element by itself.

    Args:
        window: Places of a window along each axis, one number or one per axis; by default single features of
            rows and single tokens of texts, and for pictures and series 15, at most a quarter of the axis.
        stride: Places between windows, in the same form; by default half a window. The last window along an
            axis is moved back to end with the axis.
        value: What is put in a window's place: see :mod:`onnxplain.engine.baselines`.
        average: False: every element gets the plain sum of the drops of the windows that cover it.
        per_channel: Windows of one channel each; by default all channels of a place go together.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "drop of the score when a window of the input is replaced; forward passes alone"
    source: ClassVar[str] = "Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2; Ancona et al. 2018, arXiv 1711.06104"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "implementation_invariance", "linearity", "sensitivity"})
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant({"window": 1, "stride": 1, "per_channel": True}, axioms | {"sensitivity_one"}),
    )

    window: Any = None
    stride: Any = None
    value: Any = 0.0
    average: bool = True
    per_channel: bool = False
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size in (("window", self.window), ("stride", self.stride)):
            sizes = size if isinstance(size, (list, tuple)) else [1 if size is None else size]
            if not sizes or not all(isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in sizes):
                raise OptionError(
                    f"{name}={size!r} is not possible; give whole numbers from 1, or None for the default"
                )

    def ship(self, plan: Plan) -> None:
        filled = one_baseline(plan, self.value, "value")
        found = {}
        for subject in plan.subjects:
            sizes = fixed_sizes(subject, "windows are stored in the file")
            windows = list(self._windows((1, *sizes), subject.labels))
            found[subject.name] = ship_windows(plan, subject, filled, windows, self.average)
        deliver(plan, found, self.reduction)

    def reduce(self, run: Run) -> Parts:
        sets = baseline_sets(self.value, run)
        if len(sets) != 1:
            raise OptionError(f"value={self.value!r} stands for {len(sets)} values; give one")
        attributions, notes = {}, []
        for name, x in run.x.items():
            windows = list(self._windows(x.shape, run.labels[name]))
            found, bare = self._drops(run, name, sets[0][name], windows)
            attributions[name] = found
            notes.append(f"{len(windows)} windows over '{name}', one forward pass each")
            notes += [f"{bare} elements of '{name}' lie under no window and get 0"] if bare else []
        return self.parts(run, attributions, notes=notes)

    def _windows(self, shape: tuple[int, ...], labels: Labels) -> Iterator[tuple[slice, ...]]:
        """Index of each window in one sample; the last one along an axis ends with the axis."""
        places = sorted(spatial_axes(labels).values())
        windows, strides = (self._per_axis(name, len(places)) for name in ("window", "stride"))
        choices = []
        for axis in range(1, len(shape)):
            length = shape[axis]
            if axis not in places:
                choices.append([slice(i, i + 1) for i in range(length)] if self.per_channel else [slice(None)])
                continue
            single = len(shape) == 2 or are_tokens(labels)
            usual = 1 if single else max(1, min(LARGEST_WINDOW, length // WINDOW_SHARE))
            size = min(windows[places.index(axis)] or usual, length)
            step = strides[places.index(axis)] or max(1, size // 2)
            starts = list(range(0, length - size + 1, step))
            # Where windows leave gaps anyway (a stride past the window), none is moved to close the last one.
            starts += [length - size] if starts[-1] + size < length and step <= size else []
            choices.append([slice(s, s + size) for s in starts])
        return itertools.product(*choices)

    def _per_axis(self, name: str, count: int) -> list[int | None]:
        value = getattr(self, name)
        if not isinstance(value, (list, tuple)):
            return [value] * count
        if len(value) != count:
            raise OptionError(f"{name}={value!r} has {len(value)} numbers, and there are {count} axes with places")
        return list(value)

    def _drops(self, run: Run, name: str, filled: Array, windows: list[tuple[slice, ...]]) -> tuple[Array, int]:
        """Attributions in float64, and how many elements no window covers."""
        total = np.zeros(run.x[name].shape, dtype=np.float64)
        covered = np.zeros(total.shape[1:], dtype=np.float64)
        for where in windows:
            covered[where] += covered[where].size

        def change(point: dict[str, Array], sample: int, turn: int) -> None:
            point[name][windows[turn]] = filled[sample][windows[turn]]

        for samples, turns, scores in score_blocks(run, len(windows), change):
            for sample, turn, score in zip(samples, turns, scores, strict=True):
                total[sample][windows[turn]] += run.score[sample] - score
        bare = int((covered == 0).sum())
        return (total / np.where(covered > 0, covered, 1.0) if self.average else total), bare
