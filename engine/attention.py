"""Finds the attentions of a transformer, and which positions of the sequence the answer reads.

An attention is a Softmax over positions whose result weighs values in a product: rows are positions that look, columns
positions that are looked at, and both are the same sequence. Whatever these methods cannot tell (cross-attention, a
sequence that changes its length, an answer per token) is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxplain.engine.axes import Joined, Label, Labels
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import label
from onnxplain.engine.graph.shapes import constant, dims, is_float
from onnxplain.engine.layout import END
from onnxplain.engine.method import Plan
from onnxplain.engine.places import find_places
from onnxplain.engine.reading import is_sequence

#: What may stand between the probabilities and the product with the values.
_BETWEEN = {"Cast", "Where", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Mul", "Div", "Expand"}
#: A sum is the mean, scaled: the map is the same.
_MEANS = {"ReduceMean", "ReduceSum"}


@dataclass(frozen=True)
class Rows:
    """The positions that the answer reads.

    Attributes:
        index: One position; None for the mean of several.
        first, last: How many positions at the ends are not part of the mean.
        reason: In words.
    """

    index: int | None
    first: int
    last: int
    reason: str

    def of(self, op: Builder, matrix: ir.Value) -> ir.Value:
        """Emit ``[N, T]`` from ``[N, T, T]``."""
        if self.index is not None:
            return op.Gather(matrix, op.constant(np.asarray(self.index, np.int64)), axis=1)
        if self.first or self.last:
            matrix = op.Slice(matrix, [self.first], [-self.last if self.last else END], [1])
        return op.ReduceMean(matrix, [1], keepdims=0)


@dataclass(frozen=True)
class Attentions:
    """All attentions over one sequence, in forward order.

    Attributes:
        values: Probabilities, as the model has them.
        labels: Their axes.
        sequence: The label of the sequence's axis.
        rows: What the answer reads of it.
    """

    values: Sequence[ir.Value]
    labels: Sequence[Labels]
    sequence: Label
    rows: Rows

    def by_head(self, op: Builder, index: int, value: ir.Value) -> ir.Value:
        """Emit a tensor of the index-th attention's shape as ``[N, heads, T, T]``."""
        labels = self.labels[index]
        if len(labels) == 4:
            return value
        if labels[0] == "batch":
            return op.Unsqueeze(value, [1])
        heads = _heads(labels[0])
        return op.Reshape(value, op.Concat([-1, heads or 1], op.Slice(op.Shape(value), [1], [3]), axis=0))


def find_attentions(plan: Plan) -> Attentions:
    """The attentions between the attributed input and the answer.

    Raises:
        OptionError: There are none, or they are not of one sequence, or the answer reads it in another way than by one
            position or by a mean.
    """
    if len(plan.subjects) != 1:
        names = ", ".join(f"'{s.name}'" for s in plan.subjects)
        raise OptionError(f"attention is followed back to one input, and there are {names}; name one with wrt=")
    subject = plan.subjects[0]
    places = find_places(plan.rewriter.forward_nodes, {subject.value: subject.labels})
    used = _ancestors(plan.seed.explained)
    values = [
        n.outputs[0]
        for n in plan.rewriter.forward_nodes
        if n.op_type == "Softmax" and n.outputs[0] in used and _is_attention(n, places)
    ]
    if not values:
        raise OptionError(
            f"there is no attention between '{subject.name}' and the answer: no Softmax over positions of one sequence "
            "that weighs values in a MatMul; use a gradient method or a class activation map"
        )
    labels = [places[v] for v in values]
    kinds = {(axes[-1], (dims(v) or (None,))[-1]) for v, axes in zip(values, labels, strict=True)}
    if len(kinds) > 1:
        raise OptionError(
            "the attentions are over different sequences, as where tokens are merged or windows cut; "
            "use a class activation map, or fullgrad"
        )
    for value, axes in zip(values, labels, strict=True):
        _check_form(value, axes)
    sequence = labels[0][-1]
    return Attentions(values, labels, sequence, _rows(values[-1], plan.seed.explained, places, used, sequence))


def _is_attention(node: ir.Node, places: Mapping[ir.Value, Labels]) -> bool:
    labels = places.get(node.outputs[0], ())
    last = int(node.attributes["axis"].value) in (-1, len(labels) - 1)
    if len(labels) < 3 or not last or labels[-1] != labels[-2] or not is_sequence(labels[-1]):
        return False
    queue, seen = [node.outputs[0]], 0
    while queue and seen < 16:
        for reader in queue.pop(0).consumers():
            seen += 1
            if reader.op_type in ("MatMul", "Einsum"):
                return True
            if reader.op_type in _BETWEEN:
                queue.append(reader.outputs[0])
    return False


def _heads(axis: Label) -> int | None:
    """Number of heads in an axis of samples and heads, samples outermost."""
    parts = axis.parts if isinstance(axis, Joined) else ()
    if len(parts) != 2 or parts[0][0] != "batch" or parts[1][0] is not None or not isinstance(parts[1][1], int):
        return None
    return parts[1][1]


