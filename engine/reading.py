"""What of a sequence the answer reads: all of its places, or only a class token or one position.

Followed backwards from the explained tensor. Most operators read of their operands the positions that are read of
their result; an attention reads all keys and values for whatever row is wanted; a Gather of one position reads that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxplain.engine.axes import Joined, Label, Labels, names
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.shapes import constant


def is_sequence(label: Label) -> bool:
    """Whether an axis is one of tokens: ``t``, or places joined in one axis."""
    return label == "t" or (isinstance(label, Joined) and set(names([label])) - {"batch"} != set())


class Reading:
    """The ways from the explained tensor back, each with what it reads: whole sequences, or one position of them.

    Args:
        explained: The tensor that the score is taken from.
        places: Labels of the values that have places.

    Attributes:
        whole: Values of which more is read than one position, or the extra tokens; those without a sequence, too.
    """

    def __init__(self, explained: ir.Value, places: Mapping[ir.Value, Labels]) -> None:
        self.explained = explained
        self.places = places
        self.whole = {value for value, all_of_it in self._ways() if all_of_it}

    def _ways(self) -> set[tuple[ir.Value, bool]]:
        queue, seen = [(self.explained, True)], {(self.explained, True)}
        while queue:
            value, wanted = queue.pop()
            node = value.producer()
            if node is None:
                continue
            steps = [(x, self._reads(node, i, wanted)) for i, x in enumerate(node.inputs)]
            steps += [(x, True) for x in operands(node) if x not in node.inputs]  # captured by the node's own graphs
            for x, reads in steps:
                if x is not None and reads is not None and (x, reads) not in seen:
                    seen.add((x, reads))
                    queue.append((x, reads))
        return seen

    def _reads(self, node: ir.Node, index: int, wanted: bool) -> bool | None:
        """What a node reads of an operand for what is wanted of its result: all, one position, or nothing."""
        x = node.inputs[index]
        labels = self.places.get(x, ()) if x is not None else ()
        axes = [i for i, label in enumerate(labels) if is_sequence(label)]
        result = self.places.get(node.outputs[0], ())
        if node.op_type in ("Shape", "Size"):
            return None
        if node.op_type == "Concat" and not wanted and any(isinstance(label, Joined) for label in result):
            return None if labels else True  # one of the extra positions, which none of the others is in
        if not axes:
            return True
        if node.op_type == "Gather" and index == 0 and int(node.attributes["axis"].value) % len(labels) in axes:
            picked = constant(node.inputs[1])
            return picked is None or picked.size != 1
        if node.op_type == "Slice" and index == 0:
            return wanted and not _takes_one(node, len(labels), axes)
        if node.op_type == "MatMul":
            # Rows are read as far as rows of the result are; what is summed over, whole.
            return wanted if index == 0 and len(labels) - 2 in axes else True
        if node.op_type == "Einsum":
            return wanted if index == 0 else True
        return wanted if any(is_sequence(label) for label in result) else True


def _takes_one(node: ir.Node, rank: int, axes: Sequence[int]) -> bool:
    """Whether a Slice leaves a single position of a sequence."""
    bounds = [constant(x) for x in node.inputs[1:4]]
    if len(bounds) < 3 or any(b is None for b in bounds):
        return False
    starts, ends, cut = (b.tolist() for b in bounds if b is not None)
    for start, end, axis in zip(starts, ends, cut, strict=True):
        if axis % rank in axes and (end - start == 1 or (start == -1 and end > 0)):
            return True
    return False
