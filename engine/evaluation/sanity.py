"""``sanity``: does a method's map have anything to do with the model, and with the class that was asked for?

Three checks. *Cascading*: weights are drawn anew from the output downwards, block upon block, and maps are made again.
*Independent*: the same blocks, one at a time, the others as trained. *Classes*: maps of other classes than the one that
the model answers; this needs no labels. The explained class is fixed from the clean model and the clean input
throughout. What is concluded, and when nothing is: :mod:`onnxplain.engine.evaluation.sanity_report`.

Sources: Adebayo et al. 2018 (arXiv 1810.03292); Khakzar et al. 2020 (2012.00362); Sixt et al. 2020 (1912.09818).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError, SessionError
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.evaluation.data import Dataset, as_dataset
from onnxplain.engine.evaluation.evaluate import Choice, Progress, explained
from onnxplain.engine.evaluation.metric import Better, Metric
from onnxplain.engine.evaluation.randomise import DISTRIBUTIONS, WeightLayer, randomised, weight_layers
from onnxplain.engine.evaluation.report import Store
from onnxplain.engine.evaluation.sanity_report import SanityReport, SanityResult
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.evaluation.similarity import SIMILARITIES, mean_known
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.loading import Model, load
from onnxplain.engine.method import choose, reduce_channels
from onnxplain.engine.session.runtime import versions

CHECKS = ("cascading", "independent", "classes")
#: Other classes that a map is compared with.
PAIRS = ("random", "second", "lowest")
#: Other pictures that each picture's map is compared with, for the null value.
PARTNERS = 3
#: Draws whose numbers are far from the user's.
_NULL_NETWORK, _PARTNER, _OTHER_CLASS = 1_000_003, 11, 12


def sanity(
    model: ModelSource | Model,
    data: Any,
    *,
    methods: Choice = ("gradient", "input_x_gradient", "fullgrad", "edges"),
    checks: Sequence[str] = CHECKS,
    similarities: Sequence[str] = tuple(SIMILARITIES),
    distribution: str = "normal",
    statistics: bool = False,
    blocks: int = 6,
    draws: int = 3,
    target: Any = None,
    output: str | None = None,
    head: str | None = None,
    layout: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SanityReport:
    """Check whether methods' maps depend on the model's weights and on the explained class.

    Args:
        model: Path, bytes, proto or loaded model with one float input.
        data: Samples: see :func:`onnxplain.engine.evaluation.data.as_dataset`; no labels are needed.
        methods: Names from :func:`onnxplain.methods`, with options if wanted; ``random`` and ``edges`` stand for
            maps that know nothing of the model, and have to fail.
        checks: Some of ``cascading``, ``independent``, ``classes``.
        similarities: Some of ``spearman``, ``spearman_absolute``, ``ssim``, ``hog``, ``cosine``.
        distribution, statistics: See :func:`~onnxplain.engine.evaluation.randomise.randomised`.
        blocks: At most so many steps; the first is the layer at the output alone.
        draws: Times that weights are drawn.
        target: ``[N]`` classes to explain; by default the clean model's own answer to the clean input.
        output, head, layout: See :class:`~onnxplain.engine.explainer.CompiledExplainer`.
        limit: At most so many samples.
        seed: Of all draws.
        folder: Where results are kept, so that an interrupted run goes on where it was.
        threads: Threads inside an operator.
        progress: Told of every step.

    Raises:
        OptionError: Unknown method, check, similarity or distribution; a model without weights.
        InputError: Samples that do not fit the model.
    """
    for name, given, known in (("checks", checks, CHECKS), ("similarities", similarities, tuple(SIMILARITIES))):
        for one in given:
            choose(name, one, known)
    choose("distribution", distribution, DISTRIBUTIONS)
    if blocks < 1 or draws < 1 or not checks or not similarities:
        raise OptionError("blocks, draws, checks and similarities must not be empty; give at least one of each")
    loaded = load(model, threads=threads or 0)
    scorer = Scorer(loaded, output, head or "logit", layout)
    samples = as_dataset(data, scorer, limit=limit)
    classes = scorer.classes(samples.x) if target is None else np.broadcast_to(np.asarray(target), (len(samples),))
    store = Store(folder, loaded.source.sha256, samples, classes, "sanity", head, output, layout, seed)
    layers = weight_layers(loaded, output)
    settings = Settings(tuple(similarities), distribution, statistics, draws, seed, output, head, layout)
    work = list(methods.items()) if isinstance(methods, Mapping) else [(name, {}) for name in methods]
    turns = Turns(progress, len(work) * _turns(checks, _blocks(layers, blocks), draws))
    results = []
    for name, options in work:
        test = _Test(loaded, scorer, samples, np.asarray(classes), layers, name, dict(options), settings, turns)
        for check in checks:
            probe = Probe(check=check, blocks=blocks, settings=settings)
            found = store.get(name, options, probe)
            if found is None:
                found = store.put(name, options, probe, test.measured(check, _blocks(layers, blocks)))
            turns.told(_turns([check], _blocks(layers, blocks), draws))
            results.append(_result(name, dict(options), check, found.curves, found.facts))
    turns.end()
    provenance = {
        "model": loaded.source.name,
        "model_sha256": loaded.source.sha256,
        "versions": versions(),
        "explained": head or "logit",
        "samples": len(samples),
        "classes": [int(c) for c in classes],
        "distribution": distribution,
        "statistics": statistics,
        "draws": draws,
        "seed": seed,
        "layers": [layer.name for layer in layers],
    }
    return SanityReport(results, samples.names, provenance)


@dataclass(frozen=True)
class Settings:
    """What holds for all methods."""

    similarities: tuple[str, ...]
    distribution: str
    statistics: bool
    draws: int
    seed: int
    output: str | None
    head: str | None
    layout: str


class Turns:
    """Progress in maps; a check that is known already counts as done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._checked, self._within = progress, total, 0, 0

    def begin(self, words: str) -> None:
        """Another map begins."""
        if self._progress is not None:
            self._progress(min(self._total, self._checked + self._within), self._total, words)
        self._within += 1

    def told(self, turns: int) -> None:
        """A check is through."""
        self._checked, self._within = self._checked + turns, 0

    def end(self) -> None:
        """All is through."""
        if self._progress is not None:
            self._progress(self._total, self._total, "done")


