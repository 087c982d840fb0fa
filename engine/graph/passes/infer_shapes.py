"""Types and shapes of all values, by the standard's own inference, at half the cost of the general pass.

1. A model without graphs inside its nodes and without functions is inferred from a message that holds no
   large weights, and only what was found is taken over.
2. Any other model goes through the general pass.

``InferAgainPass`` is for later in a sequence: where nothing was left unknown, there is nothing to infer.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.shapes import dims, set_dims

#: Initializers above this many bytes are shown to the inference by type and shape alone.
_LIMIT = 1 << 10


class InferShapesPass(common.ShapeInferencePass):
    """See the module's text. Requires nodes in order; leaves the model as it is where inference fails."""

    def __init__(self) -> None:
        super().__init__(check_type=False, strict_mode=False, data_prop=True)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.functions or any(next(subgraphs(node), None) is not None for node in model.graph):
            return super().call(model)
        try:
            found = onnx.shape_inference.infer_shapes(_light(model), data_prop=True)
        except Exception:  # less is known; what is known stays right
            return ir.passes.PassResult(model, modified=False)
        values = {y.name: y for node in model.graph for y in node.outputs}
        modified = False
        for info in (*found.graph.value_info, *found.graph.output):
            value = values.get(info.name)
            if value is not None:
                modified = _take(value, info.type) or modified
        return ir.passes.PassResult(model, modified=modified)


class InferAgainPass(InferShapesPass):
    """The same, unless every value has a type and a shape without a gap."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if all(_known(y) for node in walk(model.graph) for y in node.outputs):
            return ir.passes.PassResult(model, modified=False)
        return super().call(model)


def _known(value: ir.Value) -> bool:
    if value.type is None or value.shape is None:
        return False
    return all(isinstance(d, int) or d.value is not None for d in value.shape)


def _light(model: ir.Model) -> onnx.ModelProto:
    """The model as a message without its large weights, which are inputs in it."""
    graph = model.graph
    inputs, heavy = list(graph.inputs), []
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and value.shape is None:
            value.shape = tensor.shape  # type: ignore[assignment]
        if tensor is not None and value.type is None:
            value.type = ir.TensorType(tensor.dtype)
        if not value.is_graph_input():
            graph.inputs.append(value)
        if tensor is None or tensor.nbytes > _LIMIT:
            heavy.append(value)
            graph.initializers.pop(value.name or "")
    try:
        return ir.to_proto(model)
    finally:
        for value in heavy:
            graph.initializers[value.name or ""] = value
        graph.inputs.clear()
        graph.inputs.extend(inputs)


def _take(value: ir.Value, proto: onnx.TypeProto) -> bool:
    """Take over what was found of one value; whether that was more than what was known."""
    if proto.WhichOneof("value") != "tensor_type":
        if value.type is None and proto.WhichOneof("value") is not None:
            value.type = ir.serde.deserialize_type_proto_for_type(proto)
            return True
        return False
    tensor, modified = proto.tensor_type, False
    if tensor.elem_type and (value.type is None or value.dtype != tensor.elem_type):
        value.type = ir.TensorType(ir.DataType(tensor.elem_type))
        modified = True
    if tensor.HasField("shape"):
        found = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
        if dims(value) != found:
            set_dims(value, found)
            modified = True
    return modified
