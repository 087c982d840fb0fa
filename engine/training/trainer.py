"""Trains an ONNX classifier on onnxruntime: the weights of the file, or the same net from scratch.

Weights and what the optimiser keeps stay on the device between steps; only samples, loss and hits are copied.
Deterministic: the order of the samples and the first weights are drawn by the seed, so the same call on the same
machine and number of threads gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import InputError, OptionError, SessionError
from onnxplain.engine.graph.model import ModelSource, to_proto
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.inputs import validate_feeds
from onnxplain.engine.loading import Model, load
from onnxplain.engine.session.binding import Binding, Held
from onnxplain.engine.session.providers import resolve
from onnxplain.engine.session.session import Session
from onnxplain.engine.training import step as names
from onnxplain.engine.training.batch_statistics import find_layers, first_statistics, read_statistics
from onnxplain.engine.training.optimisers import Optimiser
from onnxplain.engine.training.parameters import Array, find_parameters, own_parameters
from onnxplain.engine.training.step import Graph, answer_graph, step_graph

#: Samples of one pass when accuracy is measured.
ANSWER_BATCH = 256
#: Keys of the draws that order the samples; those of first weights start at 0.
_ORDER = 1 << 20

#: Told of every epoch: epochs done, epochs wanted, the history so far.
Progress = Callable[[int, int, "History"], None]


@dataclass
class History:
    """What happened in training, one entry per epoch.

    Attributes:
        loss: Mean cross-entropy of the batches as they were learned from.
        accuracy: Share of samples answered rightly, likewise.
        rate: Learning rate.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


