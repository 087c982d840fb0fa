"""The full-gradient identity as graph outputs: one total per node bias, and what belongs to it.

``f(x) = <grad_x f, x> + sum_v <a_v, c_v>`` with the node bias ``c_v = h_v(p) - sum_k J_k p_k`` (FullGrad,
arXiv 1905.00780, with every operator's own bias in place of the network's parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.axes import Unfolding, names, unfolding
from onnxplain.engine.backward import Adjoints
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.forms import dot
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import describe
from onnxplain.engine.graph.shapes import Dim, Dims, dims, same
from onnxplain.engine.places import Labels, find_places, spatial_axes
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import BIAS, Bias, BiasKind, BiasRule, Entry

#: Finds the bias rule for a node; None means that there is none.
BiasLookup = Callable[[Primal, int], Entry[BiasRule] | None]


def biases(node: Primal, opset: int) -> Entry[BiasRule] | None:
    """The lookup of the biases that belong to plain gradients."""
    return BIAS.find(node.domain, node.op_type, node.version(opset))


@dataclass(frozen=True)
class Term:
    """One bias term ``<a_v, c_v>``.

    Attributes:
        node: Name of the forward node.
        operator: Its operator.
        kind: ``explicit`` (a parameter or another added constant) or ``implicit`` (non-linearity).
        parameter: Name of the parameter, where it has one.
        tensor: Name of the tensor that the bias is part of.
        unfolding: How that tensor is brought to one axis per place of the attributed input; None where it has not
            got all of them, once each.
        adjoint, bias: The two factors, in the graph.
        factor: A number still to be multiplied with the bias.
        source: An attributed tensor, whose first axis is the batch.
        labels: The tensor's axes.
    """

    node: str
    operator: str
    kind: BiasKind
    parameter: str
    tensor: str
    unfolding: Unfolding | None
    adjoint: ir.Value
    bias: ir.Value
    labels: Labels
    factor: float
    source: ir.Value

    @property
    def placed(self) -> bool:
        """Whether the term has a place in the attributed input."""
        return self.unfolding is not None

    def total(self, op: Builder) -> ir.Value:
        """Emit ``<a, c>`` per sample, ``[N, 1]``."""
        result = self._per_sample(op)
        return result if self.factor == 1.0 else op.Mul(result, self.factor)

    def _per_sample(self, op: Builder) -> ir.Value:
        known, batch = dims(self.adjoint), (dims(self.source) or (None,))[0]
        axis = batch_axis(self.labels, known, batch)
        if axis == 0 and known is not None and same(known[0], batch):
            return inner(op, self.adjoint, self.bias)
        if axis:  # time-major nets and their like: the batch comes to the front
            product = op.Mul(self.adjoint, self.bias)
            order = [axis, *[i for i in range(len(known or ())) if i != axis]]
            return op.ReduceSum(op.Flatten(op.Transpose(product, perm=order), axis=1), [1], keepdims=1)
        # The batch is joined with other axes (attention heads) or lost from sight. Rows of one sample stand
        # together where it is the outermost; anything else shows in the residual.
        rows = inner(op, self.adjoint, self.bias)
        count = op.Slice(op.Shape(self.source), [0], [1])
        return op.ReduceSum(op.Reshape(rows, op.Concat(count, [-1], axis=0)), [1], keepdims=1)

    def full_bias(self, op: Builder) -> ir.Value:
        """Emit the bias c itself."""
        return Bias(self.bias, self.kind, factor=self.factor).full(op)

    def product(self, op: Builder) -> ir.Value:
        """Emit ``a * c`` in the tensor's shape."""
        result = op.Mul(self.adjoint, self.full_bias(op))
        result.shape = self.adjoint.shape
        return result

    def placed_total(self, op: Builder) -> ir.Value | None:
        """Emit what of the term has a place, ``[N, 1]``; None where that is all or nothing of it."""
        if self.unfolding is None or not self.unfolding.partial:
            return None
        return op.ReduceSum(op.Flatten(self.unfolding.apply(op, self.product(op)), axis=1), [1], keepdims=1)


