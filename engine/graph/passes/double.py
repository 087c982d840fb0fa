"""Every float type -> float64: the form in which a model is verified.

1. Inputs, initializers, results, and what graphs inside others take and return, in functions of the model as well.
2. Types that attributes name (Cast, random numbers), and tensors in attributes.

Values of weights do not change. Only the reference evaluator runs what comes out: runtimes have few kernels
in float64, and some operators of the standard want certain operands in float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.captures import subgraphs

_NARROW = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_TYPES = ("to", "dtype", "output_dtype")


class DoublePass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            _convert_graph(graph)
        return ir.passes.PassResult(model, modified=True)


def _convert_graph(graph: ir.Graph) -> None:
    for value in graph.inputs:
        _convert_type(value)
    for value in list(graph.initializers.values()):
        _convert_content(value)
    for node in graph:
        _convert_attributes(node)
        for value in node.outputs:
            _convert_type(value)
        for inner in subgraphs(node):
            _convert_graph(inner)


def _convert_type(value: ir.Value) -> None:
    if value.type is not None:
        value.type = _double(value.type)  # a new object: copies of a graph share types


def _double(kind: ir.TypeProtocol) -> ir.TypeProtocol:
    if isinstance(kind, (ir.SequenceType, ir.OptionalType)):
        return type(kind)(_double(kind.elem_type))
    return ir.TensorType(ir.DataType.DOUBLE) if kind.dtype in _NARROW else kind


def _convert_content(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype in _NARROW:
        value.const_value = ir.tensor(_doubles(value.const_value), name=value.name)
    _convert_type(value)


def _doubles(tensor: ir.TensorProtocol) -> np.ndarray:
    return np.asarray(tensor.numpy()).astype(np.float64)


def _convert_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.INT and name in _TYPES and node.domain in ("", "ai.onnx"):
            if attribute.value in {narrow.value for narrow in _NARROW}:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.DOUBLE.value)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _NARROW:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(_doubles(attribute.value)))
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:  # its default is a float32 zero
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1)))