def _turns(checks: Sequence[str], blocks: list[list[WeightLayer]], draws: int) -> int:
    return sum(len(PAIRS) if check == "classes" else len(blocks) * draws for check in checks)


def _blocks(layers: list[WeightLayer], blocks: int) -> list[list[WeightLayer]]:
    """The layer at the output, then the others in equal parts."""
    if len(layers) <= blocks:
        return [[layer] for layer in layers]
    if blocks == 1:
        return [layers]
    numbers = np.array_split(np.arange(1, len(layers)), blocks - 1)
    return [layers[:1], *([layers[i] for i in part] for part in numbers)]


@dataclass(frozen=True, kw_only=True)
class Probe(Metric):
    """A check as the store of results knows it."""

    name: ClassVar[str] = "sanity"
    better: ClassVar[Better] = "lower"

    check: str
    blocks: int
    settings: Settings

    def options(self) -> dict[str, Any]:
        """What tells one run from another."""
        return {"check": self.check, "blocks": self.blocks, **vars(self.settings)}


@dataclass(frozen=True)
class Maps:
    """A method's maps: with sign, and their magnitudes; ``[N, places...]``."""

    signed: Array
    size: Array

    def rows(self, order: Array) -> Maps:
        """Some of them."""
        return Maps(self.signed[order], self.size[order])


