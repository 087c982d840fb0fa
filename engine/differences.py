"""Compares a derivative with finite differences along random directions, and survives kinks and rounding.

Each direction has a base point of its own, a small random step away from the sample, because real data lie
on kinks: black pixels behind a ReLU, equal numbers under a maximum. There the slope is taken twice, with
central differences of two step sizes. Where the two agree, and the slopes to either side differ no more than
a curve's do, Richardson's extrapolation is what the derivative is held against; where not, at any of several
steps, the direction is set aside and counted: a kink lies in between, or the score's own rounding is larger
than its change. So a right gradient is not failed for what no difference quotient could know, and a wrong
one is not excused, because kinks lie on few of the directions.

Both conditions are needed. Of a kink of strength D at distance e from the base point, well within the step h,
the two central differences tell only D e / 2h, which is nothing where e is; the two-sided second differences
tell D (1 - 3 e / h). With both below t, what the kink can do to the slope, D / 2, is below 3.5 t.

All yardsticks are those of the direction itself: ``scale`` is the size that ``<gradient, direction>`` has
for a random direction, so that a derivative that happens to be near zero is not judged by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Points = Mapping[str, Array]

#: Scores ``[B]`` at points ``[B, ...]``, each with the sample ``[B]`` that it belongs to.
Evaluate = Callable[[Points, Array], Array]
#: Gradient of the score per attributed tensor at the same.
Gradient = Callable[[Points, Array], Points]

State = Literal["agrees", "differs", "kink", "rounding"]


@dataclass(frozen=True)
class Precision:
    """How closely slopes can be told in a number format.

    Attributes:
        rounding: Part of the expected slope that rounding may be: it says how small the first step is, and small
            steps meet few kinks.
        agreement: Largest gap of the slopes of a step and of its half, in units of the scale.
        tolerance: Difference of derivative and slope that is allowed whatever the gaps are.
        jitter: Relative distance of the base points from the samples.
        tiny: A step whose effect is all rounding.
        epsilon: Rounding of one number.
        least, most: Range of steps.
        always: How many steps are tried on every direction, the one whose slopes agree far better counting.
    """

    rounding: float
    agreement: float
    tolerance: float
    jitter: float
    tiny: float
    epsilon: float
    least: float
    most: float
    always: int


DOUBLE = Precision(1e-7, 1e-6, 2e-6, 1e-3, 2.0**-46, 2.0**-52, 1e-9, 1e-3, 1)

#: In float32 a deep net of ReLUs has kinks within every step that is not drowned in rounding: slopes of one such
#: net are known to a few percent, of a smooth one to a thousandth. What is allowed follows the gaps.
SINGLE = Precision(5e-3, 0.06, 0.02, 0.02, 2.0**-22, 2.0**-23, 2.0**-18, 2.0**-3, 2)

#: Steps in units of the smallest that rounding leaves useful: that one for kinks, the next for smooth models.
_FACTORS = (1.0, 16.0, 0.25, 4.0, 64.0)


@dataclass(frozen=True)
class Direction:
    """What came out along one direction.

    Attributes:
        sample: Which sample of the batch the base point lies at.
        state: ``agrees`` or ``differs`` where two step sizes agreed, else why they did not.
        predicted: ``<gradient, direction>``.
        numeric: The extrapolated slope; NaN where there is none.
        gap: Difference of the two slopes.
        step: The relative step.
        scale: The size of ``predicted`` that is to be expected of a random direction.
    """

    sample: int
    state: State
    predicted: float
    numeric: float
    gap: float
    step: float
    scale: float

    @property
    def judged(self) -> bool:
        """Whether it says anything about the derivative."""
        return self.state in ("agrees", "differs")

    @property
    def error(self) -> float:
        """Difference of derivative and slope in units of the scale; 0 where both are zero."""
        difference = abs(self.predicted - self.numeric)
        return difference / self.scale if self.scale else 0.0 if difference == 0 else float("inf")


def spread(array: Array) -> Array:
    """A step of its own for every number: its size, or for small ones and zeros that of the tensor's small numbers."""
    size = np.abs(array.astype(np.float64))
    some = size[size > 0]
    floor = float(np.quantile(some, 0.1)) if some.size else 1.0
    return np.maximum(size, floor)


def compare(
    evaluate: Evaluate, gradient: Gradient, x: Points, precision: Precision, *, count: int = 8, seed: int = 0
) -> list[Direction]:
    """Slopes along ``count`` random directions against the gradient.

    Args:
        evaluate: The score in the format that ``precision`` describes.
        gradient: What is tested.
        x: Samples ``[N, ...]`` per attributed tensor, in the type that the model takes.
        precision: :data:`SINGLE` or :data:`DOUBLE`.
        count: Number of directions; they take turns among the samples.
        seed: Of the directions and of the base points.
    """
    return _Comparison(evaluate, gradient, x, precision, count, seed).run()


