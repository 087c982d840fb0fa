"""The full-gradient identity as graph outputs: one total per node bias, and what belongs to it.

``f(x) = <grad_x f, x> + sum_v <a_v, c_v>`` with the node bias ``c_v = h_v(p) - sum_k J_k p_k`` (FullGrad,
arXiv 1905.00780, with every operator's own bias in place of the network's parameters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.axes import Unfolding, names, unfolding
from onnxplain.engine.backward import Adjoints
from onnxplain.engine.errors import OptionError, UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import describe
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import cast_like
from onnxplain.engine.places import Labels, find_places, spatial_axes
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import BIAS, Bias, BiasKind, BiasRule, Entry
from onnxplain.engine.samples import SampleAxis, per_sample, sample_axis

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
        """Emit ``<a, c>`` per sample, ``[N, 1]``, in the attributed tensor's type: a model may have several."""
        result = per_sample(op, self.adjoint, self.bias, self.samples, self.source)
        return cast_like(op, result if self.factor == 1.0 else op.Mul(result, self.factor), self.source)

    @property
    def samples(self) -> SampleAxis | None:
        """The axis of its tensor that counts the samples; None where that cannot be told."""
        return sample_axis(self.labels, dims(self.adjoint), (dims(self.source) or (None,))[0])

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
        placed = op.ReduceSum(op.Flatten(self.unfolding.apply(op, self.product(op)), axis=1), [1], keepdims=1)
        return cast_like(op, placed, self.source)


def bias_terms(
    op: Builder,
    adjoints: Adjoints,
    sources: dict[ir.Value, Labels],
    lookup: BiasLookup = biases,
    refused: list[UnsupportedNodeError] | None = None,
) -> list[Term]:
    """All bias terms of a reverse sweep, in forward order.

    Args:
        op: Where to emit.
        adjoints: The sweep.
        sources: The attributed tensors with their axes.
        lookup: The bias rules that belong to the sweep's own rules; those of plain gradients by default.
        refused: Where to put what would be raised, to go on without that node's terms.

    Raises:
        UnsupportedNodeError: An operator has a gradient rule and no bias rule.
    """
    places = find_places(adjoints.path.nodes, sources)
    wanted = {name for labels in sources.values() for name in spatial_axes(labels)}
    spatial_input = any(len(labels) > 2 for labels in sources.values())
    terms = []
    for node in adjoints.nodes:
        for part in _node_bias(op, node, lookup, refused):
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


def _node_bias(op: Builder, node: Primal, lookup: BiasLookup, refused: list[UnsupportedNodeError] | None) -> list[Bias]:
    try:
        entry = lookup(node, op.opset)
        if entry is None:
            reason = "there is no bias rule for this operator"
            raise UnsupportedNodeError(node.name, describe(node.ir), reason, "use a method without bias terms")
        return list(entry.rule(op, node))
    except UnsupportedNodeError as refusal:
        if refused is None:
            raise
        refused.append(refusal)
        return []


# ----- terms of which the samples cannot be told apart ------------------------------------------------

ASTRAY = "which axis of an inner tensor counts the samples cannot be told"


def any_astray(terms: Iterable[Term]) -> bool:
    """Whether there is a term of which the samples cannot be told apart, so that they have to go through one by one.

    Raises:
        UnsupportedNodeError: There is, and the model takes a fixed number of samples at a time.
    """
    terms = list(terms)
    for refusal in astray_refusals(terms):
        raise refusal
    return any(t.samples is None for t in terms)


def astray_refusals(terms: Iterable[Term]) -> Iterator[UnsupportedNodeError]:
    """All that :func:`any_astray` refuses."""
    for term in terms:
        count = (dims(term.source) or (None,))[0]
        if isinstance(count, int) and term.samples is None:
            yield UnsupportedNodeError(
                term.node,
                term.operator,
                f"which axis of '{term.tensor}' counts the samples cannot be told, and the model takes {count} at a time",
                "export it with an open batch, or with a batch of 1",
            )


def refuse_astray(astray: bool) -> None:
    """A file takes all samples at once: there is no residual per sample where they cannot be told apart.

    Args:
        astray: What :func:`any_astray` said.

    Raises:
        OptionError: That is so.
    """
    if astray:
        raise OptionError(f"{ASTRAY}, and a file takes them all at once; export the model with a batch of 1")
