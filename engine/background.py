"""Draws from a background distribution, each with a random point on the way from it to the input.

A draw is the same for every sample (see :mod:`onnxplain.engine.draws`) and for every class; synthetic
references are as strong as the sample that they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run
from onnxplain.engine.noise import widths
from onnxplain.engine.paths import FixedPath, baseline_sets

#: Distributions that need no data.
SYNTHETIC = ("noise", "uniform")


class Draws(FixedPath):
    """Points ``r + alpha (x + e - r)`` with r from the background, alpha uniform on [0, 1], e Gaussian noise.

    Moves are ``(x + e - r) / count``, so that gradient times move sums to the mean over draws. Points are made in the
    input's own type, operation by operation as a graph makes them: see :class:`onnxplain.engine.paths.StraightPath`.

    Args:
        run: The call.
        background: ``"noise"`` (Gaussian about zero, as strong as the sample itself), ``"uniform"`` (between the
            sample's extremes), an array of samples, the path of an ``.npy`` or ``.npz`` file of them (in an
            ``.npz``, one array per subject or a single one), a dictionary of arrays by subject, or any baseline.
        count: Draws per sample.
        spread: Standard deviation of e, as a share of the sample's range.
    """

    def __init__(self, run: Run, background: Any, count: int, spread: float) -> None:
        self.x, self.seed, self.count, self.noisy = run.x, run.seed, count, spread > 0
        self.deviation = {n: widths(x, spread) for n, x in run.x.items()}
        self.kind = background if isinstance(background, str) and background in SYNTHETIC else ""
        # Rows to choose from: [B, ...] for all samples alike, or [B, N, ...] for each sample its own.
        self.rows: dict[str, Array] = {}
        self.own = False
        if not self.kind:
            self.rows, self.own = background_rows(background, run)

    def ends(self, numbers: Array, samples: Array) -> tuple[dict[str, Array], dict[str, Array], Array]:
        """References and (noisy) inputs per subject, ``[S, G, ...]`` in its own type, and alphas ``[S, G]``."""
        alphas = np.empty((len(numbers), len(samples)))
        low = {n: np.empty((*alphas.shape, *x.shape[1:]), x.dtype) for n, x in self.x.items()}
        high = {n: np.empty_like(a) for n, a in low.items()}
        for step, draw in enumerate(numbers):
            rng = generator(self.seed, draw)
            alphas[step] = rng.random()
            row = int(rng.integers(len(next(iter(self.rows.values()))))) if self.rows else 0
            for name, x in self.x.items():
                here = x[samples]
                low[name][step] = self._reference(name, row, here, samples, rng)
                width = self.deviation[name][samples].reshape(-1, *[1] * (x.ndim - 1))
                noise = rng.standard_normal(x.shape[1:]).astype(x.dtype) * width if self.noisy else 0
                high[name][step] = here + noise
        return low, high, alphas

    def _reference(self, name: str, row: int, here: Array, samples: Array, rng: np.random.Generator) -> Array:
        """One draw for all samples: ``[G, ...]``, or one for all of them alike."""
        if not self.kind:
            rows = self.rows[name][row]
            return np.asarray(rows[samples] if self.own else rows)
        axes = tuple(range(1, here.ndim))
        if self.kind == "uniform":
            least, most = (f(here, axis=axes, keepdims=True) for f in (np.min, np.max))
            return np.asarray(least + rng.random(here.shape[1:]).astype(here.dtype) * (most - least))
        strength = np.sqrt(np.mean(here.astype(np.float64) ** 2, axis=axes, keepdims=True)).astype(here.dtype)
        return np.asarray(strength * rng.standard_normal(here.shape[1:]).astype(here.dtype))

    def points(self, numbers: Array, samples: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        low, high, alphas = self.ends(numbers, samples)
        return between(low, high, alphas), {n: (high[n] - low[n]).astype(np.float64) / self.count for n in low}


def between(low: Mapping[str, Array], high: Mapping[str, Array], alphas: Array) -> dict[str, Array]:
    """``low + alpha (high - low)`` per subject."""
    over = {n: alphas.reshape(*alphas.shape, *[1] * (a.ndim - 2)).astype(a.dtype) for n, a in low.items()}
    return {n: a + over[n] * (high[n] - a) for n, a in low.items()}


def background_rows(background: Any, run: Run) -> tuple[dict[str, Array], bool]:
    """Arrays of references, one a row, and whether each sample has its own (``[B, N, ...]`` and not ``[B, ...]``).

    Args:
        background: See :class:`Draws`, but for what is drawn without data.
        run: The call.

    Raises:
        OptionError: A file that cannot be read, or rows that do not fit.
    """
    if isinstance(background, str) and FilePath(background).suffix.lower() in (".npy", ".npz"):
        background = read_background(FilePath(background), list(run.x))
    given = background if isinstance(background, Mapping) else dict.fromkeys(run.x, background)
    arrays = {n: np.asarray(given[n]) for n in run.x if isinstance(given.get(n), np.ndarray)}
    if len(arrays) == len(run.x) and set(given) == set(run.x):
        return _checked(arrays, run), False
    sets = baseline_sets(background, run)
    return {n: np.stack([one[n] for one in sets]) for n in run.x}, True


def _checked(arrays: dict[str, Array], run: Run) -> dict[str, Array]:
    rows = {n: a[None] if a.ndim == run.x[n].ndim - 1 else a for n, a in arrays.items()}
    for name, array in rows.items():
        wanted = run.x[name].shape[1:]
        if array.shape[1:] != wanted or not len(array):
            raise OptionError(
                f"background of shape {array.shape} does not fit '{name}', whose samples have shape {wanted}; "
                "give an array of such samples, one a row"
            )
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise OptionError(f"the background of '{name}' holds something else than finite numbers; give such samples")
    if len({len(a) for a in rows.values()}) > 1:
        counts = {n: len(a) for n, a in rows.items()}
        raise OptionError(f"the backgrounds have different numbers of samples ({counts}); rows belong together")
    return rows


@dataclass(frozen=True)
class Numbers:
    """What :class:`Draws` draws, all at once.

    Attributes:
        alphas: ``[count]``.
        rows: ``[count]``: which background sample.
        references: Per subject ``[count, ...]``: what a synthetic reference is made of; none for others.
        noise: Unit noise per subject, ``[count, ...]``; none without noise.
    """

    alphas: Array
    rows: Array
    references: dict[str, Array]
    noise: dict[str, Array]


def draw_numbers(
    seed: int, count: int, rows: int, shapes: Mapping[str, tuple[int, ...]], *, noisy: bool, kind: str = ""
) -> Numbers:
    """The numbers that :class:`Draws` draws, in the same order.

    Args:
        seed: Of the draws.
        count: How many.
        rows: Number of background samples; 0 for synthetic ones.
        shapes: Of one sample, per subject.
        noisy: Whether noise is drawn.
        kind: One of `SYNTHETIC`, or empty.
    """
    alphas, chosen = np.empty(count), np.zeros(count, dtype=np.int64)
    references = {n: np.empty((count, *shape)) for n, shape in shapes.items()} if kind else {}
    noise = {n: np.empty((count, *shape)) for n, shape in shapes.items()} if noisy else {}
    for draw in range(count):
        rng = generator(seed, draw)
        alphas[draw] = rng.random()
        if rows:
            chosen[draw] = int(rng.integers(rows))
        for name, shape in shapes.items():
            if kind:
                references[name][draw] = rng.random(shape) if kind == "uniform" else rng.standard_normal(shape)
            if noisy:
                noise[name][draw] = rng.standard_normal(shape)
    return Numbers(alphas, chosen, references, noise)


def read_background(path: FilePath, names: list[str]) -> dict[str, Array]:
    """Background samples per subject from an ``.npy`` or ``.npz`` file.

    Raises:
        OptionError: It cannot be read, or lacks a subject's.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return dict.fromkeys(names, content)
        with content:
            if len(content.files) == 1 and len(names) == 1:
                return {names[0]: content[content.files[0]]}
            return {n: content[n] for n in names}
    except (OSError, ValueError, EOFError) as e:
        raise OptionError(f"background {path} cannot be read ({e}); give an .npy or .npz file of samples") from None
    except KeyError as e:
        raise OptionError(f"background {path} has no array {e}; it needs one for each of {', '.join(names)}") from None
