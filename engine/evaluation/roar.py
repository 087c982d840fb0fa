"""Remove and retrain (ROAR), keep and retrain (KAR): does a net still learn when a method's best places are gone?

For every method and share, training and test samples lose their most salient places (KAR: all others); a net of the
same form is trained from scratch on what is left, several times. The faster its accuracy falls, the more the method
knew (Hooker et al. 2019, arXiv 1806.10758). Training needs onnxruntime only (:mod:`onnxplain.engine.training`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import InputError, OptionError, OutputError
from onnxplain.engine.evaluation.data import Dataset, as_dataset
from onnxplain.engine.evaluation.degrade import MODES, Mode, channel_means, degraded, maps, order
from onnxplain.engine.evaluation.evaluate import Choice
from onnxplain.engine.evaluation.reference import REFERENCES
from onnxplain.engine.evaluation.roar_report import RoarReport, Run
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.explanation import Array, jsonable
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.loading import Model, load
from onnxplain.engine.method import METHODS
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.render.png import write_bytes
from onnxplain.engine.session.runtime import versions
from onnxplain.engine.training.trainer import Trainer

#: Told (done, total, words) as the work goes on; a training is one step.
Progress = Callable[[int, int, str], None]

#: Shares of the authors.
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Recipe:
    """How every net is trained; see :class:`onnxplain.engine.training.trainer.Trainer`."""

    epochs: int = 20
    batch_size: int = 64
    optimiser: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    lr_every: int | None = None
    lr_factor: float = 0.1

    def trainer(self, model: Model, output: str | None = None, frozen: Sequence[str] = ()) -> Trainer:
        """A trainer of this recipe."""
        return Trainer(
            model, self.optimiser, self.lr, self.weight_decay, momentum=self.momentum,
            lr_every=self.lr_every, lr_factor=self.lr_factor, frozen=frozen, output=output,
        )  # fmt: skip


def roar(
    model: ModelSource | Model,
    train: Any,
    test: Any = None,
    *,
    methods: Choice = ("gradient", "input_x_gradient", "fullgrad", "random", "edges"),
    fractions: Sequence[float] = FRACTIONS,
    modes: Sequence[Mode] = ("roar",),
    seeds: int | Sequence[int] = 3,
    recipe: Recipe | None = None,
    test_share: float = 0.2,
    absolute: bool = False,
    frozen: Sequence[str] = (),
    output: str | None = None,
    head: str | None = None,
    layout: str = "auto",
    seed: int = 0,
    folder: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RoarReport:
    """Remove (or keep) what methods find most salient, retrain from scratch, and see how well that goes.

    Maps explain the original net's own answers to the whole samples; they are made once. Places go in all channels
    together, and the mean of the training set stands there instead.

    Args:
        model: Path, bytes, proto or loaded model with one float input: the net that is explained, and the form of
            those that are trained.
        train: Samples with labels: see :func:`onnxplain.engine.evaluation.data.as_dataset`.
        test: The same; without it, a part of ``train`` that the seed draws.
        methods: Names from :func:`onnxplain.methods`, with options if wanted; ``random`` and ``edges`` know
            nothing of the net.
        fractions: Shares of the places, between 0 and 1.
        modes: ``roar`` (remove), ``kar`` (keep alone); ``mask`` shows the nets nothing but which places went, and so
            how much of a class its holes tell: where that is much, ROAR says little.
        seeds: How many trainings, or the seeds of them.
        recipe: How every net is trained.
        test_share: The part of ``train`` that becomes the test set where none is given.
        absolute: Rank places by magnitude; else by the map as the method gives it.
        frozen: Parameters that keep the original's weights: see the trainer.
        output, head, layout: What is explained, and the input's axes.
        seed: Of maps, ties and the split.
        folder: Where maps and accuracies are kept, so that an interrupted run goes on where it was.
        threads: Threads inside an operator.
        progress: Told of every map and training.

    Raises:
        OptionError: Unknown method or option, numbers out of range, or a net that cannot be trained.
        InputError: Samples without labels, or that do not fit the model.
        SessionError: A training diverged.
    """
    shares, kinds, numbers = _checked(fractions, modes, seeds)
    recipe = recipe or Recipe()
    loaded = load(model, threads=threads or 0)
    scorer = Scorer(loaded, output, layout=layout)
    learned, unseen = _split(
        as_dataset(train, scorer), None if test is None else as_dataset(test, scorer), test_share, seed
    )
    chosen = [(n, dict(o)) for n, o in (methods.items() if hasattr(methods, "items") else ((m, {}) for m in methods))]
    for name, _ in chosen:
        if name not in REFERENCES:
            METHODS.get(name)
    explained = {"output": output, "head": head, "layout": layout}
    work = _Work(loaded, scorer, learned, unseen, recipe, tuple(frozen), seed, absolute, explained, _Store(folder))
    total = len(numbers) * (1 + len(chosen) * len(kinds) * len(shares))
    work.tell = _counting(progress, total)
    start = time.perf_counter()
    clean = [work.accuracy("clean", s, learned.x, unseen.x) for s in numbers]
    runs = [run for name, options in chosen for run in work.method(name, options, shares, kinds, numbers)]
    return RoarReport(runs, clean, work.original(unseen.x), work.provenance(chosen, shares, numbers, start))


def _counting(progress: Progress | None, total: int) -> Callable[[str, int], None]:
    done = 0

    def tell(words: str, more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total, words)

    return tell


def _checked(
    fractions: Sequence[float], modes: Sequence[Mode], seeds: int | Sequence[int]
) -> tuple[list[float], list[Mode], list[int]]:
    shares = sorted({float(t) for t in fractions})
    if not shares or not 0 < shares[0] <= shares[-1] < 1:
        raise OptionError(f"fractions={list(fractions)}: give shares between 0 and 1, such as 0.1, 0.5, 0.9")
    if not modes or set(modes) - set(MODES):
        raise OptionError(f"modes={list(modes)}: choose from {', '.join(MODES)}")
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if not numbers or min(numbers) < 0:
        raise OptionError(f"seeds={seeds}: give the number of trainings, or their seeds")
    return shares, list(dict.fromkeys(modes)), numbers


def _split(train: Dataset, test: Dataset | None, share: float, seed: int) -> tuple[Dataset, Dataset]:
    for part in (train, test):
        if part is not None and part.labels is None:
            raise InputError("retraining needs the samples' true classes; give y (labels) with the data")
    if test is not None:
        return train, test
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise OptionError(
            f"test_share={share} of {len(train)} samples leaves none to train on or to test; give test data"
        )
    rows = generator(seed, 1 << 21).permutation(len(train))
    return train.subset(np.sort(rows[count:])), train.subset(np.sort(rows[:count]))


class _Work:
    """Maps, degraded data and trainings of one evaluation."""

    def __init__(
        self,
        model: Model,
        scorer: Scorer,
        train: Dataset,
        test: Dataset,
        recipe: Recipe,
        frozen: tuple[str, ...],
        seed: int,
        absolute: bool,
        explained: dict[str, Any],
        store: _Store,
    ) -> None:
        self.model, self.scorer, self.train, self.test = model, scorer, train, test
        self.recipe, self.seed, self.absolute, self.explained, self.store = recipe, seed, absolute, explained, store
        self.trainer = recipe.trainer(model, explained["output"], frozen)
        self.tell: Callable[[str, int], None] = lambda words, more: None
        self.places = list(spatial_axes(scorer.labels).values())
        self.classes = [scorer.classes(part.x) for part in (train, test)]
        self.fill = channel_means(train.x, self.places)
        arrays = (train.x, train.labels, test.x, test.labels)
        self._data = _digest(model.source.sha256, *arrays, explained, seed, versions())
        self._training = _digest(self._data, asdict(recipe), frozen)

    def method(
        self, name: str, options: dict[str, Any], shares: Sequence[float], modes: Sequence[Mode], seeds: Sequence[int]
    ) -> Iterator[Run]:
        """All trainings for one method; maps are made only where a training is not known yet."""
        ranked: list[Array] = []
        for mode in modes:
            for share in shares:
                key = _digest(self._training, name, options, mode, share, self.absolute)
                known = [self.store.get(f"{name}.{mode}.{share:g}.{s}", key) for s in seeds]
                pair: list[Array] = []
                if not all(known):
                    ranked = ranked or self._ranked(name, options)
                    pair = [
                        degraded(part.x, rows, share, self.fill, self.places, mode)
                        for part, rows in zip((self.train, self.test), ranked, strict=True)
                    ]
                for s, found in zip(seeds, known, strict=True):
                    if found is None:
                        accuracy = self._trained(f"{name}, {mode} {share:.0%}, training {s}", s, *pair)
                        found = {"accuracy": accuracy, "without_retraining": self.original(pair[1])}
                        self.store.put(f"{name}.{mode}.{share:g}.{s}", key, found)
                    else:
                        self.tell("", 1)
                    yield Run(name, mode, share, s, **found)

    def accuracy(self, name: str, seed: int, train: Array, test: Array) -> float:
        """Accuracy of a net that was trained on whole samples."""
        found = self.store.get(f"{name}.{seed}", self._training)
        if found is None:
            found = {"accuracy": self._trained(f"whole samples, training {seed}", seed, train, test)}
            self.store.put(f"{name}.{seed}", self._training, found)
        else:
            self.tell("", 1)
        return found["accuracy"]

    def original(self, x: Array) -> float:
        """Accuracy of the original net."""
        return float(np.mean(self.scorer.classes(x) == self.test.labels))

    def _trained(self, words: str, seed: int, train: Array, test: Array) -> float:
        self.tell(words, 0)
        name = self.scorer.name
        self.trainer.initialise(seed)
        self.trainer.fit({name: train}, self.train.labels, self.recipe.epochs, self.recipe.batch_size, seed)
        self.tell(words, 1)
        return self.trainer.accuracy({name: test}, self.test.labels)

    def _ranked(self, name: str, options: dict[str, Any]) -> list[Array]:
        """Places of training and test samples, the most salient first."""
        key = _digest(self._data, name, options)
        known = self.store.arrays(f"{name}.maps", key)
        if known is None:
            known = []
            for i, part in enumerate((self.train, self.test)):
                self.tell(f"{name}: maps of {len(part)} {'test' if i else 'training'} samples", 0)
                settings = {"part": i, "seed": self.seed, **self.explained}
                known.append(maps(self.model, self.scorer, part.x, self.classes[i], name, options, **settings))
            self.store.put_arrays(f"{name}.maps", key, known)
        return [order(values, i, self.seed, absolute=self.absolute) for i, values in enumerate(known)]

    def provenance(
        self, methods: Sequence[tuple[str, dict[str, Any]]], shares: Sequence[float], seeds: Sequence[int], start: float
    ) -> dict[str, Any]:
        """What was done."""
        return {
            "model": self.model.source.name,
            "model_sha256": self.model.source.sha256,
            "versions": versions(),
            "methods": {name: jsonable(options) for name, options in methods},
            "fractions": list(shares),
            "training_samples": len(self.train),
            "test_samples": len(self.test),
            "recipe": asdict(self.recipe),
            "parameters": len(self.trainer.values),
            "untrained": self.trainer.untrained,
            "ranking": "absolute" if self.absolute else "as the method gives it",
            "explained": self.explained["head"] or "logit",
            "seeds": list(seeds),
            "seed": self.seed,
            "seconds": round(time.perf_counter() - start, 1),
        }


def _digest(*parts: Any) -> str:
    """A short name for exactly these arrays and settings."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(jsonable(part), sort_keys=True).encode())
    return digest.hexdigest()[:16]


