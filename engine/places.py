"""Which axes of an inner tensor still correspond to places of the input.

A bias term can be drawn over the picture only where its tensor has the picture's own spatial axes, at
whatever resolution. That is followed through the graph operator by operator, through the joined axes of
transformers as well (:mod:`onnxplain.engine.axes`); wherever the correspondence ends (Gemm, a mean over
places, a Gather of one token), the tensor has no place and its terms are reported as unattributed
instead of being drawn somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx_ir as ir

from onnxplain.engine.axes import Joined, Label, Labels, joined, positions, regrouped
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.shapes import Dim, Dims, constant, dims, rank

__all__ = ["LAYOUTS", "Labels", "find_places", "input_labels", "spatial_axes"]

#: Names of spatial axes by their number.
_SPATIAL = {1: ("t",), 2: ("y", "x"), 3: ("z", "y", "x")}

LAYOUTS = ("auto", "channels_first", "channels_last")


def input_labels(value: ir.Value, layout: str = "auto") -> tuple[str | None, ...]:
    """Labels of an attributed tensor.

    Args:
        value: The tensor: ``[N, C, H, W]``, ``[N, H, W, C]``, ``[N, C, T]``, ``[N, T, D]``, ``[N, F]``.
        layout: ``channels_first`` or ``channels_last``; ``auto`` looks at what reads the tensor (Conv, or
            a Transpose that moves the channels), then at which axis of a picture has size 1, 3 or 4 (of a series: 1); the
            result of an embedding lookup or a product has its channels last, anything else on axis 1.

    Raises:
        OptionError: Unknown layout.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"unknown layout '{layout}'; choose one of {', '.join(LAYOUTS)}")
    count = rank(value)
    if count is None or count < 2:
        return ("batch",) * (count or 0)
    if count == 2:
        return ("batch", "t")
    spatial = _SPATIAL.get(count - 2, tuple(f"s{i}" for i in range(count - 2)))
    if layout == "channels_last" or (layout == "auto" and _channels_are_last(value, count)):
        return ("batch", *spatial, None)
    return ("batch", None, *spatial)


def _channels_are_last(value: ir.Value, count: int) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type in ("Gather", "MatMul"):
        return True
    consumed = _layout_by_use(value)
    if consumed is not None:
        return consumed
    known = dims(value) or ()
    if count == 3:
        return known[1] != 1 and known[2] == 1
    return count == 4 and known[1] not in (1, 3, 4) and known[3] in (1, 3, 4)


