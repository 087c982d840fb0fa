"""The graphs of training: one step (forward, loss, reverse walk, update), and the answers of the net being trained.

All parameters are one flat input, cut into the layers' shapes inside; so are the running statistics and what the
optimiser keeps. What a step returns is what the next one takes, and both graphs are ordinary ONNX models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.heads import explained_value, trailing_activation
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.training.batch_statistics import Layer, lookup_with, running, switch
from onnxplain.engine.training.optimisers import Optimiser
from onnxplain.engine.training.parameters import Parameter

#: Stems of the inputs beside the network's own.
PARAMETERS, STATISTICS, LABELS, RATE, STEP = "parameters", "statistics", "labels", "learning_rate", "step"
#: Stems of the outputs; what is learned comes back as its input's name with this behind it.
NEXT, LOSS, CORRECT, GRADIENT, LOGITS, CLASSES = "next", "loss", "correct", "gradient", "logits", "classes"


@dataclass(frozen=True)
class Graph:
    """A finished graph.

    Attributes:
        model: The graph.
        inputs: Real name per stem of the added inputs.
        outputs: Real name per stem of the outputs.
    """

    model: ir.Model
    inputs: dict[str, str]
    outputs: dict[str, str]


class _Draft:
    """A graph that is being built, with parameters and statistics as inputs."""

    def __init__(
        self, network: ir.Model, parameters: Sequence[Parameter], layers: Sequence[Layer], *, training: bool
    ) -> None:
        self.rewriter = Rewriter(network)
        self.op: Builder = self.rewriter.op
        self.batch = switch(self.op, self.rewriter.graph, layers) if training else {}
        self.inputs: dict[str, str] = {}
        self.outputs: dict[str, str] = {}
        self.flat = self.input(PARAMETERS, ir.DataType.FLOAT, [sum(p.size for p in parameters)])
        self.pieces = self._cut(self.flat, [(p.name, p.shape) for p in parameters])
        self.statistics: ir.Value | None = None
        if layers:
            sizes = [(name, (layer.channels,)) for layer in layers for name in (layer.mean, layer.variance)]
            self.statistics = self.input(STATISTICS, ir.DataType.FLOAT, [sum(s[0] for _, s in sizes)])
            self._cut(self.statistics, sizes)
        common.TopologicalSortPass()(self.rewriter.model)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = self.rewriter.add_input(name, dtype, shape)
        self.inputs[name] = value.name or name
        return value

    def output(self, name: str, value: ir.Value, shape: Sequence[int | str | None]) -> None:
        self.outputs[name] = self.rewriter.add_output(name, value, shape)

    def _cut(self, flat: ir.Value, wanted: Sequence[tuple[str, tuple[int, ...]]]) -> list[ir.Value]:
        """Put the pieces of a flat vector where initializers of these names and shapes were."""
        op, graph = self.op, self.rewriter.graph
        sizes = [int(np.prod(shape)) for _, shape in wanted]
        parts = op.emit("Split", [flat, op.constant(sizes, ir.DataType.INT64)], outputs=len(sizes), axis=0)
        pieces = []
        for (name, shape), part in zip(wanted, parts, strict=True):
            old = graph.initializers[name]
            piece = op.Reshape(part, op.constant(list(shape), ir.DataType.INT64)) if len(shape) != 1 else part
            piece.type, piece.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
            old.replace_all_uses_with(piece)
            del graph.initializers[name]
            pieces.append(piece)
        return pieces

    def logits(self, output: str | None) -> ir.Value:
        """``[N, K]``, K at least 2: a single score stands against one that is zero.

        Raises:
            OptionError: The output has no classes, or each class is a question of its own.
        """
        op = self.op
        value = self.rewriter.output_value(output)
        known = dims(value)
        ending, _ = trailing_activation(value)
        width = (
            int(np.prod([d for d in known[1:] if isinstance(d, int)])) if known is not None and len(known) > 1 else 1
        )
        if known is None or not known or any(not isinstance(d, int) for d in known[1:]):
            raise OptionError(f"output '{value.name}' has no fixed number of classes; choose another with output=")
        if ending is not None and ending.op_type == "Sigmoid" and width > 1:
            raise OptionError(
                f"output '{value.name}' ends in a Sigmoid: several classes at once; training is for one class per sample"
            )
        scores = explained_value(op, value, "logit")
        flat = (
            op.Flatten(scores, axis=1) if len(known) > 2 else op.Unsqueeze(scores, [1]) if len(known) == 1 else scores
        )
        flat.shape = ir.Shape([known[0], width])
        if width == 1:
            flat = op.Concat(op.Mul(flat, 0.0), flat, axis=1)
            flat.shape = ir.Shape([known[0], 2])
        return flat

    def finish(self) -> Graph:
        """Drop the network's own outputs, and what only they need."""
        graph = self.rewriter.graph
        kept = [v for v in graph.outputs if v.name in self.outputs.values()]
        graph.outputs.clear()
        graph.outputs.extend(kept)
        return Graph(self.rewriter.finish(), self.inputs, self.outputs)