def bias_terms(
    op: Builder, adjoints: Adjoints, sources: dict[ir.Value, Labels], lookup: BiasLookup = biases
) -> list[Term]:
    """All bias terms of a reverse sweep, in forward order.

    Args:
        op: Where to emit.
        adjoints: The sweep.
        sources: The attributed tensors with their axes.
        lookup: The bias rules that belong to the sweep's own rules; those of plain gradients by default.

    Raises:
        UnsupportedNodeError: An operator has a gradient rule and no bias rule.
    """
    places = find_places(adjoints.path.nodes, sources)
    wanted = {name for labels in sources.values() for name in spatial_axes(labels)}
    spatial_input = any(len(labels) > 2 for labels in sources.values())
    terms = []
    for node in adjoints.nodes:
        for part in _node_bias(op, node, lookup):
            tensor = node.outputs[part.output]
            adjoint = adjoints.of.get(tensor)
            if adjoint is None:
                continue
            labels = places.get(tensor, ())
            way = placing(tensor, labels, wanted) if spatial_input else None
            terms.append(
                Term(
                    node=node.name,
                    operator=describe(node.ir),
                    kind=part.kind,
                    parameter=part.name,
                    tensor=tensor.name or "",
                    unfolding=way,
                    adjoint=adjoint,
                    bias=part.value,
                    labels=labels,
                    factor=part.factor,
                    source=next(iter(sources)),
                )
            )
    return terms


def placing(value: ir.Value, labels: Labels, wanted: set[str]) -> Unfolding | None:
    """How a tensor is brought to one axis per place; None where it has not got each wanted place once."""
    found = names(labels)
    return unfolding(labels, dims(value)) if all(found[name] == 1 for name in wanted) else None


def batch_axis(labels: Labels, known: Dims | None, batch: Dim) -> int:
    """Which axis is the batch: by labels, else by the batch's symbol, else the first."""
    if "batch" in labels:
        return labels.index("batch")
    if known is not None and isinstance(batch, str) and known.count(batch) == 1:
        return known.index(batch)
    return 0


def _node_bias(op: Builder, node: Primal, lookup: BiasLookup) -> list[Bias]:
    entry = lookup(node, op.opset)
    if entry is None:
        raise UnsupportedNodeError(
            node.name, describe(node.ir), "there is no bias rule for this operator", "use a method without bias terms"
        )
    return list(entry.rule(op, node))


def inner(op: Builder, a: ir.Value, c: ir.Value) -> ir.Value:
    """Per sample inner product ``<a, c>`` as ``[N, 1]``, where c broadcasts against a.

    Where c is known to be constant along axes, a is summed over those first, so that a channel's bias
    costs one pass over the adjoint and no product of its size.
    """
    full, part = dims(a), dims(c)
    if full is not None and full == part and None not in full:
        return dot(op, a, c)
    axes = constant_axes(part, full)
    if full is not None and axes and axes == list(range(2, len(full))) and isinstance(full[1], int):
        sums = op.ReduceSum(a, axes, keepdims=0)
        if part is not None and len(full) - len(part) in (0, 1) and (len(part) < len(full) or part[0] == 1):
            return op.MatMul(sums, op.Reshape(c, [full[1], 1]))
        return op.ReduceSum(op.Flatten(op.Mul(sums, op.Flatten(c, axis=1)), axis=1), [1], keepdims=1)
    if axes:
        a = op.ReduceSum(a, axes, keepdims=1)
    return op.ReduceSum(op.Flatten(op.Mul(a, c), axis=1), [1], keepdims=1)


def constant_axes(part: Dims | None, full: Dims | None) -> list[int]:
    """Axes of ``full``, the batch excepted, along which a broadcast operand is known not to vary."""
    if part is None or full is None or len(part) > len(full):
        return []
    lead = len(full) - len(part)
    axes = [i for i in range(1, len(full)) if i < lead]
    return axes + [i for i in range(max(lead, 1), len(full)) if part[i - lead] == 1 and not same(full[i], 1)]
