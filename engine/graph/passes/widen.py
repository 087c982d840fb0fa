"""float16 and bfloat16 -> float32: the form of a model in which no gradient underflows.

1. Graph inputs keep their type; a Cast stands behind each of them.
2. Initializers: small ones are converted, so that what they say stays known; large ones get a Cast that
   the runtime folds, so that the file does not hold them twice.
3. Every other value becomes float32, in subgraphs as well, and with them the types that attributes name
   (Cast, random numbers, constants).

What a half type rounds away inside the model is thereby not rounded: values differ from the model's own
by that rounding, no more.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import PREFIX, Builder
from onnxplain.engine.graph.captures import walk

#: Types that are too narrow for adjoints.
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

#: Name prefix of the float32 form of what keeps its half type under its own name.
WIDE = f"{PREFIX}/shadow/"

#: Initializers above this many bytes are cast in the graph.
_LIMIT = 1 << 16
_TYPES = ("to", "dtype", "output_dtype")


def has_halves(model: ir.Model) -> bool:
    """Whether a half type occurs anywhere in the main graph."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(y for n in graph for y in n.outputs)]
    return any(v.dtype in HALVES for v in values if v.type is not None)


class WidenPass(ir.passes.InPlacePass):
    """See the module's text. Requires inferred types."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        for node in walk(graph):
            _widen_attributes(node)
            for y in node.outputs:
                _widen_type(y)
        for inner in graph.subgraphs():
            for value in inner.inputs:
                _widen_type(value)
            for value in list(inner.initializers.values()):
                _convert(value)
        first = next(iter(graph), None)
        op = Builder(graph, before=first)
        for value in [*graph.inputs, *graph.initializers.values()]:
            if value.dtype in HALVES:
                self._widen(op, value)
        return ir.passes.PassResult(model, modified=True)

    @staticmethod
    def _widen(op: Builder, value: ir.Value) -> None:
        if not value.is_graph_input() and value.const_value is not None and value.const_value.nbytes <= _LIMIT:
            _convert(value)
            return
        uses = list(value.uses())
        wide = op.Cast(value, to=ir.DataType.FLOAT.value, name=f"{WIDE}{value.name}")
        wide.shape = value.shape
        for user, index in uses:
            user.replace_input_with(index, wide)


def _convert(value: ir.Value) -> None:
    if value.const_value is None or value.dtype not in HALVES:
        return
    array = np.asarray(value.const_value.numpy()).astype(np.float32)
    value.const_value = ir.tensor(array, name=value.name)
    value.type = ir.TensorType(ir.DataType.FLOAT)


def _widen_type(value: ir.Value) -> None:
    if value.type is not None and value.type.dtype in HALVES:
        value.type = _wide(value.type)  # a new object: copies of a graph share types


def _wide(kind: ir.TypeProtocol) -> ir.TypeProtocol:
    if isinstance(kind, (ir.SequenceType, ir.OptionalType)):
        return type(kind)(_wide(kind.elem_type))
    return ir.TensorType(ir.DataType.FLOAT)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.INT and name in _TYPES and node.domain in ("", "ai.onnx"):
            if attribute.value in {h.value for h in HALVES}:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in HALVES:
            array = np.asarray(attribute.value.numpy()).astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
