"""Types and shapes of one node's results from those of its operands, while a pass is at work.

Whole-graph inference stops at the first operator that the standard does not know. A pass that replaces
such operators one after the other infers what it emitted, so that the next one finds known ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, Operand, schema_of
from onnxplain.engine.graph.contents import complete, improve
from onnxplain.engine.graph.shapes import constant, dims

#: Constants above this many bytes are no sizes and are not shown to the inference.
_LIMIT = 1 << 12

#: What ONNX's inference raises for operands that the operator's schema does not know.
_FAILURES = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError)


def infer_node(node: ir.Node, opset: int, *, again: bool = False) -> None:
    """Fill in the types and shapes of the results that have none yet; what is not known stays unknown.

    Args:
        node: A node of the standard; any other is left alone.
        opset: What it is written for.
        again: Its operands may be better known than before: look for single sizes as well.
    """
    done = complete if again else _described
    if node.domain not in ("", "ai.onnx") or all(done(y) for y in node.outputs):
        return
    if any(x is not None and x.dtype is None for x in node.inputs):
        return
    try:
        types = {x.name: type_proto(x) for x in node.inputs if x is not None and x.name}
        data = {
            x.name: onnx.numpy_helper.from_array(array)
            for x in node.inputs
            if x is not None and x.name and (array := constant(x)) is not None and array.nbytes <= _LIMIT
        }
        schema = schema_of(node.op_type, opset)
        found = onnx.shape_inference.infer_node_outputs(
            schema, ir.to_proto(node), types, data, None, [onnx.helper.make_opsetid("", opset)], 8
        )
    except (*_FAILURES, ValueError, RuntimeError, KeyError, TypeError):
        return
    for value in node.outputs:
        proto = found.get(value.name or "")
        if proto is None or not proto.HasField("tensor_type"):
            continue
        tensor = proto.tensor_type
        if value.type is None and tensor.elem_type:
            value.type = ir.TensorType(ir.DataType(tensor.elem_type))
        if tensor.HasField("shape") and (again or value.shape is None):
            improve(
                value, tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
            )


def _described(value: ir.Value) -> bool:
    return value.type is not None and value.shape is not None


def type_proto(value: ir.Value) -> onnx.TypeProto:
    """What is known of a value's type and sizes, as ONNX's own inference takes it."""
    proto = onnx.TypeProto()
    proto.tensor_type.elem_type = value.dtype.value if value.dtype is not None else 0
    known = dims(value)
    if known is not None:
        proto.tensor_type.shape.SetInParent()
        for d in known:
            dim = proto.tensor_type.shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            elif d is not None:
                dim.dim_param = d
    return proto


class InferringBuilder(Builder):
    """A builder that remembers what it emitted, and infers it at once."""

    def __init__(self, graph: ir.Graph, taken: set[str] | None = None) -> None:
        super().__init__(graph, taken=taken)
        self.emitted: list[ir.Node] = []

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Operand],
        outputs: int = 1,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> list[ir.Value]:
        """See :meth:`Builder.emit`."""
        values = super().emit(op_type, inputs, outputs, domain, name, **attributes)
        node = values[0].producer()
        if node is not None:
            infer_node(node, self.opset)
            self.emitted.append(node)
        return values