class Trainer:
    """Trains one classifier.

    Args:
        model: Path, bytes, proto or loaded model; it stays as it is. Its output has one score per class (a
            trailing Softmax is left out of the loss), or one score that stands for the second of two classes.
        optimiser: ``adam``, ``adamw`` or ``sgd``.
        lr: Learning rate.
        weight_decay, momentum, betas, epsilon: See :class:`onnxplain.engine.training.optimisers.Optimiser`.
        lr_every: After so many epochs the rate is multiplied by ``lr_factor``, again and again; never by default.
        lr_factor: That factor.
        frozen: Names or patterns of parameters that are not trained; a BatchNormalization of which neither scale
            nor bias is trained keeps its statistics, too.
        output: Name of the output; the first float one.
        threads: Threads inside an operator; 0 lets the runtime choose.
        providers: Execution providers.

    Attributes:
        parameters: What is trained, in the order of the flat vector.
        values: ``[P]``: the parameters as they are now; a copy of what the device holds between steps.
        statistics: Running means and variances of BatchNormalization as they are now, layer by layer.

    Raises:
        OptionError: Nothing to train, unknown names, numbers out of range, or a batch of fixed size.
        UnsupportedNodeError: A node between loss and parameters has no sound rule.
    """

    def __init__(
        self,
        model: ModelSource | Model,
        optimiser: str = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        lr_every: int | None = None,
        lr_factor: float = 0.1,
        frozen: Sequence[str] = (),
        output: str | None = None,
        threads: int = 0,
        providers: Any = None,
    ) -> None:
        if not lr > 0 or (lr_every is not None and lr_every < 1):
            raise OptionError(f"lr={lr}, lr_every={lr_every}: a rate is above 0 and lasts at least one epoch")
        loaded = load(model, threads=threads, providers=providers)
        self.optimiser = Optimiser(optimiser, weight_decay, momentum, betas, epsilon)
        self.lr, self.lr_every, self.lr_factor = lr, lr_every, lr_factor
        self._loaded, self._output = loaded, output
        self._network = loaded.canonical.clone()
        _require_open_batch(self._network)
        own_parameters(self._network)
        self.parameters = find_parameters(self._network, frozen)
        self._layers = find_layers(self._network, [p.name for p in self.parameters])
        graph = self._network.graph
        self._kept: dict[str, Array | Held] = {}
        self.values = np.concatenate(
            [_array(graph.initializers[p.name]).astype(np.float32).reshape(-1) for p in self.parameters]
        )
        self.statistics = read_statistics(self._network, self._layers)
        self.restart()

    @property
    def values(self) -> Array:
        """See the class."""
        return self._array_of(names.PARAMETERS)

    @values.setter
    def values(self, array: Array) -> None:
        self._kept[names.PARAMETERS] = array

    @property
    def statistics(self) -> Array:
        """See the class."""
        return self._array_of(names.STATISTICS)

    @statistics.setter
    def statistics(self, array: Array) -> None:
        self._kept[names.STATISTICS] = array

    def _array_of(self, stem: str) -> Array:
        """A copy that cannot be written to: what is changed in it would not reach the device."""
        kept = self._kept[stem]
        found = kept.array() if isinstance(kept, Held) else kept.copy()
        found.flags.writeable = False
        return found

    def restart(self) -> None:
        """Forget what the optimiser keeps; the weights stay."""
        size = self.values.shape
        self._kept |= {name: np.zeros(size, np.float32) for name in self.optimiser.states}
        self._count = 0

    def initialise(self, seed: int = 0) -> None:
        """Begin from scratch: weights after He et al., biases 0, scales 1, running means 0, variances 1.

        Args:
            seed: Of the weights.
        """
        drawn = [p.drawn(seed, number).reshape(-1) for number, p in enumerate(self.parameters)]
        self.values = np.concatenate(drawn).astype(np.float32)
        self.statistics = first_statistics(self._layers)
        self.restart()

    # ----- graphs ---------------------------------------------------------------------------------

    @cached_property
    def step(self) -> Graph:
        """The graph of one training step."""
        return step_graph(self._network, self.parameters, self._layers, self.optimiser, self._output)

    @cached_property
    def _training(self) -> Binding:
        session = Session(self.step.model, self._loaded.providers, threads=self._loaded.threads)
        return Binding(session, resolve(self._loaded.providers))

    @cached_property
    def _answering(self) -> tuple[Graph, Session]:
        graph = answer_graph(self._network, self.parameters, self._layers, self._output)
        return graph, Session(graph.model, self._loaded.providers, threads=self._loaded.threads)

    # ----- training -------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        epochs: int,
        batch_size: int = 64,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> History:
        """Train on from the present weights, with a fresh optimiser.

        Args:
            x: ``[N, ...]``, or arrays by input name.
            y: ``[N]``: the true classes.
            epochs: How often all samples are seen.
            batch_size: Samples of one step; the last one of an epoch takes what is left (a single sample is left
                out where there is a BatchNormalization, which has no variance then).
            seed: Of the order of the samples.
            progress: Told of every epoch.

        Returns:
            Loss, accuracy and rate per epoch.

        Raises:
            InputError: Samples or labels that do not fit the model or each other.
            OptionError: No epoch, or an empty batch.
            SessionError: Training diverged: the loss is no longer finite.
        """
        feeds, labels = self._checked(x), self._labels(y)
        count = len(labels)
        if any(len(a) != count for a in feeds.values()):
            raise InputError(
                f"there are {count} labels for {len(next(iter(feeds.values())))} samples; give one per sample"
            )
        if epochs < 1 or batch_size < 1:
            raise OptionError(f"epochs={epochs}, batch_size={batch_size}: give at least 1 of each")
        self.restart()
        history = History()
        for epoch in range(epochs):
            rate = self.lr if self.lr_every is None else self.lr * self.lr_factor ** (epoch // self.lr_every)
            order = generator(seed, _ORDER, epoch).permutation(count)
            loss, right, seen = 0.0, 0, 0
            for rows in self._batches(order, batch_size):
                found = self.advance({n: a[rows] for n, a in feeds.items()}, labels[rows], rate)
                loss, right, seen = loss + found[0] * len(rows), right + found[1], seen + len(rows)
            if not np.isfinite(loss):
                raise SessionError(
                    f"training diverged in epoch {epoch + 1}: the loss is not finite; lower lr={self.lr}, or scale the inputs"
                )
            history.loss.append(loss / seen)
            history.accuracy.append(right / seen)
            history.rate.append(rate)
            if progress is not None:
                progress(epoch + 1, epochs, history)
        return history

    def advance(self, feeds: Mapping[str, Array], labels: Array, rate: float | None = None) -> tuple[float, int]:
        """One step on one batch, unchecked; gives the loss before it, and how many answers were right."""
        kept = [names.PARAMETERS, *self.optimiser.states, *([names.STATISTICS] if self._layers else [])]
        rate = self.lr if rate is None else rate
        found, after = self._run(feeds, labels, rate, [names.LOSS, names.CORRECT], [f"{n}/{names.NEXT}" for n in kept])
        self._kept |= {n: after[f"{n}/{names.NEXT}"] for n in kept}
        self._count += 1
        return float(found[names.LOSS]), int(found[names.CORRECT])

    def gradients(self, x: Any, y: Any) -> dict[str, Array]:
        """Gradient of the mean cross-entropy of one batch with respect to every parameter, without weight decay."""
        flat = self._run(self._checked(x), self._labels(y), self.lr, [names.GRADIENT], [])[0][names.GRADIENT]
        return {p.name: flat[p.place].reshape(p.shape) for p in self.parameters}

    def _run(
        self, feeds: Mapping[str, Array], labels: Array, rate: float, wanted: Sequence[str], keep: Sequence[str]
    ) -> tuple[dict[str, Array], dict[str, Held]]:
        """One run of the step: arrays of ``wanted``, and what stays on the device of ``keep``."""
        graph, training = self.step, self._training
        self._kept = {n: a if isinstance(a, Held) else training.put(a) for n, a in self._kept.items()}
        mine: dict[str, Array | Held] = {
            names.LABELS: labels,
            names.RATE: np.asarray(rate, np.float32),
            names.STEP: np.asarray(self._count, np.int64),
            **self._kept,
        }
        # Only some optimisers ask for the number of steps; inputs that nothing reads are dropped from the graph.
        known = set(training.session.inputs)
        renamed = {graph.inputs[s]: a for s, a in mine.items() if s in graph.inputs and graph.inputs[s] in known}
        outputs = {stem: graph.outputs[stem] for stem in (*wanted, *keep)}
        found = training.run({**feeds, **renamed}, list(outputs.values()), [outputs[stem] for stem in keep])
        arrays, held = {}, {}
        for stem, name in outputs.items():
            result = found[name]
            if isinstance(result, Held):
                held[stem] = result
            else:
                arrays[stem] = result
        return arrays, held

    def _batches(self, order: Array, size: int) -> Iterator[Array]:
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            if len(rows) > 1 or not self._layers or len(order) == 1:
                yield rows

    # ----- results --------------------------------------------------------------------------------

    def answers(self, x: Any) -> Array:
        """The class that the net answers as it is now, ``[N]``."""
        graph, session = self._answering
        feeds = self._checked(x)
        mine = {names.PARAMETERS: self.values} | ({names.STATISTICS: self.statistics} if self._layers else {})
        fixed = {graph.inputs[stem]: array for stem, array in mine.items()}
        wanted = graph.outputs[names.CLASSES]
        count = len(next(iter(feeds.values())))
        parts = [
            session.run({**{n: a[i : i + ANSWER_BATCH] for n, a in feeds.items()}, **fixed}, [wanted])[wanted]
            for i in range(0, count, ANSWER_BATCH)
        ]
        return np.concatenate(parts)

    def accuracy(self, x: Any, y: Any) -> float:
        """Share of samples that the net answers rightly as it is now.

        Raises:
            InputError: Samples or labels that do not fit.
        """
        labels, found = self._labels(y), self.answers(x)
        if len(labels) != len(found):
            raise InputError(f"there are {len(labels)} labels for {len(found)} samples; give one per sample")
        return float(np.mean(found == labels))

    def weights(self) -> dict[str, Array]:
        """Every trained parameter and running statistic by name, as it is now."""
        values, statistics = self.values, self.statistics
        found = {p.name: values[p.place].reshape(p.shape) for p in self.parameters}
        for layer in self._layers:
            middle = layer.start + layer.channels
            found[layer.mean] = statistics[layer.start : middle]
            found[layer.variance] = statistics[middle : middle + layer.channels]
        return {name: array.copy() for name, array in found.items()}

    @property
    def untrained(self) -> list[str]:
        """Constants of floats, of more than one element, that stay what they are in the file: also from scratch."""
        trained = set(self.weights())
        return [
            name
            for name, value in self._network.graph.initializers.items()
            if name not in trained and is_float(value) and value.uses() and _array(value).size > 1
        ]

    def model(self) -> onnx.ModelProto:
        """The network with its present weights: the model's inputs and outputs, for inference."""
        network = self._network.clone()
        for name, array in self.weights().items():
            network.graph.initializers[name].const_value = ir.tensor(array, name=name)
        return to_proto(network)

    # ----- data -----------------------------------------------------------------------------------

    def _checked(self, x: Any) -> dict[str, Array]:
        declared = self._loaded.declared()
        if not isinstance(x, Mapping):
            if len(declared) != 1:
                raise InputError(f"the model takes {', '.join(declared)}; give arrays by name")
            x = {next(iter(declared)): x}
        return {n: np.ascontiguousarray(a) for n, a in validate_feeds(x, declared).items()}

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        graph, _ = self._answering
        value = next(v for v in graph.model.graph.outputs if v.name == graph.outputs[names.LOGITS])
        assert value.shape is not None
        return int(value.shape[1])  # type: ignore[arg-type]

    def _labels(self, y: Any) -> Array:
        labels = np.asarray(y)
        if labels.ndim != 1 or labels.dtype.kind not in "iub":
            raise InputError(
                f"labels of shape {labels.shape} and type {labels.dtype} are no classes; give whole numbers [N]"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            raise InputError(
                f"labels go from {labels.min()} to {labels.max()}, and the model has the classes 0 to {self.classes - 1}"
            )
        return labels.astype(np.int64)


def _require_open_batch(network: ir.Model) -> None:
    for value in network.graph.inputs:
        if value.shape is not None and len(value.shape) and isinstance(value.shape[0], int):
            raise OptionError(
                f"input '{value.name}' has a fixed batch of {value.shape[0]}; export the model with an open one to train it"
            )


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())
