"""Paths from a baseline to an input, and what is gathered along them.

A path is a list of points, each with the move that the gradient found there is multiplied by. Where all
points are known beforehand they go through the session in large batches; where the next one depends on
the gradient (guided paths) they go step by step, all samples side by side. Either way a method sees the
same stretches, and adds up in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnxplain.engine.baselines import make_baselines
from onnxplain.engine.carried import is_carried
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual
from onnxplain.engine.gaussian import blurred
from onnxplain.engine.method import STAGING_BYTES, Run
from onnxplain.engine.places import Labels, spatial_axes


@dataclass(frozen=True)
class Stretch:
    """Consecutive points of a path, for some of the samples.

    Attributes:
        rows: Which rows of the samples asked for.
        moves: Array per subject ``[S, G, ...]``, float64: step by step, how far the path goes.
        gradients: The same shape: the score's gradient at each point.
        scores: ``[S, G]``, float64.
    """

    rows: slice
    moves: dict[str, Array]
    gradients: dict[str, Array]
    scores: Array


class Path(Protocol):
    """Travels from a baseline to the input for the given samples, in order."""

    def travel(self, run: Run, samples: Array) -> Iterator[Stretch]: ...


def visit(run: Run, points: Mapping[str, Array], samples: Array, keys: Sequence[str]) -> dict[str, Array]:
    """Outputs at points ``[S, G, ...]`` of samples ``[G]``, in float64 and with the same two first axes."""
    steps = len(next(iter(points.values())))
    flat = {n: p.reshape(-1, *p.shape[2:]).astype(run.x[n].dtype) for n, p in points.items()}
    found = run.evaluate(flat, np.tile(samples, steps), keys)
    return {k: v.astype(np.float64).reshape(steps, len(samples), *v.shape[1:]) for k, v in found.items()}


class FixedPath:
    """A path whose points are known beforehand; a subclass says where they are.

    Attributes:
        count: How many points there are.
    """

    count: int

    def points(self, numbers: Array, samples: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Points and moves of the given steps and samples, each ``[S, G, ...]`` per subject, float64."""
        raise NotImplementedError

    def blocks(self, run: Run, samples: Array) -> Iterator[tuple[slice, Array]]:
        """Rows of ``samples``, and the steps that go through together; all steps of a sample in order."""
        # Points, moves and gradients wait in float64 at the same time.
        one = 3 * 8 * sum(x[:1].size for x in run.x.values())
        limit = max(1, STAGING_BYTES // max(1, one))
        group = min(len(samples), limit)
        block = max(1, limit // max(1, group))
        for row in range(0, len(samples), max(1, group)):
            for first in range(0, self.count, block):
                yield slice(row, row + group), np.arange(first, min(first + block, self.count))

    def travel(self, run: Run, samples: Array) -> Iterator[Stretch]:
        keys = ["score", *(f"gradient/{n}" for n in run.x)]
        for rows, numbers in self.blocks(run, samples):
            points, moves = self.points(numbers, samples[rows])
            found = visit(run, points, samples[rows], keys)
            yield Stretch(rows, moves, {n: found[f"gradient/{n}"] for n in run.x}, found["score"])


class StraightPath(FixedPath):
    """``x' + alpha (x - x')`` at the points of a quadrature; the moves are ``weight (x - x')``.

    The points are made in the input's own type, operation by operation as a graph makes them, so that a shipped
    file visits the very same ones: next to a kink the last bit decides.

    Args:
        x: Array per subject, ``[N, ...]``.
        baseline: In the same shapes.
        alphas: Points on [0, 1].
        weights: One per point; they sum to one.
    """

    def __init__(self, x: Mapping[str, Array], baseline: Mapping[str, Array], alphas: Array, weights: Array) -> None:
        self.x, self.baseline, self.alphas, self.weights = x, baseline, alphas, weights
        self.count = len(alphas)

    def points(self, numbers: Array, samples: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        places, moves = {}, {}
        for name, x in self.x.items():
            low = self.baseline[name][samples].astype(x.dtype)
            way = x[samples] - low
            over = (-1, *[1] * x.ndim)
            places[name] = low + self.alphas[numbers].astype(x.dtype).reshape(over) * way
            moves[name] = self.weights[numbers].reshape(over) * way.astype(np.float64)
        return places, moves


class BlurPath(FixedPath):
    """From the blurred input to the input itself: ``B(x, sigma)`` as sigma falls to 0.

    The moves are ``B``'s derivative in sigma, by differences, times the step in sigma.

    Args:
        x: Array per subject, ``[N, ...]``.
        labels: Their axes; the spatial ones are blurred.
        sigma: Of the most blurred point, in places.
        steps: Number of points.
        square_root: Whether the sigmas are spaced evenly in their squares.
        leading: Whether a step's point is its blurred end, where it begins; else, as the authors of Blur IG
            do it, its sharper end.
    """

    #: Difference in sigma from which the derivative is taken.
    DELTA = 0.01

    def __init__(
        self,
        x: Mapping[str, Array],
        labels: Mapping[str, Labels],
        sigma: float,
        steps: int,
        square_root: bool = False,
        leading: bool = False,
    ) -> None:
        self.x, self.labels, self.count, self.leading = x, labels, steps, leading
        shares = np.arange(steps + 1) / steps
        self.sigmas = sigma * (np.sqrt(shares) if square_root else shares)

    def blur(self, name: str, samples: Array, sigma: float) -> Array:
        """``B(x, sigma)`` of one subject, float64."""
        axes = list(spatial_axes(self.labels[name]).values())
        return blurred(self.x[name][samples], axes, sigma, border="zero")

    def start(self) -> dict[str, Array]:
        """The most blurred point of all samples."""
        samples = np.arange(len(next(iter(self.x.values()))))
        return {n: self.blur(n, samples, float(self.sigmas[-1])).astype(x.dtype) for n, x in self.x.items()}

    def points(self, numbers: Array, samples: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        places, moves = {}, {}
        # The path begins at the most blurred point: step k leads from sigma[count - k] to the next smaller one.
        for name in self.x:
            at, ways = [], []
            for k in numbers:
                end = self.count - 1 - int(k)
                sigma = float(self.sigmas[end + self.leading])
                point, softer = (self.blur(name, samples, s) for s in (sigma, sigma + self.DELTA))
                at.append(point)
                ways.append((point - softer) * ((self.sigmas[end + 1] - self.sigmas[end]) / self.DELTA))
            places[name], moves[name] = np.stack(at), np.stack(ways)
        return places, moves


def integrate(run: Run, path: Path, samples: Array) -> dict[str, Array]:
    """Sum of gradient times move along a path, per subject ``[len(samples), ...]``, float64."""
    total = {n: np.zeros((len(samples), *x.shape[1:]), dtype=np.float64) for n, x in run.x.items()}
    for part in path.travel(run, samples):
        for name, sums in total.items():
            sums[part.rows] += np.einsum("sg...,sg...->g...", part.gradients[name], part.moves[name])
    return total


def baseline_sets(spec: Any, run: Run) -> list[dict[str, Array]]:
    """Baselines per subject, one dictionary for each of several.

    Args:
        spec: See :func:`onnxplain.engine.baselines.make_baselines`; a dictionary by subject, where there are
            several (those that it does not name get zero). ``"input:..."`` and ``"token:..."`` begin at what
            the model computes from a baseline of its own inputs: see :meth:`onnxplain.engine.call.Call.carry`.
        run: The call.

    Raises:
        OptionError: A name that is no subject, different numbers of baselines, or what `make_baselines` refuses.
    """
    by_name = spec if isinstance(spec, dict) else dict.fromkeys(run.x, spec)
    unknown = set(by_name) - set(run.x)
    if unknown:
        raise OptionError(f"baseline names {sorted(unknown)}, which are not attributed to; it may name {sorted(run.x)}")
    made = {n: _baselines(by_name.get(n, "zero"), n, run) for n in run.x}
    count = max(len(b) for b in made.values())
    if any(len(b) not in (1, count) for b in made.values()):
        raise OptionError("the inputs have different numbers of baselines; give each one, or the same number")
    return [{n: b[i if len(b) > 1 else 0] for n, b in made.items()} for i in range(count)]


def _baselines(spec: Any, name: str, run: Run) -> list[Array]:
    if isinstance(spec, (list, tuple)) and any(isinstance(one, str) for one in spec):
        return [b for one in spec for b in _baselines(one, name, run)]
    return (
        run.carry(spec)[name]
        if is_carried(spec)
        else make_baselines(spec, run.x[name], run.labels[name], seed=run.seed)
    )


def convergence(attributions: Mapping[str, Array], change: Array, tolerance: float, of: str = "") -> Residual:
    """How far attributions are from summing to the change of the score along the path.

    Args:
        attributions: Array per subject, ``[N, ...]``.
        change: ``[N]``: f(x) - f(x').
        tolerance: Of the relative gap: over the larger of the change and the sum of magnitudes.
        of: What was checked, in words.
    """
    flat = [a.reshape(len(a), -1) for a in attributions.values()]
    total = np.sum([a.sum(axis=1) for a in flat], axis=0)
    scale = np.maximum(np.abs(change), np.sum([np.abs(a).sum(axis=1) for a in flat], axis=0))
    absolute = change - total
    relative = np.abs(absolute) / np.where(scale > 0, scale, 1.0)
    return Residual(absolute, relative, of or "convergence of the path integral", tolerance)
