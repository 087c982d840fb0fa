"""The score as a function of one long vector, and how to move in it: directions, lengths, projections.

Searches (ascent, minimal changes) take their steps sample by sample but evaluate them side by side: every
function here works on rows, float64, whatever the number of attributed tensors and their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run


class Packing:
    """Arrays per subject as rows of one matrix, and back.

    Args:
        x: Array per subject, ``[N, ...]``.
    """

    def __init__(self, x: Mapping[str, Array]) -> None:
        self.shapes = {n: a.shape[1:] for n, a in x.items()}

    def join(self, arrays: Mapping[str, Array]) -> Array:
        """``[N, D]``, float64."""
        return np.concatenate([np.asarray(arrays[n], np.float64).reshape(len(arrays[n]), -1) for n in self.shapes], 1)

    def split(self, flat: Array) -> dict[str, Array]:
        """Per subject ``[N, ...]``."""
        ends = np.cumsum([int(np.prod(s)) for s in self.shapes.values()])
        parts = np.split(flat, ends[:-1], axis=1)
        return {n: p.reshape(len(flat), *s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}


class Landscape:
    """The explained scalar and its gradient at any points.

    Args:
        run: The call; the graph returns ``score`` and ``gradient/NAME`` per subject.
        box: Smallest and largest value that an element may take, or None.

    Attributes:
        x: The samples, ``[N, D]``.
        score, gradient: There, ``[N]`` and ``[N, D]``.
    """

    def __init__(self, run: Run, box: tuple[float, float] | None = None) -> None:
        self.run, self.box, self.packing = run, box, Packing(run.x)
        self.x = self.packing.join(run.x)
        self.score = run.score.reshape(-1)
        self.gradient = self.packing.join({n: run.outputs[f"gradient/{n}"] for n in run.x})

    def at(self, points: Array, rows: Array) -> tuple[Array, Array]:
        """Score ``[B]`` and gradient ``[B, D]`` at points ``[B, D]`` of samples ``[B]``."""
        found = self.run.evaluate(self._typed(points), rows, ["score", *(f"gradient/{n}" for n in self.run.x)])
        gradient = self.packing.join({n: found[f"gradient/{n}"] for n in self.run.x})
        return np.asarray(found["score"], np.float64).reshape(-1), gradient

    def score_at(self, points: Array, rows: Array) -> Array:
        """Score alone, ``[B]``."""
        found = self.run.evaluate(self._typed(points), rows, ["score"])
        return np.asarray(found["score"], np.float64).reshape(-1)

    def _typed(self, points: Array) -> dict[str, Array]:
        return {n: a.astype(self.run.x[n].dtype) for n, a in self.packing.split(points).items()}

    def inside(self, points: Array) -> Array:
        """The nearest points in the box."""
        return points if self.box is None else np.clip(points, *self.box)


def any_in(rows: Array) -> Array:
    """Which rows hold anything but zeros, ``[B]``."""
    return np.asarray(np.any(rows, axis=1))


def length(rows: Array, norm: float) -> Array:
    """p-norm of each row, ``[B]``; p is 1, 2 or infinity."""
    return np.asarray(np.linalg.norm(rows, ord=norm, axis=1))


def dual_length(gradient: Array, norm: float) -> Array:
    """How fast a linear function rises per unit of p-length: the norm dual to p."""
    return length(gradient, np.inf if norm == 1 else 2 if norm == 2 else 1)


def steepest(gradient: Array, norm: float) -> Array:
    """The direction of p-length 1 in which a linear function rises most; zero where the gradient is.

    For 2 the gradient itself, for infinity its signs, for 1 the element with the largest magnitude alone.
    """
    if norm == np.inf:
        return np.sign(gradient)
    if norm == 1:
        largest = np.argmax(np.abs(gradient), axis=1)
        rows = np.arange(len(gradient))
        result = np.zeros_like(gradient)
        result[rows, largest] = np.sign(gradient[rows, largest])
        return result
    size = length(gradient, 2)
    return np.asarray(gradient / np.where(size > 0, size, 1.0)[:, None])


def projected(rows: Array, radius: Array, norm: float) -> Array:
    """The nearest points (in the Euclidean sense) of p-length at most ``radius`` ``[B]``."""
    if norm == np.inf:
        return np.clip(rows, -radius[:, None], radius[:, None])
    size = length(rows, norm)
    if norm == 2:
        return np.asarray(rows * np.minimum(1.0, radius / np.where(size > 0, size, 1.0))[:, None])
    # Onto the simplex of magnitudes: all of them fall by the same amount, and none below zero.
    ordered = -np.sort(-np.abs(rows), axis=1)
    falls = (np.cumsum(ordered, axis=1) - radius[:, None]) / np.arange(1, rows.shape[1] + 1)
    last = np.sum(ordered > falls, axis=1) - 1
    fall = np.maximum(np.take_along_axis(falls, np.maximum(last, 0)[:, None], axis=1), 0.0)
    shrunk = np.sign(rows) * np.maximum(np.abs(rows) - fall, 0.0)
    return np.where((size > radius)[:, None], shrunk, rows)
