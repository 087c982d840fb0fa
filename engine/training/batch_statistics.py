"""BatchNormalization as it is trained: by the statistics of the batch, whose running means are kept.

The node is given the batch's own mean and variance, and their share in the derivative with it. With x̂ = (x − m) r,
r = 1/√(v + ε), n values per channel and Σ over them: ``dB = Σ dy``, ``ds = Σ dy x̂``, ``dx = s r (dy − dB/n − x̂ ds/n)``.
(The operator's own training mode is not used: onnxruntime 1.31 mixes its two statistics up where their old values are
one constant, and has no kernel for it on other providers.)

Running variances take the unbiased variance of the batch (n/(n − 1) of it), as training frameworks do, although
the operator's own text says otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxplain.engine.backward import Lookup, gradients
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import constant, rank
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import ZERO, Contribution, Entry, GradientRule
from onnxplain.engine.rules.windows import channelwise
from onnxplain.engine.training.parameters import Array, fixed_shape


@dataclass(frozen=True)
class Layer:
    """One BatchNormalization with statistics that are learned.

    Attributes:
        mean, variance: Names of its running statistics in the network's graph.
        channels: Their length.
        keeps: Share of a running statistic that a step keeps.
        start: Where its mean begins in the flat vector of all statistics; the variance follows.
    """

    mean: str
    variance: str
    channels: int
    keeps: float
    start: int


def is_normalisation(node: ir.Node) -> bool:
    """Whether a node is a BatchNormalization by stored statistics."""
    return node.op_type == "BatchNormalization" and node.domain == "" and constant(node.inputs[3]) is not None


def _channels(node: ir.Node) -> int:
    mean = node.inputs[3]
    assert mean is not None
    return fixed_shape(mean)[0]


def find_layers(model: ir.Model, trained: Sequence[str]) -> list[Layer]:
    """The layers that take part: those of which scale or bias is trained."""
    layers: list[Layer] = []
    start = 0
    for node in model.graph:
        names = [v.name or "" for v in node.inputs if v is not None]
        if not is_normalisation(node) or not set(names[1:3]) & set(trained):
            continue
        channels = _channels(node)
        layers.append(Layer(names[3], names[4], channels, float(node.attributes["momentum"].value), start))
        start += 2 * channels
    return layers


def read_statistics(model: ir.Model, layers: Sequence[Layer]) -> Array:
    """The running statistics that stand in the graph, as one vector."""
    values = [constant(model.graph.initializers[name]) for layer in layers for name in (layer.mean, layer.variance)]
    return np.concatenate([np.zeros(0, np.float32), *(np.asarray(v, np.float32).reshape(-1) for v in values)])


def first_statistics(layers: Sequence[Layer]) -> Array:
    """Those before training: mean 0, variance 1."""
    values = [np.full(layer.channels, v, np.float32) for layer in layers for v in (0.0, 1.0)]
    return np.concatenate([np.zeros(0, np.float32), *values])


@dataclass(frozen=True)
class Batch:
    """What one layer sees of a batch.

    Attributes:
        x: What is normalised.
        centred: x less its mean per channel.
        mean, variance: ``[C]``.
    """

    x: ir.Value
    centred: ir.Value
    mean: ir.Value
    variance: ir.Value


def switch(op: Builder, graph: ir.Graph, layers: Sequence[Layer]) -> dict[ir.Node, Batch]:
    """Let the layers normalise by the batch; gives its statistics by node, in the order of the layers.

    What computes them stands at the end of the graph, which has to be sorted afterwards.
    """
    wanted = {layer.mean for layer in layers}
    found = {}
    for node in list(graph):
        if not is_normalisation(node) or node.inputs[3] is None or node.inputs[3].name not in wanted:
            continue
        x, total = node.inputs[0], rank(node.inputs[0]) if node.inputs[0] is not None else None
        if x is None or total is None:
            raise UnsupportedNodeError(
                label(node),
                describe(node),
                "the rank of its operand is known only at run time",
                "fix the inputs' ranks",
            )
        found[node] = _measured(op, x, total, _channels(node))
        node.replace_input_with(3, found[node].mean)
        node.replace_input_with(4, found[node].variance)
    return found


def _measured(op: Builder, x: ir.Value, total: int, channels: int) -> Batch:
    axes = [a for a in range(total) if a != 1]
    mean = op.ReduceMean(x, axes, keepdims=0)
    mean.shape = ir.Shape([channels])
    centred = op.Sub(x, channelwise(op, mean, max(total - 2, 0)))
    centred.shape = x.shape
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=0)
    variance.shape = mean.shape
    return Batch(x, centred, mean, variance)


def running(op: Builder, layers: Sequence[Layer], batches: Iterable[Batch], before: ir.Value) -> ir.Value:
    """The running statistics after a step, as one vector like ``before``."""
    own: list[ir.Value] = []
    for layer, batch in zip(layers, batches, strict=True):
        count = _count(op, batch.x, layer.channels)
        own += [batch.mean, op.Mul(batch.variance, op.Div(count, op.Max(op.Sub(count, 1.0), 1.0)))]
    keeps = np.concatenate([np.full(2 * layer.channels, layer.keeps, np.float32) for layer in layers])
    return op.Add(op.Mul(before, keeps), op.Mul(op.Concat(*own, axis=0), 1 - keeps))


def _count(op: Builder, x: ir.Value, channels: int) -> ir.Value:
    """Values per channel."""
    return op.Cast(op.Div(op.Size(x), channels), to=ir.DataType.FLOAT.value)


def lookup_with(batches: Mapping[ir.Node, Batch]) -> Lookup:
    """Gradient rules, with one of its own for the layers that normalise by the batch."""

    def lookup(node: Primal, opset: int) -> Entry[GradientRule] | None:
        batch = batches.get(node.ir)
        return gradients(node, opset) if batch is None else Entry(functools.partial(_gradient, batch))

    return lookup


def _gradient(batch: Batch, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """See the module's text: what comes by way of the statistics is part of dx."""
    total = node.rank()
    axes = [a for a in range(total) if a != 1]
    spread = functools.partial(channelwise, op, spatial_axes=max(total - 2, 0))
    r = op.Reciprocal(op.Sqrt(op.Add(batch.variance, float(node.attribute("epsilon", 1e-5)))))
    r.shape = batch.variance.shape
    plain = op.ReduceSum(dy, axes, keepdims=0)
    along = op.Mul(op.ReduceSum(op.Mul(dy, batch.centred), axes, keepdims=0), r)

    def to_x() -> ir.Value:
        count = op.Cast(op.Div(op.Size(node.x()), op.Size(batch.mean)), to=ir.DataType.FLOAT.value)
        factor = op.Mul(node.x(1), r)
        slope = op.Div(op.Mul(op.Mul(factor, r), along), count)
        shift = op.Div(op.Mul(factor, plain), count)
        return op.Sub(op.Mul(dy, spread(factor)), op.Add(op.Mul(batch.centred, spread(slope)), spread(shift)))

    return [to_x, along, plain, ZERO, ZERO]
