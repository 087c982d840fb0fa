"""The full-gradient identity as graph outputs: one total per node bias, and what belongs to it.

``f(x) = <grad_x f, x> + sum_v <a_v, c_v>`` with the node bias ``c_v = h_v(p) - sum_k J_k p_k`` (FullGrad,
arXiv 1905.00780, with every operator's own bias in place of the network's parameters).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.backward import Adjoints
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.forms import dot
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import describe
from onnxplain.engine.graph.shapes import Dim, Dims, dims, same
from onnxplain.engine.places import Labels, find_places, spatial_axes
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import BIAS, Bias, BiasKind


@dataclass(frozen=True)
class Term:
    """One bias term ``<a_v, c_v>``.

    Attributes:
        node: Name of the forward node.
        operator: Its operator.
        kind: ``explicit`` (a parameter or another added constant) or ``implicit`` (non-linearity).
        parameter: Name of the parameter, where it has one.
        tensor: Name of the tensor that the bias is part of.
        placed: Whether that tensor has the attributed input's spatial axes.
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
    placed: bool
    adjoint: ir.Value
    bias: ir.Value
    labels: Labels
    factor: float
    source: ir.Value

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


def bias_terms(op: Builder, adjoints: Adjoints, sources: dict[ir.Value, Labels]) -> list[Term]:
    """All bias terms of a reverse sweep, in forward order.

    Raises:
        UnsupportedNodeError: An operator has a gradient rule and no bias rule.
    """
    places = find_places([n.ir for n in adjoints.nodes], sources)
    wanted = {name for labels in sources.values() for name in spatial_axes(labels)}
    spatial_input = any(len(labels) > 2 for labels in sources.values())
    terms = []
    for node in adjoints.nodes:
        for part in _node_bias(op, node):
            tensor = node.outputs[part.output]
            adjoint = adjoints.of.get(tensor)
            if adjoint is None:
                continue
            labels = places.get(tensor, ())
            # psi reads axis 0 as the batch; a tensor that has it elsewhere is not drawn.
            batch_first = labels[:1] == ("batch",)
            placed = spatial_input and batch_first and wanted <= set(spatial_axes(labels))
            terms.append(
                Term(
                    node=node.name,
                    operator=describe(node.ir),
                    kind=part.kind,
                    parameter=part.name,
                    tensor=tensor.name or "",
                    placed=placed,
                    adjoint=adjoint,
                    bias=part.value,
                    labels=labels,
                    factor=part.factor,
                    source=next(iter(sources)),
                )
            )
    return terms


def batch_axis(labels: Labels, known: Dims | None, batch: Dim) -> int:
    """Which axis is the batch: by labels, else by the batch's symbol, else the first."""
    if "batch" in labels:
        return labels.index("batch")
    if known is not None and isinstance(batch, str) and known.count(batch) == 1:
        return known.index(batch)
    return 0


def _node_bias(op: Builder, node: Primal) -> list[Bias]:
    entry = BIAS.find(node.domain, node.op_type, node.version(op.opset))
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
