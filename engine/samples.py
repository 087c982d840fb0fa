"""Which axis of a tensor counts the samples, so that a total can be given for each of them.

The batch need not come first inside a network: states of all steps are stacked in front of it, heads of attention are
joined with it. Which axis it is is taken from what is known, never from where it stands:

1. the labels that are followed through the graph (:mod:`onnxplain.engine.places`);
2. the symbol of the model's open batch, where a tensor has it once;
3. in a model of fixed sizes, the one axis whose size the batch divides.

Where none of them tells, no axis is guessed. The samples then go through one at a time, where the sum over the whole
tensor is right whatever its axes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.axes import Joined, Labels
from onnxplain.engine.errors import InputError, UnsupportedNodeError
from onnxplain.engine.forms import channel_sum, dot
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands, subgraphs
from onnxplain.engine.graph.names import STEPS, describe, label
from onnxplain.engine.graph.shapes import Dim, Dims, dims, is_float, same
from onnxplain.engine.places import find_places

_BATCH_FIRST = (
    "give the model with its batch first (batch_first=True in PyTorch, or a Transpose in front); vjp takes any order"
)


@dataclass(frozen=True)
class SampleAxis:
    """An axis that counts the samples.

    Attributes:
        index: Which one.
        rank: Number of axes of the tensor.
        joined: Whether it holds several entries of each sample, side by side.
    """

    index: int
    rank: int
    joined: bool = False


def sample_axis(labels: Labels, known: Dims | None, batch: Dim) -> SampleAxis | None:
    """The axis of a tensor that counts the samples; None where it cannot be told.

    Args:
        labels: The tensor's axes, as far as they are followed.
        known: Its sizes.
        batch: The size of the batch.
    """
    for index, one in enumerate(labels):
        if one == "batch":
            return SampleAxis(index, len(labels))
        if isinstance(one, Joined) and one.parts[0][0] == "batch" and not one.before and not one.after:
            return SampleAxis(index, len(labels), joined=True)
    if batch == 1:
        return SampleAxis(0, len(known or ()), joined=True)  # all that there is belongs to the one sample
    if known is None or not batch:  # a batch of 0 divides nothing
        return None
    if isinstance(batch, str):
        return SampleAxis(known.index(batch), len(known)) if known.count(batch) == 1 else None
    if not all(isinstance(d, int) for d in known):
        return None
    divided = [i for i, d in enumerate(known) if isinstance(d, int) and d % batch == 0]
    return SampleAxis(divided[0], len(known)) if len(divided) == 1 and known[divided[0]] == batch else None


def per_sample(op: Builder, a: ir.Value, c: ir.Value, axis: SampleAxis | None, source: ir.Value) -> ir.Value:
    """Emit ``<a, c>`` per sample, ``[N, 1]``, where c broadcasts against a.

    Args:
        op: Where to emit.
        a, c: The factors.
        axis: Which axis of a counts the samples. None: there is one sample in each run, and all is summed.
        source: A tensor whose first axis is the batch.
    """
    known, batch = dims(a), (dims(source) or (None,))[0]
    if axis is not None and axis.index:
        product = op.Mul(a, c)
        order = [axis.index, *[i for i in range(axis.rank) if i != axis.index]]
        rows = op.Transpose(product, perm=order)
    elif known == ():
        rows = op.Mul(a, c)
    else:
        rows = inner(op, a, c)
        if axis is not None and not axis.joined and known is not None and same(known[0], batch):
            return rows
    count = op.Shape(source, start=0, end=1)
    return op.ReduceSum(op.Reshape(rows, op.Concat(count, [-1], axis=0)), [1], keepdims=1)


def inner(op: Builder, a: ir.Value, c: ir.Value) -> ir.Value:
    """Emit ``<a, c>`` per sample, ``[N, 1]``, where the samples are on the first axis of a and c broadcasts against it.

    Where c is known to be constant along axes, no product of a's size is made: a channel's bias costs one pass
    over the adjoint, a matrix product where it is a parameter (faster than a sum over places), else a sum.
    """
    full, part = dims(a), dims(c)
    if full is not None and full == part and None not in full:
        return dot(op, a, c)
    axes = constant_axes(part, full)
    if full is not None and axes and axes == list(range(2, len(full))) and isinstance(full[1], int):
        if part is not None and len(full) - len(part) in (0, 1) and (len(part) < len(full) or part[0] == 1):
            return op.ReduceSum(channel_sum(op, a, c, full[1]), [2], keepdims=0)
        sums = op.ReduceSum(a, axes, keepdims=0)
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


# ----- is the batch where it is taken to be? ----------------------------------------------------------


def check_batch_first(nodes: Sequence[ir.Node], sources: Mapping[ir.Value, Labels], explained: ir.Value) -> None:
    """Refuse a model whose first axis does not count samples: rows of its answer would be no samples of their own.

    Args:
        nodes: The forward nodes, in order.
        sources: The attributed tensors with their axes.
        explained: What is explained, a row per sample.

    Raises:
        UnsupportedNodeError: A recurrent node goes through that axis step by step, or attention is over it.
        InputError: The answer's first axis is another one of the input's.
    """
    for refusal in batch_refusals(nodes, sources, explained):
        raise refusal


def batch_refusals(
    nodes: Sequence[ir.Node], sources: Mapping[ir.Value, Labels], explained: ir.Value
) -> Iterator[UnsupportedNodeError | InputError]:
    """All that :func:`check_batch_first` refuses, the node's first."""
    sizes = [dims(v) or (None,) for v in sources]
    if {known[0] for known in sizes} != {1}:
        symbols: set[Dim] = {known[0] for known in sizes if isinstance(known[0], str) and known.count(known[0]) == 1}
        yield from _over_batch(nodes, sources, symbols)
    rows = (dims(explained) or (None,))[0]
    for value in sources:
        first, *others = dims(value) or (None,)
        if None not in (rows, first) and type(rows) is type(first) and rows != first and rows in others and first != 1:
            yield InputError(
                f"the answer's first axis ({rows}) is axis {1 + others.index(rows)} of '{value.name}', whose first axis "
                f"({first}) is taken for the batch; {_BATCH_FIRST}"
            )