#: Operators that fix axis 1 as the channels.
_CHANNELS_FIRST = {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool"}
_CHANNELS_FIRST |= {"GlobalAveragePool", "GlobalMaxPool", "LRN", "DepthToSpace", "SpaceToDepth"}
#: Operators through which a layout is followed.
_THROUGH = {"Add", "Sub", "Mul", "Div", "Cast", "Clip", "Relu", "Pad", "Identity", "QuantizeLinear", "DequantizeLinear"}


def _layout_by_use(value: ir.Value) -> bool | None:
    """What the operators that read the tensor take its channel axis to be; None where they do not tell."""
    queue, seen = [value], 0
    while queue and seen < 32:
        current = queue.pop(0)
        for node in current.consumers():
            seen += 1
            if node.op_type in _CHANNELS_FIRST:
                return False
            if node.op_type == "Transpose" and "perm" in node.attributes:
                perm = list(node.attributes["perm"].value)
                return len(perm) > 2 and perm[1] == len(perm) - 1
            if node.op_type in _THROUGH:
                queue.append(node.outputs[0])
    return None


def spatial_axes(labels: Labels) -> dict[str, int]:
    """Axis per place; joined axes are none."""
    return {name: i for i, name in enumerate(labels) if isinstance(name, str) and name != "batch"}


def find_places(nodes: Iterable[ir.Node], sources: Mapping[ir.Value, Labels]) -> dict[ir.Value, Labels]:
    """Labels of every value that can be reached from the sources."""
    found = dict(sources)
    for node in nodes:
        labels = [found.get(x) if x is not None else None for x in node.inputs]
        if node.domain != "" or not any(labels):
            continue
        rule = _RULES.get(node.op_type, _lost)
        result = rule(node, labels)
        if result is not None:
            for y in node.outputs:
                if y not in found and (rank(y) is None or rank(y) == len(result)):
                    found[y] = result
    return found


Rule = Callable[[ir.Node, list[Labels | None]], Labels | None]
_RULES: dict[str, Rule] = {}


def _rule(*op_types: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for op_type in op_types:
            _RULES[op_type] = function
        return function

    return register


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Nodes that passes emit late have not got all defaults written out."""
    found = node.attributes.get(name)
    return default if found is None else found.value


#: Operators that may keep the shape and put other things in its places.
_REARRANGING = {"Unique", "ReverseSequence", "DFT", "If", "Loop", "Scan"}


def _lost(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    """Any other operator: same labels where it keeps the shape of its first operand, else none."""
    first = labels[0]
    x, y = node.inputs[0], node.outputs[0]
    if first is None or x is None or len(node.inputs) > 1 or dims(x) is None or dims(x) != dims(y):
        return None
    return first if node.op_type not in _REARRANGING else None


@_rule(
    *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "LayerNormalization", "PRelu"),
    *(
        "RMSNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
        "Clip",
        "Pad",
        "Resize",
        "Upsample",
        "Cast",
        "LpNormalization",
    ),
)
def _first(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    return labels[0]


@_rule("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "Mod")
def _broadcast(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    known = [part for part in labels if part is not None]
    ranks = [rank(x) for x in node.inputs if x is not None]
    size = max(r or 0 for r in ranks)
    if None in ranks or any(len(part) > size for part in known):
        return None
    result: list[Label] = [None] * size
    for part in known:
        lead = size - len(part)
        for i, name in enumerate(part):
            if name is not None and result[lead + i] not in (None, name):
                return None  # two different places on one axis: neither holds
            result[lead + i] = name or result[lead + i]
    return tuple(result)


@_rule("Conv", "ConvTranspose")
def _conv(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first = labels[0]
    return None if first is None else (first[0], None, *first[2:])


@_rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _pool(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    return labels[0]


@_rule("Transpose")
def _transpose(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first = labels[0]
    if first is None:
        return None
    perm = node.attributes.get("perm")
    order = list(perm.value) if perm is not None else list(range(len(first)))[::-1]
    return tuple(first[i] for i in order)


@_rule("Concat")
def _concat(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    known = [part for part in labels if part is not None]
    axis = int(node.attributes["axis"].value) % len(known[0])
    merged = [known[0][i] if all(p[i] == known[0][i] for p in known) else None for i in range(len(known[0]))]
    merged[axis] = _lengthened(node, labels, axis) if len(known) == 1 else None
    return tuple(merged)


def _lengthened(node: ir.Node, labels: list[Labels | None], axis: int) -> Label:
    """The axis of the one operand that has places, with what the others put in front of it and behind."""
    index = next(i for i, part in enumerate(labels) if part is not None)
    label = (labels[index] or ())[axis]
    sizes: list[Dim] = []
    for x in node.inputs:
        known = dims(x) if x is not None else None
        sizes.append(known[axis] if known is not None and len(known) > axis else None)
    extra = [d for i, d in enumerate(sizes) if i != index]
    if label is None or label == "batch" or not all(isinstance(d, int) for d in extra):
        return None
    before = sum(d for d in sizes[:index] if isinstance(d, int))
    after = sum(d for d in sizes[index + 1 :] if isinstance(d, int))
    if isinstance(label, Joined):
        return Joined(label.parts, label.before + before, label.after + after)
    return Joined(((label, sizes[index]),), before, after)


@_rule("Split")
def _split(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    return _without(labels[0], [int(_attribute(node, "axis", 0))])


@_rule("Slice")
def _slice(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    first = labels[0]
    if axes is None or first is None:
        return None
    kept = {int(a) % len(first): _shortened(node, first[int(a)], place) for place, a in enumerate(axes)}
    cut = _without(first, [int(a) for a in axes]) or ()
    return tuple(kept[i] if kept.get(i) is not None else label for i, label in enumerate(cut))


def _shortened(node: ir.Node, label: Label, place: int) -> Label:
    """A joined axis whose extra positions alone are cut; None for any other cut."""
    bounds = [constant(x) for x in node.inputs[1:3]]
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    if not isinstance(label, Joined) or bounds[0] is None or bounds[1] is None:
        return None
    start, end = int(bounds[0][place]), int(bounds[1][place])
    length = positions(label)
    total = length + label.before + label.after if length is not None else None
    if total is not None:
        start, end = (b + total if b < 0 else b for b in (start, end))
    behind = 0 if end >= (2**31 - 1 if total is None else total) else (total or end) - end
    if (steps is not None and steps[place] != 1) or not 0 <= start <= label.before or behind > label.after:
        return None
    if total is None and (behind or end < 2**31 - 1):
        return None
    return joined(label.parts, label.before - start, label.after - behind)


def _without(labels: Labels | None, axes: list[int]) -> Labels | None:
    """Axes that are cut no longer correspond, place by place, to the input's."""
    if labels is None:
        return None
    cut = {a % len(labels) for a in axes}
    return tuple(None if i in cut and name != "batch" else name for i, name in enumerate(labels))


@_rule("Gather")
def _gather(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    """The axis that is picked from goes; the others stay."""
    first, picked = labels[0], node.inputs[1]
    count = rank(picked) if picked is not None else None
    if first is None or count is None:
        return None
    axis = int(_attribute(node, "axis", 0)) % len(first)
    return None if first[axis] == "batch" else (*first[:axis], *[None] * count, *first[axis + 1 :])


@_rule(
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
def _reduce(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first = labels[0]
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    kept = bool(_attribute(node, "keepdims", 1))
    if first is None or (axes is None and not kept):
        return None
    gone = {int(a) % len(first) for a in axes} if axes is not None else set(range(len(first)))
    if kept:  # one value for all places is drawn over all of them; a joined axis of size 1 has no parts any more
        return tuple(None if i in gone and isinstance(name, Joined) else name for i, name in enumerate(first))
    return tuple(name for i, name in enumerate(first) if i not in gone)


@_rule("Squeeze")
def _squeeze(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    return _reduce_axes(labels[0], node)


def _reduce_axes(labels: Labels | None, node: ir.Node) -> Labels | None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if labels is None or axes is None:
        return None
    gone = {int(a) % len(labels) for a in axes}
    return tuple(name for i, name in enumerate(labels) if i not in gone)


@_rule("Unsqueeze")
def _unsqueeze(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first, axes = labels[0], constant(node.inputs[1])
    if first is None or axes is None:
        return None
    size = len(first) + len(axes)
    new = {int(a) % size for a in axes}
    rest = iter(first)
    return tuple(None if i in new else next(rest) for i in range(size))


@_rule("MatMul")
def _matmul(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    """Rows of the first operand, columns of the second: scores of an attention have two axes of positions."""
    ranks = [rank(x) if x is not None else None for x in node.inputs]
    if None in ranks or min(r or 0 for r in ranks) < 2:
        return None
    size = max(r or 0 for r in ranks)
    first, second = ((None,) * size if part is None else ((None,) * (size - len(part)) + part) for part in labels)
    if (labels[0] is None and ranks[0] != 2) or (labels[1] is None and len(labels[0] or ()) < size):
        return None
    lead: list[Label] = []
    for a, b in zip(first[:-2], second[:-2], strict=True):
        lead.append(a if b is None or a == b else b if a is None else None)
    return (*lead, first[-2], second[-1])


@_rule("Einsum")
def _einsum(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    """A letter of the result has the label that it has in the operands."""
    terms, arrow, result = str(node.attributes["equation"].value).replace(" ", "").partition("->")
    found: dict[str, Label] = {}
    if "." in terms or not arrow:
        return None
    for term, part in zip(terms.split(","), labels, strict=True):
        for letter, label in zip(term, part or (), strict=False):
            if found.setdefault(letter, label) != label:
                found[letter] = found[letter] if label is None else label if found[letter] is None else None
    return tuple(found.get(letter) for letter in result)


@_rule("Gemm")
def _gemm(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first = labels[0]
    if first is None or labels[1] is not None or _attribute(node, "transA", 0):
        return None
    return (first[0], None)


@_rule("Flatten")
def _flatten(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first, x = labels[0], node.inputs[0]
    axis = int(_attribute(node, "axis", 1))
    source = dims(x) if x is not None else None
    return regrouped(first, source, (source[0], None)) if first is not None and source and axis == 1 else None


@_rule("Reshape")
def _reshape(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first, x = labels[0], node.inputs[0]
    source = dims(x) if x is not None else None
    target = dims(node.outputs[0]) or _asked_for(node, source)
    return regrouped(first, source, target) if first is not None else None


def _asked_for(node: ir.Node, source: Dims | None) -> Dims | None:
    """Sizes that the operand of a Reshape names."""
    shape = constant(node.inputs[1])
    if shape is None or source is None:
        return None
    keep = not int(node.attributes["allowzero"].value) if "allowzero" in node.attributes else True
    sizes = [int(d) for d in shape]
    return tuple(source[i] if d == 0 and keep else None if d == -1 else d for i, d in enumerate(sizes))