@dataclass(frozen=True)
class _Ends:
    up: Array
    down: Array
    move: dict[str, Array]


@dataclass(frozen=True)
class _Slope:
    """What one step told of one direction; ``aside`` says why it cannot be judged, where it cannot."""

    aside: Literal["", "kink", "rounding"]
    predicted: float
    numeric: float
    gap: float
    step: float
    scale: float
    rounding: float


class _Comparison:
    def __init__(
        self, evaluate: Evaluate, gradient: Gradient, x: Points, precision: Precision, count: int, seed: int
    ) -> None:
        self.evaluate, self.precision = evaluate, precision
        self.samples = np.arange(count) % len(next(iter(x.values())))
        self.types = {name: array.dtype for name, array in x.items()}
        self.base: dict[str, Array] = {}
        self.away: dict[str, Array] = {}
        self._draw(x, seed)
        self.score = self._scores(self.base, self.samples)
        bad = ~np.isfinite(self.score)
        if bad.any():  # a step away is where the model is not defined: stay with the sample itself
            for name, array in x.items():
                self.base[name][bad] = array[self.samples[bad]]
            self.score = self._scores(self.base, self.samples)
        found = gradient(self.base, self.samples)
        self.gradient = {name: np.asarray(g, dtype=np.float64) for name, g in found.items()}
        self.predicted = self._along(self.away)
        self.scale = np.sqrt(sum(_sums((g * self.width[n]) ** 2) for n, g in self.gradient.items()))
        self.noise = self._noise()

    def _draw(self, x: Points, seed: int) -> None:
        self.width: dict[str, Array] = {}
        for index, (name, array) in enumerate(x.items()):
            width = np.stack([spread(array[s]) for s in self.samples])
            draws = [np.random.default_rng([seed, k, index]) for k in range(len(self.samples))]
            moves = np.stack([rng.standard_normal((2, *array.shape[1:])) for rng in draws])
            base = array[self.samples].astype(np.float64) + self.precision.jitter * width * moves[:, 0]
            self.base[name] = base.astype(array.dtype)
            self.away[name], self.width[name] = width * moves[:, 1], width

    def _scores(self, points: Points, samples: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.evaluate(points, samples), dtype=np.float64).reshape(-1)

    def _along(self, moves: Points, rows: Array | slice = slice(None)) -> Array:
        return np.asarray(sum(_sums(self.gradient[n][rows] * moves[n]) for n in moves))

    def _noise(self) -> Array:
        """Rounding of the score: what is left of f(+) + f(-) - 2 f at a step that changes nothing else."""
        ends = [self._moved(np.arange(len(self.samples)), sign * self.precision.tiny) for sign in (1, -1)]
        values = [self._scores(end, self.samples) for end in ends]
        second = np.abs(values[0] + values[1] - 2 * self.score)
        pooled = float(np.sqrt(np.mean(second[np.isfinite(second)] ** 2))) if np.isfinite(second).any() else 0.0
        return np.maximum(pooled, self.precision.epsilon * np.abs(self.score))

    def _moved(self, rows: Array, step: float) -> dict[str, Array]:
        moved = {n: self.base[n][rows].astype(np.float64) + step * self.away[n][rows] for n in self.base}
        return {n: a.astype(self.types[n]) for n, a in moved.items()}

    def run(self) -> list[Direction]:
        """Try steps one after the other on what no earlier one settled, then hold slopes against derivatives."""
        found: dict[int, _Slope] = {}
        first = self._first_step()
        steps = [float(min(max(first * f, self.precision.least), self.precision.most)) for f in _FACTORS]
        for turn, step in enumerate(dict.fromkeys(steps)):
            open_ones = [k for k in range(len(self.samples)) if turn < self.precision.always or found[k].aside]
            rows = np.array(open_ones, dtype=int)
            if rows.size:
                for k, slope in self._try(rows, step).items():
                    if k not in found or found[k].aside or slope.gap < 0.3 * found[k].gap:
                        found[k] = slope
        gaps = [s.gap / s.scale for s in found.values() if not s.aside and s.scale]
        pooled = float(np.sqrt(np.mean(np.square(gaps)))) if gaps else 0.0
        return [self._judged(k, found[k], pooled) for k in range(len(self.samples))]

    def _first_step(self) -> float:
        """The smallest step whose rounding is small against the slope, by the gradient or, in case that is too small, as seen."""
        most = self.precision.most
        ends = self._ends(np.arange(len(self.samples)), most)
        with np.errstate(all="ignore"):
            seen = np.abs(ends.up - ends.down) / (2 * most)
            ratios = self.noise / np.fmax(self.scale, seen)
        ratios = ratios[np.isfinite(ratios)]
        return float(np.median(ratios)) / self.precision.rounding if ratios.size else most

    def _judged(self, k: int, slope: _Slope, pooled: float) -> Direction:
        state: State = slope.aside or "agrees"
        if not slope.aside:
            allowed = max(self.precision.tolerance * slope.scale, 3.5 * slope.gap, 5 * pooled * slope.scale)
            if abs(slope.numeric - slope.predicted) > allowed + slope.rounding:
                state = "differs"
        return Direction(
            int(self.samples[k]), state, slope.predicted, slope.numeric, slope.gap, slope.step, slope.scale
        )

    def _try(self, rows: Array, step: float) -> dict[int, _Slope]:
        wide, narrow = (self._ends(rows, h) for h in (step, step / 2))
        predicted = self._along(narrow.move, rows)
        base = self.score[rows]
        with np.errstate(all="ignore"):
            slopes = [(e.up - e.down) / (2 * h) for e, h in ((wide, step), (narrow, step / 2))]
            bends = [(e.up + e.down - 2 * base) / h for e, h in ((wide, step), (narrow, step / 2))]
            gaps = np.maximum(np.abs(slopes[0] - slopes[1]), np.abs(bends[0] - 2 * bends[1]))
        found: dict[int, _Slope] = {}
        for i, k in enumerate(int(r) for r in rows):
            first, second, gap = float(slopes[0][i]), float(slopes[1][i]), float(gaps[i])
            expected = float(self.scale[k])
            rounding = 2 * float(self.noise[k]) / step
            if not np.isfinite([first, second, gap]).all():
                found[k] = _Slope("kink", float(predicted[i]), np.nan, np.inf, step, expected, rounding)
                continue
            scale = max(expected, abs(second))
            aside: Literal["", "kink", "rounding"] = ""
            if gap > self.precision.agreement * scale:
                aside = "rounding" if gap <= 6 * rounding else "kink"
            elif 0 < scale <= 3 * rounding:
                aside = "rounding"
            numeric = (4 * second - first) / 3 if gap <= 1e-2 * scale else second
            found[k] = _Slope(aside, float(predicted[i]), numeric, gap, step, scale, rounding)
        return found

    def _ends(self, rows: Array, step: float) -> _Ends:
        """Scores at both ends of a step, and the direction that was really gone once points were rounded to their type."""
        points = [self._moved(rows, sign * step) for sign in (1, -1)]
        up, down = (self._scores(point, self.samples[rows]) for point in points)
        move = {n: (points[0][n].astype(np.float64) - points[1][n].astype(np.float64)) / (2 * step) for n in self.base}
        return _Ends(up, down, move)


