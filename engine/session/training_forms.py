"""Operators that onnxruntime-training does not differentiate, or not rightly, in terms of those that it does.

Each form is the operator itself, written otherwise: the same values, and at ties and kinks the engine's derivative
where one is defined. Sizes are those of the arrays at hand. A comparison's result is no float, so the builder ends
there: what a form chooses by a comparison counts as constant, as it should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Stem of the names that are added.
STEM = "onnxplain/training"

Shape = tuple[int, ...]


class Sizes(Protocol):
    """What is known of the model's tensors."""

    def is_float(self, name: str) -> bool:
        """Whether a tensor is one of floats."""

    def shape(self, name: str) -> Shape | None:
        """Its sizes, where they are known."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """A node's attribute; text as ``str``."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found.decode() if isinstance(found, bytes) else found


class Writer:
    """The new list of nodes; every name that is added is new."""

    def __init__(self, known: Sizes) -> None:
        self.known = known
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._count = 0

    def fresh(self) -> str:
        """A new name."""
        self._count += 1
        return f"{STEM}/{self._count}"

    def add(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """A node of one output; its name."""
        name = output or self.fresh()
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{name}/node", **attributes))
        return name

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """An initializer."""
        name = self.fresh()
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def number(self, value: float) -> str:
        """A float32 initializer without axes."""
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """An int64 initializer of one axis."""
        return self.constant(np.array(values, np.int64))

    def shape(self, name: str) -> Shape:
        """The sizes of a tensor on the path: they were checked."""
        return self.known.shape(name) or ()

    def read(self, node: onnx.NodeProto, sources: set[str]) -> onnx.NodeProto:
        """The node with an Identity before each float input, initializer, and tensor that it reads twice."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        seen: set[str] = set()
        for i, name in enumerate(node.input):
            if name and self.known.is_float(name) and (name in sources or name in seen):
                copy.input[i] = self.add("Identity", [name])
            seen.add(name)
        return copy

    def chain(self, names: Sequence[str], output: str = "") -> str:
        """A sum, two by two."""
        if len(names) < 2:
            return self.add("Identity", names, output)
        total = names[0]
        for i, name in enumerate(names[1:], start=2):
            total = self.add("Add", [total, name], output if i == len(names) else "")
        return total

    def square(self, x: str) -> str:
        """x x: one node may not read one tensor twice."""
        return self.add("Mul", [x, self.add("Identity", [x])])

    def scaled(self, x: str, factor: float) -> str:
        """x times a number."""
        return self.add("Mul", [x, self.number(factor)])

    def shifted(self, x: str, offset: float) -> str:
        """x plus a number."""
        return self.add("Add", [x, self.number(offset)])


Form = Callable[[Writer, onnx.NodeProto, onnx.NodeProto], None]

#: Per operator, what writes it: ``form(writer, node, original)``. ``node`` reads through Identity nodes where it has
#: to; ``original`` has the names whose sizes are known.
FORMS: dict[str, Form] = {}


def form(*op_types: str) -> Callable[[Form], Form]:
    """Register a form."""

    def register(function: Form) -> Form:
        FORMS.update(dict.fromkeys(op_types, function))
        return function

    return register


# ------------------------------------------------------------------------------------------ sums, choices, parts


@form("Sum")
def sum_(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """Add, Add, ..."""
    writer.chain(node.input, node.output[0])


@form("Mean")
def mean(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """The sum over the number of operands."""
    writer.add("Div", [writer.chain(node.input), writer.number(len(node.input))], node.output[0])


@form("Where")
def where(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """Its branches in the result's shape: the builder does not sum a branch's gradient back."""
    result = writer.shape(original.output[0])
    for i in (1, 2):
        if writer.known.shape(original.input[i]) != result:
            node.input[i] = writer.add("Expand", [node.input[i], writer.integers(*result)])
    writer.nodes.append(node)


@form("Pow")
def pow_(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """Its base in the result's shape, for the same reason."""
    result = writer.shape(original.output[0])
    if writer.known.shape(original.input[0]) != result:
        node.input[0] = writer.add("Expand", [node.input[0], writer.integers(*result)])
    writer.nodes.append(node)


@form("Split")
def split(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """A Slice for each part: a part that leads nowhere would be missing from the builder's gradient."""
    axis, start = int(attribute(node, "axis", 0)), 0
    for name in original.output:
        end = start + writer.shape(name)[axis]
        where_from = [writer.integers(n) for n in (start, end, axis)]
        writer.add("Slice", [writer.add("Identity", [node.input[0]]), *where_from], name)
        start = end


@form("DepthToSpace")
def depth_to_space(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """Reshape, Transpose, Reshape."""
    n, c, h, w = writer.shape(original.input[0])
    b = int(attribute(node, "blocksize", 1))
    if attribute(node, "mode", "DCR") == "DCR":
        parts, order = (n, b, b, c // b**2, h, w), [0, 3, 4, 1, 5, 2]
    else:
        parts, order = (n, c // b**2, b, b, h, w), [0, 1, 4, 2, 5, 3]
    _reorder(writer, node, parts, order, writer.shape(original.output[0]))


@form("SpaceToDepth")
def space_to_depth(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """Reshape, Transpose, Reshape."""
    n, c, h, w = writer.shape(original.input[0])
    b = int(attribute(node, "blocksize", 1))
    _reorder(writer, node, (n, c, h // b, b, w // b, b), [0, 3, 5, 1, 2, 4], writer.shape(original.output[0]))


def _reorder(writer: Writer, node: onnx.NodeProto, parts: Shape, order: list[int], result: Shape) -> None:
    cut = writer.add("Reshape", [node.input[0], writer.integers(*parts)])
    turned = writer.add("Transpose", [cut], perm=order)
    writer.add("Reshape", [turned, writer.integers(*result)], node.output[0])


# ------------------------------------------------------------------------------------------ functions of one number


@form("Softplus")
def softplus(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """log(exp(x) + exp(0)), by the operator that does not overflow."""
    shape = (*writer.shape(original.input[0]), 1)
    axis = writer.integers(-1)
    pair = [writer.add("Unsqueeze", [node.input[0], axis]), writer.constant(np.zeros(shape, np.float32))]
    both = writer.add("Concat", pair, axis=-1)
    writer.add("ReduceLogSumExp", [both, axis], node.output[0], keepdims=0)


def _from_zero(writer: Writer, x: str, below: Callable[[str], str], above: Callable[[str], str], output: str) -> None:
    """``above(x)`` where x > 0, else ``below(min(x, 0))``: neither overflows on the other's side."""
    positive = writer.add("Greater", [x, writer.number(0)])
    low = writer.add("Where", [positive, writer.number(0), x])
    writer.add("Where", [positive, above(x), below(low)], output)


@form("Elu", "Celu", "Selu")
def exponential(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """gamma x above zero; gamma alpha (exp(x / width) - 1) below it, with a width that only Celu has."""
    selu = node.op_type == "Selu"
    alpha = float(attribute(node, "alpha", 1.67326319217681884765625 if selu else 1.0))
    gamma = float(attribute(node, "gamma", 1.05070102214813232421875)) if selu else 1.0
    width = alpha if node.op_type == "Celu" else 1.0

    def below(x: str) -> str:
        return writer.scaled(writer.shifted(writer.add("Exp", [writer.scaled(x, 1 / width)]), -1), gamma * alpha)

    _from_zero(writer, node.input[0], below, lambda x: writer.scaled(x, gamma), node.output[0])


@form("PRelu")
def prelu(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """x above zero, slope x below it."""
    x, slope = node.input
    _from_zero(writer, x, lambda v: writer.add("Mul", [v, slope]), lambda v: v, node.output[0])


@form("ThresholdedRelu")
def thresholded(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """x above alpha, else 0."""
    passes = writer.add("Greater", [node.input[0], writer.number(float(attribute(node, "alpha", 1.0)))])
    writer.add("Where", [passes, node.input[0], writer.number(0)], node.output[0])


@form("HardSigmoid")
def hard_sigmoid(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """alpha x + beta, between 0 and 1."""
    line = writer.scaled(node.input[0], float(attribute(node, "alpha", 0.2)))
    line = writer.shifted(line, float(attribute(node, "beta", 0.5)))
    writer.add("Clip", [line, writer.number(0), writer.number(1)], node.output[0])


@form("HardSwish")
def hard_swish(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """x times (x / 6 + 1/2 between 0 and 1)."""
    line = writer.shifted(writer.scaled(node.input[0], 1 / 6), 0.5)
    gate = writer.add("Clip", [line, writer.number(0), writer.number(1)])
    writer.add("Mul", [node.input[0], gate], node.output[0])


@form("Mish")
def mish(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """x tanh(softplus(x))."""
    inner = helper.make_node("Softplus", [node.input[0]], [writer.fresh()])
    softplus(writer, inner, original)
    writer.add("Mul", [node.input[0], writer.add("Tanh", inner.output)], node.output[0])


@form("Softsign")
def softsign(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """x / (1 + abs(x))."""
    writer.add("Div", [node.input[0], writer.shifted(writer.add("Abs", [node.input[0]]), 1)], node.output[0])


@form("Sinh", "Cosh")
def hyperbolic(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """Half of exp(x) -+ exp(-x)."""
    sides = [writer.add("Exp", [node.input[0]]), writer.add("Exp", [writer.add("Neg", [node.input[0]])])]
    both = writer.add("Sub" if node.op_type == "Sinh" else "Add", sides)
    writer.add("Mul", [both, writer.number(0.5)], node.output[0])


@form("Tan")
def tan(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """sin / cos."""
    sides = [writer.add(kind, [node.input[0]]) for kind in ("Sin", "Cos")]
    writer.add("Div", sides, node.output[0])


@form("Gelu")
def gelu(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """The tanh form written out, as the builder gives the exact form's derivative for it."""
    if attribute(node, "approximate", "none") == "none":
        writer.nodes.append(node)
        return
    x = node.input[0]
    cube = writer.scaled(writer.add("Mul", [writer.square(x), x]), 0.044715)
    bent = writer.add("Tanh", [writer.scaled(writer.add("Add", [x, cube]), float(np.sqrt(2 / np.pi)))])
    writer.add("Mul", [writer.scaled(x, 0.5), writer.shifted(bent, 1)], node.output[0])


# ---------------------------------------------------------------------------------------------------- reductions


@form("ReduceMax", "ReduceMin")
def extremum(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """The mean of the elements that equal it: those that tie share the gradient."""
    keep = int(attribute(node, "keepdims", 1))
    again = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "keepdims"}
    _mean_of_hits(writer, node, [node.input[0], *node.input[1:]], again, keep)


@form("GlobalMaxPool")
def global_max_pool(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """ReduceMax over all axes behind the channels."""
    axes = writer.integers(*range(2, len(writer.shape(original.input[0]))))
    _mean_of_hits(writer, node, [node.input[0], axes], {}, 1)


def _mean_of_hits(
    writer: Writer, node: onnx.NodeProto, inputs: Sequence[str], again: dict[str, Any], keep: int
) -> None:
    kind = "ReduceMin" if node.op_type == "ReduceMin" else "ReduceMax"
    best = writer.add(kind, inputs, keepdims=1, **again)
    hits = writer.add("Equal", [inputs[0], best])
    chosen = writer.add("Where", [hits, inputs[0], writer.number(0)])
    counted = writer.add("Cast", [hits], to=onnx.TensorProto.FLOAT)
    sums = [writer.add("ReduceSum", [name, *inputs[1:]], keepdims=keep, **again) for name in (chosen, counted)]
    writer.add("Div", sums, node.output[0])


@form("ReduceL1", "ReduceSumSquare", "ReduceLogSum")
def reduced(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """Sum of sizes, sum of squares, logarithm of the sum."""
    x, *axes = node.input
    parts = {"ReduceL1": lambda: writer.add("Abs", [x]), "ReduceSumSquare": lambda: writer.square(x)}
    inner = parts[node.op_type]() if node.op_type in parts else x
    rest = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    last = node.op_type == "ReduceLogSum"
    total = writer.add("ReduceSum", [inner, *axes], "" if last else node.output[0], **rest)
    if last:
        writer.add("Log", [total], node.output[0])


# ------------------------------------------------------------------------------------------------ normalisations


@form("LayerNormalization")
def layer_normalization(writer: Writer, node: onnx.NodeProto, _: onnx.NodeProto) -> None:
    """With a bias, and with all three results named: the builder reads them."""
    given = list(node.output)
    if len(node.input) < 3 or not node.input[2]:
        axis = int(attribute(node, "axis", -1))
        node.input[2:] = [writer.constant(np.zeros(writer.shape(given[0])[axis:], np.float32))]
    node.output.extend([""] * (3 - len(given)))
    for i, name in enumerate(node.output):
        node.output[i] = name or writer.fresh()
    writer.nodes.append(node)


@form("BatchNormalization")
def batch_normalization(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """With fixed statistics: x k + (b - mean k), k = scale / sqrt(variance + epsilon)."""
    x, scale, bias, average, variance = node.input
    column = writer.integers(-1, *[1] * (len(writer.shape(original.output[0])) - 2))
    deviation = writer.add("Sqrt", [writer.shifted(variance, float(attribute(node, "epsilon", 1e-5)))])
    factor = writer.add("Div", [scale, deviation])
    offset = writer.add("Sub", [bias, writer.add("Mul", [average, factor])])
    scaled = writer.add("Mul", [x, writer.add("Reshape", [factor, column])])
    writer.add("Add", [scaled, writer.add("Reshape", [offset, column])], node.output[0])


@form("InstanceNormalization", "GroupNormalization")
def group_normalization(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """Mean and deviation per group of channels, written out; then scale and bias."""
    shape = writer.shape(original.input[0])
    groups = int(attribute(node, "num_groups", shape[1]))
    axis = writer.integers(2)
    rows = writer.add("Reshape", [node.input[0], writer.integers(shape[0], groups, -1)])
    centred = writer.add("Sub", [rows, writer.add("ReduceMean", [rows, axis], keepdims=1)])
    variance = writer.add("ReduceMean", [writer.square(centred), axis], keepdims=1)
    deviation = writer.add("Sqrt", [writer.shifted(variance, float(attribute(node, "epsilon", 1e-5)))])
    even, whole = writer.add("Div", [centred, deviation]), writer.integers(*shape)
    per_group = writer.known.shape(original.input[1]) == (groups,)  # as before opset 21
    column = writer.integers(-1, *[1] * (1 if per_group else len(shape) - 2))
    even = even if per_group else writer.add("Reshape", [even, whole])
    scale, bias = (writer.add("Reshape", [name, column]) for name in node.input[1:3])
    scaled = writer.add("Mul", [even, scale])
    if per_group:
        writer.add("Reshape", [writer.add("Add", [scaled, bias]), whole], node.output[0])
    else:
        writer.add("Add", [scaled, bias], node.output[0])


# ---------------------------------------------------------------------------------------- resizing, transposed Conv


@form("Resize")
def resize(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """A matrix per axis, which is the node's own answer for the identity matrix, so that its weights are constants."""
    x = node.input[0]
    sizes, result = writer.shape(original.input[0]), writer.shape(original.output[0])
    rank = len(sizes)
    kept = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "axes"}
    listed = [int(a) % rank for a in attribute(node, "axes", range(rank))]
    scales = node.input[2] if len(node.input) > 2 else ""
    for place, axis in enumerate(listed):
        eye = writer.constant(np.eye(sizes[axis], dtype=np.float32))
        if scales:
            own = writer.add("Gather", [scales, writer.integers(place)])
            given = ["", writer.add("Concat", [writer.constant(np.ones(1, np.float32)), own], axis=0)]
        else:
            given = ["", "", writer.integers(sizes[axis], result[axis])]
        matrix = writer.add("Resize", [eye, *given], **kept)
        order = [*(i for i in range(rank) if i != axis), axis]
        moved = writer.add("MatMul", [writer.add("Transpose", [x], perm=order), matrix])
        x = writer.add("Transpose", [moved], perm=[int(i) for i in np.argsort(order)])
    writer.add("Identity", [x], node.output[0])


@form("ConvTranspose")
def conv_transpose(writer: Writer, node: onnx.NodeProto, original: onnx.NodeProto) -> None:
    """Conv of x with zeros in between, by the mirrored kernel."""
    n, c, *sizes = writer.shape(original.input[0])
    rank, kernel = len(sizes), writer.shape(original.input[1])
    strides, dilations = (list(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    pads, more = list(attribute(node, "pads", [0] * 2 * rank)), list(attribute(node, "output_padding", [0] * rank))
    spread = writer.add("Reshape", [node.input[0], writer.integers(n, c, *(v for d in sizes for v in (d, 1)))])
    zeros = [0] * (2 + 2 * rank), [0, 0, *(v for s in strides for v in (0, s - 1))]
    spread = writer.add("Pad", [spread, writer.integers(*zeros[0], *zeros[1])])
    spread = writer.add(
        "Reshape", [spread, writer.integers(n, c, *(d * s for d, s in zip(sizes, strides, strict=True)))]
    )
    reach = [d * (k - 1) for d, k in zip(dilations, kernel[2:], strict=True)]
    before = [reach[i] - pads[i] for i in range(rank)]
    behind = [reach[i] - pads[rank + i] + more[i] - (strides[i] - 1) for i in range(rank)]
    spread = writer.add("Pad", [spread, writer.integers(0, 0, *before, 0, 0, *behind)])
    groups = int(attribute(node, "group", 1))
    cut = writer.add("Reshape", [node.input[1], writer.integers(groups, c // groups, *kernel[1:])])
    turned = writer.add("Transpose", [cut], perm=[0, 2, 1, *range(3, 3 + rank)])
    turned = writer.add("Reshape", [turned, writer.integers(groups * kernel[1], c // groups, *kernel[2:])])
    for i, size in enumerate(kernel[2:]):
        turned = writer.add("Gather", [turned, writer.integers(*range(size - 1, -1, -1))], axis=2 + i)
    inputs = [spread, turned, *node.input[2:]]
    writer.add("Conv", inputs, node.output[0], group=groups, dilations=dilations, kernel_shape=list(kernel[2:]))