def answer_graph(
    network: ir.Model, parameters: Sequence[Parameter], layers: Sequence[Layer], output: str | None
) -> Graph:
    """The network with its parameters as an input: scores and the class of the largest, by stored statistics."""
    draft = _Draft(network, parameters, layers, training=False)
    logits = draft.logits(output)
    width = (dims(logits) or (None, None))[1]
    draft.output(LOGITS, logits, ["N", width])
    draft.output(CLASSES, draft.op.ArgMax(logits, axis=1, keepdims=0), ["N"])
    return draft.finish()


def step_graph(
    network: ir.Model,
    parameters: Sequence[Parameter],
    layers: Sequence[Layer],
    optimiser: Optimiser,
    output: str | None,
) -> Graph:
    """One training step.

    It takes the network's inputs, ``labels`` (int64 ``[N]``), ``parameters``, ``statistics`` (where there is a
    BatchNormalization), what the optimiser keeps, ``learning_rate`` and ``step`` (int64, the number of steps so
    far); it returns the last four as they are afterwards (``parameters/next``, ...), ``loss`` (mean cross-entropy,
    without the penalty of weight decay), ``correct`` (how many samples were answered rightly) and ``gradient``.

    Raises:
        UnsupportedNodeError: A node between loss and parameters has no sound rule.
        BlockedGradientError: No gradient reaches any parameter.
        OptionError: The output has no classes.
    """
    draft = _Draft(network, parameters, layers, training=True)
    labels = draft.input(LABELS, ir.DataType.INT64, ["N"])
    gradient = _loss_and_gradient(draft, draft.logits(output), labels)
    _update(draft, parameters, optimiser, gradient)
    if draft.statistics is not None:
        after = running(draft.op, layers, draft.batch.values(), draft.statistics)
        draft.output(f"{STATISTICS}/{NEXT}", after, dims(draft.statistics) or [None])
    return draft.finish()


def _loss_and_gradient(draft: _Draft, logits: ir.Value, labels: ir.Value) -> ir.Value:
    """Append mean cross-entropy and its gradient with respect to all parameters, ``[P]``."""
    op = draft.op
    width = (dims(logits) or (None, 0))[1]
    scores = op.LogSoftmax(logits, axis=1)
    scores.shape = logits.shape
    truth = op.OneHot(
        labels, op.constant(width, ir.DataType.INT64), op.constant([0.0, 1.0], ir.DataType.FLOAT), axis=-1
    )
    count = op.Cast(op.Size(labels), to=ir.DataType.FLOAT.value)
    cotangent = op.Neg(op.Div(truth, count))
    cotangent.shape = logits.shape
    draft.output(LOSS, op.ReduceSum(op.Mul(scores, cotangent), [0, 1], keepdims=0), [])
    right = op.Cast(op.Equal(op.ArgMax(logits, axis=1, keepdims=0), labels), to=ir.DataType.INT64.value)
    draft.output(CORRECT, op.ReduceSum(right, [0], keepdims=0), [])
    adjoints = draft.rewriter.backward_from({scores: cotangent}, draft.pieces, lookup_with(draft.batch))
    parts = [adjoints.of[v] if v in adjoints.of else zeros_like(op, v) for v in draft.pieces]
    rows = [op.Reshape(part, [-1]) for part in parts]
    return op.Concat(*rows, axis=0) if len(rows) > 1 else rows[0]


def _update(draft: _Draft, parameters: Sequence[Parameter], optimiser: Optimiser, gradient: ir.Value) -> None:
    op, total = draft.op, [sum(p.size for p in parameters)]
    states = [draft.input(name, ir.DataType.FLOAT, total) for name in optimiser.states]
    rate = draft.input(RATE, ir.DataType.FLOAT, [])
    number = op.Add(draft.input(STEP, ir.DataType.INT64, []), 1)
    weights, kept = optimiser.update(op, draft.flat, gradient, states, rate, number)
    draft.output(f"{PARAMETERS}/{NEXT}", weights, total)
    for name, value in zip(optimiser.states, kept, strict=True):
        draft.output(f"{name}/{NEXT}", value, total)
    draft.output(f"{STEP}/{NEXT}", number, [])
    draft.output(GRADIENT, gradient, total)