class _Store:
    """Maps and accuracies on disk, found again only for the same model, data and settings."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder is not None else None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make '{self.folder}': {error.strerror}; choose another place") from None

    def get(self, name: str, key: str) -> dict[str, float] | None:
        """Numbers of an earlier run."""
        if self.folder is None:
            return None
        try:
            content = json.loads((self.folder / f"{name}.{key}.json").read_text())
            return {str(k): float(v) for k, v in content.items()}
        except (OSError, ValueError, AttributeError):
            return None  # not there, or half a file from a machine that stopped

    def put(self, name: str, key: str, numbers: dict[str, float]) -> None:
        """Keep numbers."""
        if self.folder is not None:
            write_bytes(self.folder / f"{name}.{key}.json", (json.dumps(numbers) + "\n").encode())

    def arrays(self, name: str, key: str) -> list[Array] | None:
        """Maps of an earlier run."""
        if self.folder is None:
            return None
        try:
            with np.load(self.folder / f"{name}.{key}.npz", allow_pickle=False) as file:
                return [file["train"], file["test"]]
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def put_arrays(self, name: str, key: str, pair: Sequence[Array]) -> None:
        """Keep maps."""
        if self.folder is not None:
            import io

            buffer = io.BytesIO()
            np.savez_compressed(buffer, train=pair[0], test=pair[1])
            write_bytes(self.folder / f"{name}.{key}.npz", buffer.getvalue())


__all__ = ["FRACTIONS", "Recipe", "RoarReport", "roar"]