@dataclass
class _Test:
    """One method on one model."""

    model: Model
    scorer: Scorer
    samples: Dataset
    classes: Array
    layers: list[WeightLayer]
    method: str
    options: dict[str, Any]
    settings: Settings
    turns: Turns
    _known: tuple[Maps, dict[str, Array], dict[str, Array]] | None = None

    def measured(self, check: str, blocks: list[list[WeightLayer]]) -> Measured:
        """All similarities of one check."""
        self._notes: list[str] = []
        clean, null_image, null_network = self._nulls()
        steps, found = self._classes() if check == "classes" else self._randomised(check, blocks)
        shape = (len(found) // len(steps), len(steps), len(self.samples))
        curves: dict[str, tuple[Array, Array]] = {}
        for name in self.settings.similarities:
            values = np.stack([similar(name, clean, maps) for maps in found]).reshape(shape)
            curves[name] = (np.arange(len(steps)), values)
            curves[f"image/{name}"] = (np.zeros(0), null_image[name])
            curves[f"network/{name}"] = (np.zeros(0), null_network[name])
        both = bool((clean.signed < 0).any() and (clean.signed > 0).any())
        return Measured(np.zeros(0), curves, {"steps": steps, "signed": both, "notes": self._notes})

    def _nulls(self) -> tuple[Maps, dict[str, Array], dict[str, Array]]:
        """The clean maps, and the null values."""
        if self._known is None:
            self.turns.begin(f"{self.method}: null values")
            clean = self._maps(self.model, self.classes)
            other = self._maps(self._fresh(self.layers, _NULL_NETWORK), self.classes)
            names = self.settings.similarities
            image = {name: self._between(name, clean) for name in names}
            self._known = clean, image, {name: similar(name, clean, other) for name in names}
        return self._known

    def _between(self, name: str, clean: Maps) -> Array:
        """Similarity of each map to those of a few other pictures."""
        count = len(self.samples)
        order = generator(self.settings.seed, _PARTNER).permutation(count)
        place = np.argsort(order)
        partners = [order[(place + shift) % count] for shift in range(1, min(PARTNERS, count - 1) + 1)]
        if not partners:
            return np.full(count, np.nan)
        return mean_known(np.stack([similar(name, clean, clean.rows(p)) for p in partners]), axis=0)

    def _randomised(self, check: str, blocks: list[list[WeightLayer]]) -> tuple[list[str], list[Maps]]:
        names = [block[-1].name for block in blocks]
        found = []
        for draw in range(self.settings.draws):
            for number, block in enumerate(blocks):
                self.turns.begin(f"{self.method}: {check}, {names[number]}")
                chosen = block if check == "independent" else [one for part in blocks[: number + 1] for one in part]
                found.append(self._maps(self._fresh(chosen, draw), self.classes))
        return names, found

    def _fresh(self, layers: Sequence[WeightLayer], draw: int) -> Model:
        s = self.settings
        seed = int(generator(s.seed, draw).integers(1 << 31))
        return randomised(self.model, layers, distribution=s.distribution, statistics=s.statistics, seed=seed)

    def _classes(self) -> tuple[list[str], list[Maps]]:
        pairs = dict(other_classes(self.scorer.outputs(self.samples.x), self.classes, self.settings.seed))
        if not pairs:
            raise OptionError("the output has one number only; leave the check 'classes' out")
        found = []
        for name, classes in pairs.items():
            self.turns.begin(f"{self.method}: {name} class")
            found.append(self._maps(self.model, classes))
        return list(pairs), found

    def _maps(self, model: Model, classes: Array) -> Maps:
        s = self.settings
        try:
            case = explained(
                model, self.scorer, self.samples, classes, self.method, self.options, s.seed, s.output, s.head, s.layout
            )
        except SessionError as error:
            if model is self.model:
                raise
            self._notes.append(f"drawn anew, the net cannot be explained: {error}")
            shape = self._known[0].signed.shape if self._known is not None else self.samples.x.shape
            return Maps(np.full(shape, np.nan), np.full(shape, np.nan))
        return Maps(signed_map(case), np.abs(case.saliency.astype(np.float64)))


def signed_map(case: Case) -> Array:
    """The method's map with its sign, where its own map is the magnitude of an attribution; else its own map."""
    own = case.saliency.astype(np.float64)
    if case.signed or case.attribution.shape != case.x.shape:
        return own
    attribution = case.attribution.astype(np.float64)
    for how in ("sum_abs", "max_abs", "l2"):
        size = reduce_channels(attribution, case.scorer.labels, how)
        if size.shape == own.shape and np.allclose(size, own, rtol=1e-4, atol=1e-6 * float(np.abs(own).max())):
            return reduce_channels(attribution, case.scorer.labels, "sum")
    return own


def similar(name: str, a: Maps, b: Maps) -> Array:
    """One similarity of maps, ``[N]``; NaN where one of them is not known."""
    signed, measure = SIMILARITIES[name]
    x, y = (a.signed, b.signed) if signed else (a.size, b.size)
    known = np.isfinite(y.reshape(len(y), -1)).all(axis=1)
    found = np.full(len(x), np.nan)
    if known.any():
        found[known] = measure(x[known], y[known])
    return found


def other_classes(scores: Array, classes: Array, seed: int) -> Iterator[tuple[str, Array]]:
    """Names and ``[N]`` numbers of classes other than the explained one; none twice where there are only two.

    Args:
        scores: ``[N, ...]``.
        classes: ``[N]``: the explained ones, flat.
        seed: Of the random class; the same for all samples of a class, so that a sample's does not depend on others.
    """
    rows = scores.reshape(len(scores), -1)
    count = rows.shape[1]
    if count < 2:
        return
    numbers = np.arange(len(rows))
    without = rows.copy()
    without[numbers, classes] = -np.inf
    second = without.argmax(axis=1)
    without[numbers, classes] = np.inf
    if count > 2:
        steps = np.array([generator(seed, _OTHER_CLASS, int(c)).integers(1, count) for c in classes])
        yield "random", (classes + steps) % count
        yield "second", second
        yield "lowest", without.argmin(axis=1)
    else:
        yield "second", second


def _result(
    name: str, options: dict[str, Any], check: str, curves: Mapping[str, tuple[Array, Array]], facts: Mapping[str, Any]
) -> SanityResult:
    values: dict[str, Array] = {}
    nulls: dict[str, dict[str, Array]] = {"image": {}, "network": {}}
    for key, (_, array) in curves.items():
        kind, slash, similarity = key.partition("/")
        (nulls[kind] if slash else values)[similarity or kind] = array
    return SanityResult(
        name, options, check, list(facts["steps"]), values, nulls["image"], nulls["network"], bool(facts["signed"]),
        list(facts["notes"]),
    )  # fmt: skip


__all__ = ["CHECKS", "SanityReport", "other_classes", "sanity", "signed_map"]
