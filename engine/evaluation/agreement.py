"""Whether methods agree: how alike their maps of the same samples are, pair by pair.

Agreement says nothing of who is right: two methods may share a mistake. It tells how many independent
opinions a list of methods holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.data import as_dataset
from onnxplain.engine.evaluation.evaluate import Choice, _pairs, explained
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.evaluation.similarity import SIMILARITIES, overlap
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.loading import Model, load
from onnxplain.engine.method import choose

#: How likeness is measured: the similarities of maps, and the share of most salient places in common.
MEASURES = (*SIMILARITIES, "top_k")
#: Those that are measured unless others are named.
USUAL = ("spearman", "ssim", "top_k")


def measurable() -> tuple[str, ...]:
    """The usual measures, less what needs a package that is not installed."""
    return tuple(m for m in USUAL if m != "ssim" or find_spec("skimage") is not None)


def likeness(a: Array, b: Array, measure: str = "spearman", *, top: float = 0.1, seed: int = 0) -> Array:
    """How alike two methods' maps are, sample by sample, ``[N]``; NaN where it is not defined.

    Args:
        a, b: ``[N, places...]``.
        measure: One of :data:`MEASURES`; only ``spearman`` and ``cosine`` look at signs.
        top: Share of the places that count as most salient.
        seed: Of the order of equal values.

    Raises:
        OptionError: Maps of different places, or an unknown measure.
    """
    choose("measure", measure, MEASURES)
    if a.shape != b.shape:
        raise OptionError(f"maps of shape {a.shape} and {b.shape} cannot be compared; explain the same samples")
    return overlap(a, b, top, seed) if measure == "top_k" else SIMILARITIES[measure][1](a, b)


def _known_mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Likeness of every pair of methods.

    Attributes:
        methods: Their names.
        values: ``[N]`` by measure and pair of names, in the order of `methods`.
        top: Share of the places that counts as most salient.
    """

    methods: list[str]
    values: dict[str, dict[tuple[str, str], Array]]
    top: float = 0.1

    def matrix(self, measure: str = "spearman") -> Array:
        """Means over the samples for which it is defined, ``[M, M]``; 1 on the diagonal."""
        found = np.eye(len(self.methods))
        for (a, b), values in self.values[measure].items():
            i, j = self.methods.index(a), self.methods.index(b)
            found[i, j] = found[j, i] = _known_mean(values)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """The table as data: one line per pair."""
        return [
            {"method": a, "other": b, **{m: _known_mean(values[a, b]) for m, values in self.values.items()}}
            for a, b in itertools.combinations(self.methods, 2)
        ]


def pairwise(
    maps: Mapping[str, Array], measures: Sequence[str] = USUAL, *, top: float = 0.1, seed: int = 0
) -> Agreement:
    """Likeness of every pair of maps.

    Args:
        maps: ``[N, places...]`` by method.
        measures, top, seed: See :func:`likeness`.
    """
    pairs = list(itertools.combinations(maps, 2))
    return Agreement(
        list(maps),
        {m: {(a, b): likeness(maps[a], maps[b], m, top=top, seed=seed) for a, b in pairs} for m in measures},
        top,
    )


def agreement(
    model: ModelSource | Model,
    data: Any,
    *,
    methods: Choice,
    measures: Sequence[str] = USUAL,
    top: float = 0.1,
    target: Any = None,
    output: str | None = None,
    head: str | None = None,
    layout: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Agreement:
    """How alike the maps of several methods are, on the same samples and classes.

    Args:
        model, data, methods, target, output, layout, limit, seed, threads: As
            :func:`onnxplain.engine.evaluation.evaluate.evaluate` takes them.
        measures, top: See :func:`likeness`.
        head: What methods explain.
    """
    loaded = load(model, threads=threads or 0)
    scorer = Scorer(loaded, output, "logit", layout)
    samples = as_dataset(data, scorer, limit=limit)
    classes = scorer.classes(samples.x) if target is None else np.broadcast_to(np.asarray(target), (len(samples),))
    maps = {
        name: explained(loaded, scorer, samples, classes, name, options, seed, output, head, layout).saliency
        for name, options in _pairs(methods)
    }
    return pairwise(maps, measures, top=top, seed=seed)