def _sums(array: Array) -> Array:
    return np.asarray(array.reshape(len(array), -1).sum(axis=1))


@dataclass(frozen=True)
class Summary:
    """Directions, counted.

    Attributes:
        directions: How many were tried.
        judged: On how many two step sizes agreed.
        differing: On how many of those derivative and slope differ.
        kinks, rounding: How many were set aside, and why.
        error: The largest difference of derivative and slope among the judged ones, in units of their scale.
        flat: Whether nothing moved: derivative and slope are zero along every judged direction.
    """

    directions: int
    judged: int
    differing: int
    kinks: int
    rounding: int
    error: float
    flat: bool

    @property
    def verdict(self) -> Literal["pass", "fail", "undecided"]:
        """Whether the derivative is what the slopes are.

        Fail where more than one judged direction in eight differs, undecided where too few could be judged, all
        is flat, or one of only a few differs: a kink that neither step sees can make one differ, and a rule
        that is wrong is wrong along most of them.
        """
        needed = min(3, self.directions)
        if self.differing >= min(2, needed) and 8 * self.differing > self.judged:
            return "fail"
        if self.judged < needed or self.flat or 12 * self.differing > self.judged:
            return "undecided"
        return "pass"


def summarise(directions: Sequence[Direction]) -> Summary:
    """Count the states."""
    states = [d.state for d in directions]
    return Summary(
        directions=len(states),
        judged=sum(d.judged for d in directions),
        differing=states.count("differs"),
        kinks=states.count("kink"),
        rounding=states.count("rounding"),
        error=max((d.error for d in directions if d.judged), default=float("nan")),
        flat=all(d.scale == 0 for d in directions if d.judged),
    )
