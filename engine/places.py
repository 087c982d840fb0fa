"""Which axes of an inner tensor still correspond to places of the input.

A bias term can be drawn over the picture only where its tensor has the picture's own spatial axes, at
whatever resolution. That is followed through the graph operator by operator; wherever the
correspondence ends (Flatten, Gemm, a Concat along the axis), the tensor has no place and its terms are
reported as unattributed instead of being drawn somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.shapes import constant, dims, rank

#: Per axis: ``batch``, a place (``y``, ``x``, ``t``, ...), or None for channels and anything lost.
Labels = tuple[str | None, ...]

#: Names of spatial axes by their number.
_SPATIAL = {1: ("t",), 2: ("y", "x"), 3: ("z", "y", "x")}

LAYOUTS = ("auto", "channels_first", "channels_last")


def input_labels(value: ir.Value, layout: str = "auto") -> Labels:
    """Labels of an attributed tensor.

    Args:
        value: The tensor: ``[N, C, H, W]``, ``[N, H, W, C]``, ``[N, C, T]``, ``[N, T, D]``, ``[N, F]``.
        layout: ``channels_first`` or ``channels_last``; ``auto`` looks at what reads the tensor (Conv, or
            a Transpose that moves the channels), then at which axis of a picture has size 1, 3 or 4; the
            result of an embedding lookup has its channels last, anything else on axis 1.

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
    if producer is not None and producer.op_type == "Gather":
        return True
    consumed = _layout_by_use(value)
    if consumed is not None:
        return consumed
    known = dims(value) or ()
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
    """Axis per place."""
    return {name: i for i, name in enumerate(labels) if name not in (None, "batch")}


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


#: Operators that may keep the shape and put other things in its places.
_REARRANGING = {"Reshape", "Transpose", "Unique", "ReverseSequence", "Einsum", "DFT"}


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
    result: list[str | None] = [None] * size
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
    merged[axis] = None
    return tuple(merged)


@_rule("Split")
def _split(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    return _without(labels[0], [int(node.attributes["axis"].value)])


@_rule("Slice")
def _slice(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if axes is None:
        return None
    return _without(labels[0], [int(a) for a in axes])


def _without(labels: Labels | None, axes: list[int]) -> Labels | None:
    """Axes that are cut no longer correspond, place by place, to the input's."""
    if labels is None:
        return None
    cut = {a % len(labels) for a in axes}
    return tuple(None if i in cut and name != "batch" else name for i, name in enumerate(labels))


@_rule(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare"
)
def _reduce(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    first = labels[0]
    if first is None or node.attributes["keepdims"].value:
        return first
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return None
    gone = {int(a) % len(first) for a in axes}
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
    first = labels[0]
    weights = node.inputs[1]
    if first is None or labels[1] is not None or weights is None or rank(weights) != 2:
        return None
    return (*first[:-1], None)


@_rule("Gemm", "Flatten", "Reshape")
def _batch_only(node: ir.Node, labels: list[Labels | None]) -> Labels | None:
    return None