def _over_batch(
    nodes: Sequence[ir.Node], sources: Mapping[ir.Value, Labels], symbols: set[Dim]
) -> Iterator[UnsupportedNodeError]:
    """Nodes that let entries of the first axis see each other."""
    places, made = find_places(nodes, sources), set[ir.Value]()

    def is_batch(value: ir.Value, axis: int) -> bool:
        labels, known = places.get(value, ()), dims(value) or ()
        labelled = -len(labels) <= axis < len(labels) and labels[axis] == "batch"
        return labelled or (-len(known) <= axis < len(known) and known[axis] in symbols)

    for node in nodes:
        for value, axis, name, operator in _gone_through(node):
            if is_batch(value, axis):
                reason = "it goes step by step through the input's first axis, which is taken for the batch"
                yield UnsupportedNodeError(name, operator, reason, _BATCH_FIRST)
        x = node.inputs[0] if node.op_type == "Softmax" and node.domain == "" else None
        if x is None:
            continue
        written = node.attributes.get("axis")
        reason = ""
        if is_batch(x, written.as_int() if written is not None else -1):
            reason = "it normalises over the input's first axis, which is taken for the batch"
        elif is_batch(x, -2):
            made = made or _made_of(nodes, sources)
            if any(v in made for v in _weighed(node)):
                reason = "rows of the input's first axis, which is taken for the batch, look at each other in it"
        if reason:
            yield UnsupportedNodeError(label(node), describe(node), reason, _BATCH_FIRST)


#: Operators between the shares of an attention and the product with the values.
_BETWEEN = {"Dropout", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Mul", "Where"}


def _weighed(softmax: ir.Node) -> list[ir.Value]:
    """What the rows of a Softmax weigh in a MatMul: the same values for each of its rows."""
    queue, seen, found = [softmax.outputs[0]], 0, []
    while queue and seen < 16:
        shares = queue.pop(0)
        for reader in shares.consumers():
            seen += 1
            if reader.op_type == "MatMul" and reader.domain == "" and reader.inputs[0] is shares:
                found += [x for x in reader.inputs[1:] if x is not None]
            elif reader.op_type in _BETWEEN:
                queue.append(reader.outputs[0])
    return found


def _made_of(nodes: Sequence[ir.Node], sources: Iterable[ir.Value]) -> set[ir.Value]:
    """Float tensors that are computed of the sources, by more than their sizes."""
    found = set(sources)
    for node in nodes:
        if any(x in found for x in operands(node)):
            found.update(y for y in node.outputs if is_float(y))
    return found


def _gone_through(node: ir.Node) -> list[tuple[ir.Value, int, str, str]]:
    """Operands that a node goes through with a state, with the axis, and the node's name and operator."""
    found = []
    if STEPS in node.meta and node.inputs[0] is not None:
        found.append((node.inputs[0], 0, *node.meta[STEPS]))
    if node.domain == "" and node.op_type in ("Scan", "Loop"):
        for body in subgraphs(node):
            entries = _scanned(node, body) if node.op_type == "Scan" else _picked(body)
            states = len(node.inputs) - (node.attributes["num_scan_inputs"].as_int() if node.op_type == "Scan" else 2)
            kept = set(list(body.outputs)[int(node.op_type == "Loop") :][: max(states, 0)])
            found += [(x, a, label(node), describe(node)) for x, a, entry in entries if _reaches(body, entry, kept)]
    return found


_Entries = list[tuple[ir.Value, int, ir.Value]]


def _scanned(node: ir.Node, body: ir.Graph) -> _Entries:
    """What a Scan goes through: the tensor, its axis, and the entry inside."""
    count = node.attributes["num_scan_inputs"].as_int()
    axes = node.attributes.get("scan_input_axes")
    given = list(axes.as_ints()) if axes is not None and axes.as_ints() else [0] * count
    triples = zip(list(node.inputs)[-count:], given, list(body.inputs)[-count:], strict=False)
    return [(x, _front(x, axis), entry) for x, axis, entry in triples if x is not None]


def _picked(body: ir.Graph) -> _Entries:
    """The same for tensors around a Loop's body from which every trip takes its own entry."""
    found = []
    for node in body:
        if node.op_type == "Gather" and node.domain == "":
            x, index = node.inputs[:2]
            if x is not None and index is not None and index.graph is body and x.graph is not body:
                axis = node.attributes.get("axis")
                found.append((x, _front(x, axis.as_int() if axis is not None else 0), node.outputs[0]))
    return found


def _front(value: ir.Value, axis: int) -> int:
    return axis if axis >= 0 else axis + len(dims(value) or ())


def _reaches(body: ir.Graph, entry: ir.Value, states: set[ir.Value]) -> bool:
    """Whether a float state of the next step depends on the entry."""
    reached = {entry}
    for node in body:
        if any(x in reached for x in operands(node)):
            reached.update(node.outputs)
    return any(is_float(v) for v in reached & states)
