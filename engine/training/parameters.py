"""Which initializers of a network are learned, what each of them is for, and what they are before training.

A weight is known by the operand that it is: the second of a Conv, the scale of a BatchNormalization. Other
constants (masks, means of the preprocessing, sizes) stay as they are. Exporters write equal tensors once, so the
zeros that start ten biases may be one initializer; each layer gets its own before it is trained.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import constant, is_float, rank

Array = np.ndarray[Any, Any]
Kind = Literal["weight", "bias", "scale", "slope", "table"]

#: What an operand of an operator is for. Add and Gather are looked at more closely.
SITES: dict[str, dict[int, Kind]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "Add": {0: "bias", 1: "bias"},
    "BatchNormalization": {1: "scale", 2: "bias"},
    "LayerNormalization": {1: "scale", 2: "bias"},
    "InstanceNormalization": {1: "scale", 2: "bias"},
    "GroupNormalization": {1: "scale", 2: "bias"},
    "RMSNormalization": {1: "scale"},
    "PRelu": {1: "slope"},
    "Gather": {0: "table"},
}

#: Operators whose result a bias is added to by an Add of its own.
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: Slopes of PRelu before training, as its authors start them (arXiv 1502.01852).
FIRST_SLOPE = 0.25


@dataclass(frozen=True)
class Parameter:
    """One learned initializer.

    Attributes:
        name: In the network's graph.
        kind: What it is for.
        shape: Its sizes.
        fan_in: Numbers that one result of the operator is summed from; for weights.
        start: Where it begins in the flat vector of all parameters.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    fan_in: int
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def place(self) -> slice:
        """Where it stands in the flat vector."""
        return slice(self.start, self.start + self.size)

    def drawn(self, seed: int, number: int) -> Array:
        """Values before training: He et al. (arXiv 1502.01852) for weights, normal of variance 2 / fan-in.

        Args:
            seed: The user's.
            number: Of this parameter among all.
        """
        if self.kind == "weight":
            return generator(seed, number).normal(0.0, math.sqrt(2.0 / max(1, self.fan_in)), self.shape)
        if self.kind == "table":
            return generator(seed, number).normal(0.0, 1.0, self.shape)
        value = {"bias": 0.0, "scale": 1.0, "slope": FIRST_SLOPE}[self.kind]
        return np.full(self.shape, value)


def own_parameters(model: ir.Model) -> None:
    """Give every layer parameters of its own where the file keeps equal ones once. Changes the model.

    Scale, bias and statistics of a BatchNormalization are always its own. Other biases are, unless the layer's
    weights are shared as well, which is how a layer that is used twice looks.
    """
    for node in model.graph:
        if node.op_type == "BatchNormalization" and node.domain == "":
            places: Iterable[int] = range(1, 5)
        else:
            places = [i for i, kind in _sites(node).items() if kind == "bias" and not _shared_weights(node)]
        for index in places:
            value = node.inputs[index]
            if value is not None and len(value.uses()) > 1 and constant(value) is not None:
                copy = Builder(model.graph).constant(constant(value), value.dtype, name=f"{value.name}/{node.name}")
                node.replace_input_with(index, copy)


def find_parameters(model: ir.Model, frozen: Sequence[str] = ()) -> list[Parameter]:
    """The learned initializers in the order of the graph, laid out one behind the other.

    Args:
        model: A canonical network.
        frozen: Names, or patterns such as ``features.*``, of those that stay as they are.

    Raises:
        OptionError: There are none; or a pattern fits none; or they are of half precision.
    """
    found: dict[str, Parameter] = {}
    start, met = 0, set()
    for node in model.graph:
        for index, kind in _sites(node).items():
            value = node.inputs[index]
            if value is None or not value.name or value.name in found:
                continue
            hits = [p for p in frozen if fnmatch.fnmatchcase(value.name, p)]
            met.update(hits)
            if not hits:
                shape = fixed_shape(value)
                found[value.name] = Parameter(value.name, kind, shape, fan_in(node, index, shape), start)
                start += found[value.name].size
    _check(model, found, [p for p in frozen if p not in met])
    return list(found.values())


def _check(model: ir.Model, found: dict[str, Parameter], unused: Sequence[str]) -> None:
    if unused:
        names = ", ".join(found) or "none"
        raise OptionError(f"frozen='{unused[0]}' fits no parameter; the network's are {names}")
    if not found:
        raise OptionError(
            "the network has no float weights to train (of Conv, Gemm, MatMul, normalisations); "
            "give the float model that a quantised one was made from, or freeze less"
        )
    types = {model.graph.initializers[name].dtype for name in found}
    if types - {ir.DataType.FLOAT}:
        others = ", ".join(sorted(t.name.lower() for t in types - {ir.DataType.FLOAT} if t is not None))
        raise OptionError(f"weights of type {others} are not trained; export the model in float32")


def _sites(node: ir.Node) -> dict[int, Kind]:
    """Operands of a node that are parameters."""
    if node.domain != "":
        return {}
    places = {
        i: kind
        for i, kind in SITES.get(node.op_type, {}).items()
        if i < len(node.inputs) and _is_weight(node.inputs[i])
    }
    suits = _SUITS.get(node.op_type)
    return places if suits is None or suits(node) else {}


def fixed_shape(value: ir.Value) -> tuple[int, ...]:
    """Sizes of an initializer."""
    array = constant(value)
    assert array is not None
    return tuple(int(d) for d in array.shape)


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and constant(value) is not None and is_float(value)


def _added_to_linear(node: ir.Node) -> bool:
    """Whether an Add is the bias of a layer in front of it."""
    producers = [v.producer() for v in node.inputs if v is not None]
    return any(p is not None and p.op_type in LINEAR and p.domain == "" for p in producers)


def _looks_up(node: ir.Node) -> bool:
    """Whether a Gather is an embedding: rows of a table by computed numbers."""
    table, ids = node.inputs[0], node.inputs[1]
    return table is not None and rank(table) == 2 and ids is not None and constant(ids) is None


_SUITS: dict[str, Callable[[ir.Node], bool]] = {"Add": _added_to_linear, "Gather": _looks_up}


def _shared_weights(node: ir.Node) -> bool:
    """Whether the weights that go with a node's bias are used elsewhere, too."""
    owners = [node]
    if node.op_type == "Add":
        owners = [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
    weights = [v for n in owners if n.op_type in LINEAR for v in n.inputs[:2] if _is_weight(v)]
    return any(v is not None and len(v.uses()) > 1 for v in weights)


def fan_in(node: ir.Node, index: int, shape: tuple[int, ...]) -> int:
    """How many products one result of the operator is the sum of."""
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    if node.op_type == "ConvTranspose":
        strides = node.attributes["strides"].value if "strides" in node.attributes else ()
        group = int(node.attributes["group"].value) if "group" in node.attributes else 1
        return max(1, shape[0] * math.prod(shape[2:]) // (group * math.prod(strides)))
    if node.op_type == "Gemm" and len(shape) == 2:
        turned = bool(node.attributes["transA" if index == 0 else "transB"].value)
        return shape[0] if turned == (index == 0) else shape[1]
    if node.op_type == "MatMul":
        return shape[-1] if index == 0 or len(shape) == 1 else shape[-2]
    return 1