def _check_form(value: ir.Value, labels: Labels) -> None:
    plain = labels[0] == "batch" and (len(labels) == 3 or (len(labels) == 4 and labels[1] is None))
    if not plain and not (len(labels) == 3 and _heads(labels[0]) is not None):
        raise OptionError(
            f"the attention '{value.name}' has its samples and heads in an order that cannot be followed; "
            "use a gradient method"
        )


def _ancestors(value: ir.Value) -> set[ir.Value]:
    found: set[ir.Value] = set()
    queue = [value]
    while queue:
        current = queue.pop()
        if current not in found:
            found.add(current)
            node = current.producer()
            queue += [x for x in node.inputs if x is not None] if node is not None else []
    return found


# ----- what the answer reads ----------------------------------------------------------------------------


def _rows(
    last: ir.Value, explained: ir.Value, places: Mapping[ir.Value, Labels], used: set[ir.Value], sequence: Label
) -> Rows:
    """Follow what comes out of the last attention to where the sequence ends."""
    found: set[Rows] = set()
    queue, seen = [last], {last}
    while queue:
        value = queue.pop()
        if value is explained:
            raise _unclear("the answer has a value for every position")
        for node in dict.fromkeys(value.consumers()):
            for y in node.outputs:
                if y not in used or y in seen or not is_float(y):
                    continue
                if any(is_sequence(axis) for axis in places.get(y, ())) and not _is_mean(node, places[value]):
                    seen.add(y)
                    queue.append(y)
                else:
                    found.add(_read_by(node, value, places[value], sequence))
    if len(found) != 1:
        raise _unclear("the answer reads the sequence in several ways" if found else "the way to the answer is lost")
    return found.pop()


def _unclear(why: str) -> OptionError:
    return OptionError(
        f"{why}; attention is followed from one position (a class token) or from a mean over positions: "
        "use a class activation map, or a gradient method"
    )


def _read_by(node: ir.Node, value: ir.Value, labels: Labels, sequence: Label) -> Rows:
    axis = next(i for i, each in enumerate(labels) if is_sequence(each))
    cut = _cut(labels[axis], sequence)
    picked = _position(node, axis, len(labels))
    if picked is not None:
        index = picked if picked < 0 else picked + cut[0]
        if picked < 0 and cut[1]:
            index = picked - cut[1]
        return Rows(index, 0, 0, f"read at position {index} by '{label(node)}' ({node.op_type})")
    if _is_mean(node, labels):
        which = "without the extra tokens" if any(cut) else "over all positions"
        return Rows(None, *cut, f"read as a mean {which} by '{label(node)}' ({node.op_type})")
    raise _unclear(f"'{label(node)}' ({node.op_type}) reads the sequence '{value.name}' as a whole")


def _cut(axis: Label, sequence: Label) -> tuple[int, int]:
    """Positions at both ends that were cut from the sequence on the way."""
    whole = (sequence.before, sequence.after) if isinstance(sequence, Joined) else (0, 0)
    now = (axis.before, axis.after) if isinstance(axis, Joined) else (0, 0)
    return whole[0] - now[0], whole[1] - now[1]


def _position(node: ir.Node, axis: int, rank: int) -> int | None:
    """The one position that a Gather or a Slice takes."""
    if node.op_type == "Gather" and int(node.attributes["axis"].value) % rank == axis:
        picked = constant(node.inputs[1])
        return int(picked.reshape(-1)[0]) if picked is not None and picked.size == 1 else None
    if node.op_type == "Slice":
        bounds = [constant(x) for x in node.inputs[1:4]]
        if len(bounds) == 3 and all(b is not None and b.size == 1 for b in bounds):
            start, end, at = (int(b[0]) for b in bounds if b is not None)
            if at % rank == axis and (end - start == 1 or (start == -1 and end > 0)):
                return start
    return None


def _is_mean(node: ir.Node, labels: Labels) -> bool:
    """Whether the node takes the mean over the sequence's axis, and over no other."""
    axis = next(i for i, each in enumerate(labels) if is_sequence(each))
    if node.op_type == "GlobalAveragePool":
        return axis == 2 and len(labels) == 3
    axes = constant(node.inputs[1]) if node.op_type in _MEANS and len(node.inputs) > 1 else None
    return axes is not None and [int(a) % len(labels) for a in axes] == [axis]


def identity_like(op: Builder, matrix: ir.Value) -> ir.Value:
    """Emit the identity for ``[N, T, T]``, as ``[T, T]``."""
    known = dims(matrix)
    size = known[-1] if known is not None else None
    if isinstance(size, int):
        return op.constant(np.eye(size), matrix.dtype)
    square = op.ConstantOfShape(op.Slice(op.Shape(matrix), [-2], [END]), value=ir.tensor(np.zeros(1, np.float32)))
    return op.EyeLike(square, dtype=(matrix.dtype or ir.DataType.FLOAT).value)
