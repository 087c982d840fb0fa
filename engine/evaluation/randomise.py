"""A model with some of its weights drawn anew: what a map must notice if it has anything to do with the model.

The initializers of the canonical graph are replaced, so whatever can be explained can be randomised: files with
BatchNormalization or with it folded, float16, int8 (drawn in real numbers, stored in the tensor's own integers),
recurrent networks after they were lowered. Guarantees: shapes, types and every other tensor stay as they are; what a
tensor is drawn as depends on the seed, the layer and the tensor alone, so that a layer gets the same numbers whether
it is drawn alone or with the others (Adebayo et al. 2018, arXiv 1810.03292, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError, TargetError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.captures import operands, subgraphs
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import constant, is_float
from onnxplain.engine.loading import Model
from onnxplain.engine.method import choose

#: What new values are drawn from; see :func:`randomised`.
DISTRIBUTIONS = ("normal", "normal_0.1", "kaiming", "permutation")

#: Operands that are weights, by operator; which of a product's two is one, is seen.
_WEIGHTS = {
    "Conv": (1,), "ConvTranspose": (1,), "DeformConv": (1,), "ConvInteger": (1,), "QLinearConv": (3,), "Gemm": (0, 1),
    "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "Einsum": (0, 1), "Gather": (0,),
}  # fmt: skip
#: Operands that go with the weights: role by place.
_BESIDE = {
    "Conv": {2: "bias"}, "ConvTranspose": {2: "bias"}, "DeformConv": {3: "bias"}, "QLinearConv": {8: "bias"},
    "Gemm": {2: "bias"},
}  # fmt: skip
#: Operators without weights of their own, that go with the layer in front of them: role by place.
_BEHIND = {
    "BatchNormalization": {1: "gain", 2: "bias", 3: "mean", 4: "variance"},
    "LayerNormalization": {1: "gain", 2: "bias"},
    "InstanceNormalization": {1: "gain", 2: "bias"},
    "GroupNormalization": {1: "gain", 2: "bias"},
    "RMSNormalization": {1: "gain"},
    "PRelu": {1: "gain"},
    "Add": {0: "bias", 1: "bias"},
    "Sub": {0: "bias", 1: "bias"},
    "Mul": {0: "gain", 1: "gain"},
    "Div": {0: "gain", 1: "gain"},
}
#: What only moves or converts a tensor.
_MOVING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Identity", "DequantizeLinear")
#: Roles that are drawn only where running statistics are asked for.
_STATISTICS = ("mean", "variance")


@dataclass(frozen=True)
class Parameter:
    """A tensor of a layer.

    Attributes:
        name: The initializer.
        role: ``weight``, ``bias``, ``gain``, ``mean`` or ``variance``.
        fan_in: Of weights: how many numbers enter one result.
        scale, zero, axis: Of integers that stand for real numbers: initializers of scale and zero point, and along
            which axis they differ.
    """

    name: str
    role: str
    fan_in: int = 1
    scale: str = ""
    zero: str = ""
    axis: int = 0


@dataclass(frozen=True)
class WeightLayer:
    """A node with weights, with its bias, and the normalisation behind it.

    Attributes:
        number: From the output, 0 on.
        name, operator: The node.
        parameters: Its tensors.
    """

    number: int
    name: str
    operator: str
    parameters: tuple[Parameter, ...]


def weight_layers(model: Model, output: str | None = None) -> list[WeightLayer]:
    """Layers with weights between the inputs and an output, from the output downwards.

    A layer is a convolution, a product with constant weights or an embedding; its bias, an added constant and the
    normalisation behind it belong to it. A tensor that several nodes share belongs to the last of them.

    Args:
        model: The loaded model.
        output: The explained output; the first float one by default.

    Raises:
        TargetError: No such output.
        OptionError: There is nothing to draw anew.
    """
    graph = model.canonical.graph
    outputs = [v for v in graph.outputs if v.name == output or (output is None and is_float(v))]
    if not outputs:
        raise TargetError(f"the model has no float output '{output or ''}'; see 'onnxplain check' for its outputs")
    found = _Finder(_ancestors(outputs[0])).run(graph)
    if not found:
        raise OptionError("the model has no weights between input and output; there is nothing to draw anew")
    return [
        WeightLayer(i, label(node), describe(node), tuple(parameters))
        for i, (node, parameters) in enumerate(reversed(found))
    ]


def _ancestors(value: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    queue = [value]
    while queue:
        node = queue.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            queue += operands(node)
    return found


class _Finder:
    """Walks the nodes in order; a layer is known by the initializer of its weights."""

    def __init__(self, wanted: set[ir.Node]) -> None:
        self.wanted = wanted
        self.layers: dict[str, tuple[ir.Node, list[Parameter]]] = {}  # by weight; the order is that of the last use
        self.owners: dict[ir.Value, str] = {}  # the layer that a value has last passed through
        self.taken: set[str] = set()
        self.initializers: Mapping[str, ir.Value] = {}

    def run(self, graph: ir.Graph) -> list[tuple[ir.Node, list[Parameter]]]:
        self.initializers = graph.initializers
        for node in graph:
            if node in self.wanted:
                self._visit(node)
        return list(self.layers.values())

    def _visit(self, node: ir.Node) -> None:
        for inner in subgraphs(node):
            for one in inner:
                self._visit(one)
        own = self._weights(node)
        owner = own or self._before(node)
        beside = (_BESIDE if own else _BEHIND).get(node.op_type, {}) if node.domain == "" else {}
        for place, role in beside.items():
            if place < len(node.inputs) and (value := node.inputs[place]) is not None and owner:
                self._take(owner, value, role, node)
        if owner:
            self.owners.update(dict.fromkeys(node.outputs, owner))

    def _before(self, node: ir.Node) -> str:
        """The layer last met on the way to the node."""
        order = list(self.layers)
        known = [self.owners[x] for x in operands(node) if x in self.owners]
        return max(known, key=order.index, default="")

    def _weights(self, node: ir.Node) -> str:
        """The layer that the node is, if it has constant weights and computes on something else."""
        places = [i for i in _WEIGHTS.get(node.op_type, ()) if i < len(node.inputs)] if node.domain == "" else []
        found = [(i, p) for i in places if (p := _parameter(node.inputs[i], "weight", node, i)) is not None]
        learned = [(i, p) for i, p in found if node.op_type != "Gather" or p.fan_in]
        if len(found) != 1 or not learned:
            return ""
        name = learned[0][1].name
        known = self.layers.pop(name, (node, []))  # taken out and put back: used later, nearer to the output
        self.layers[name] = (node, known[1] or [learned[0][1]])
        self.taken.add(name)
        return name

    def _take(self, owner: str, value: ir.Value, role: str, node: ir.Node) -> None:
        parameter = _parameter(value, role, node, 0)
        if parameter is None or parameter.name in self.taken:
            return
        array = constant(self.initializers.get(parameter.name))
        if array is None or (node.op_type in ("Add", "Sub", "Mul", "Div") and not _learned(array)):
            return
        self.taken.add(parameter.name)
        self.layers[owner][1].append(parameter)


def _learned(array: Array) -> bool:
    """Whether an added or multiplied constant looks learned: several values, all finite; not a number, nor a mask."""
    values = array.astype(np.float64)
    return array.size > 1 and bool(np.isfinite(values).all()) and (array.ndim < 2 or len(np.unique(values)) > 2)


def _parameter(value: ir.Value | None, role: str, node: ir.Node, place: int) -> Parameter | None:
    """The initializer behind an operand, through what only moves or converts it."""
    scale: tuple[str, str, int] = ("", "", 0)
    while value is not None and value.const_value is None and (producer := value.producer()) is not None:
        if producer.op_type not in _MOVING or producer.domain != "":
            return None
        if producer.op_type == "DequantizeLinear":
            axis = int(producer.attributes["axis"].value) if "axis" in producer.attributes else 1
            zero = producer.inputs[2] if len(producer.inputs) > 2 else None
            scale = (_name(producer.inputs[1]), _name(zero), axis)
        value = producer.inputs[0]
    array = constant(value)
    if value is None or array is None or not value.name or array.ndim == 0:
        return None
    integer = array.dtype.kind in "iu"
    if (not integer and not is_float(value)) or (integer and not scale[0]):
        return None
    return Parameter(value.name, role, _fan_in(array.shape, node, place) if role == "weight" else 1, *scale)


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.const_value is None else value.name or ""


def _fan_in(shape: tuple[int, ...], node: ir.Node, place: int) -> int:
    """How many numbers enter one result; 0 for what is no table of embeddings."""
    if node.op_type == "Gather":
        return 1 if len(shape) == 2 and constant(node.inputs[1]) is None else 0
    if node.op_type == "ConvTranspose":
        group = int(node.attributes["group"].value) if "group" in node.attributes else 1
        return max(1, shape[0] // group * int(np.prod(shape[2:])))
    if node.op_type in ("Conv", "DeformConv", "ConvInteger", "QLinearConv"):
        return int(np.prod(shape[1:]))
    if node.op_type == "Gemm":
        turned = bool(node.attributes["transB" if place else "transA"].value)
        return shape[-1] if turned == bool(place) else shape[0]
    if len(shape) < 2:
        return shape[0]
    return shape[-1] if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul") and place == 0 else shape[-2]


# ----- drawing -----------------------------------------------------------------------------------


def randomised(
    model: Model,
    layers: Sequence[WeightLayer],
    *,
    distribution: str = "normal",
    statistics: bool = False,
    seed: int = 0,
) -> Model:
    """The model with these layers' tensors drawn anew; the one that is given stays as it is.

    ==============  ======================================  =======================================================
    distribution    weights, biases                         gains of normalisation (and running variance)
    ==============  ======================================  =======================================================
    ``normal``      N(0, the tensor's own deviation)        N(the tensor's mean, its deviation); variance: permuted
    ``normal_0.1``  N(0, 0.1), as the authors of 2012.00362 the same; variance: its magnitude
    ``kaiming``     N(0, 2 / fan in); biases 0              1
    ``permutation`` the tensor's own values in new order    likewise
    ==============  ======================================  =======================================================

    Args:
        model: The loaded model.
        layers: From :func:`weight_layers`.
        distribution: See the table. A mean of zero for gains would switch half of the channels off.
        statistics: Draw BatchNormalization's running mean and variance, too.
        seed: Of the draws.

    Raises:
        OptionError: Unknown distribution.
    """
    choose("distribution", distribution, DISTRIBUTIONS)
    canonical = model.canonical.clone()
    initializers = canonical.graph.initializers
    for layer, number, parameter in _each(layers):
        if parameter.role in _STATISTICS and not statistics:
            continue
        value = initializers[parameter.name]
        rng = generator(seed, layer, number)
        array = np.asarray(constant(value))
        if distribution == "permutation":
            fresh = rng.permutation(array.reshape(-1)).reshape(array.shape)
        else:
            scale, zero = (constant(initializers[n]) if n else None for n in (parameter.scale, parameter.zero))
            scale, zero = (_along(a, array.ndim, parameter.axis) for a in (scale, zero))
            drawn = _drawn((array.astype(np.float64) - zero) * _or_one(scale), parameter, distribution, rng)
            fresh = _stored(drawn / _or_one(scale) + zero, array.dtype)
        value.const_value = ir.tensor(np.ascontiguousarray(fresh), name=value.name)
    return model.with_graph(canonical)


def _each(layers: Sequence[WeightLayer]) -> Iterator[tuple[int, int, Parameter]]:
    for layer in layers:
        for number, parameter in enumerate(layer.parameters):
            yield layer.number, number, parameter


def _along(array: Array | None, rank: int, axis: int) -> Array:
    """Scale or zero point, broadcastable to its tensor; zero where there is none."""
    if array is None:
        return np.zeros(())
    shape = [1] * rank
    if array.size > 1:
        shape[axis] = array.size
    return array.astype(np.float64).reshape(shape)


def _or_one(scale: Array) -> Array:
    return np.where(scale == 0, 1.0, scale)


def _drawn(values: Array, parameter: Parameter, distribution: str, rng: np.random.Generator) -> Array:
    if distribution == "kaiming":
        if parameter.role == "weight":
            return np.asarray(rng.normal(0.0, np.sqrt(2.0 / max(1, parameter.fan_in)), size=values.shape))
        return np.full(values.shape, 1.0 if parameter.role in ("gain", "variance") else 0.0)
    if distribution == "normal_0.1":
        drawn = np.asarray(rng.normal(0.0, 0.1, size=values.shape))
        return np.abs(drawn) if parameter.role == "variance" else drawn
    if parameter.role == "variance":
        return rng.permutation(values.reshape(-1)).reshape(values.shape)
    # A tensor of one value has no deviation; its size stands in for it.
    spread = float(values.std() if values.size > 1 else np.abs(values).max())
    mean = float(values.mean()) if parameter.role == "gain" else 0.0
    return np.asarray(rng.normal(mean, spread, size=values.shape))


def _stored(values: Array, dtype: np.dtype[Any]) -> Array:
    """Real numbers as a type of floats, or rounded to integers within their range."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.asarray(np.clip(np.rint(values), limits.min, limits.max).astype(dtype))
    return values.astype(dtype)


__all__ = ["DISTRIBUTIONS", "Parameter", "WeightLayer", "randomised", "weight_layers"]
