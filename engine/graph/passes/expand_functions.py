"""Replaces operators that the standard itself defines by simpler ones: their function bodies.

Such an operator needs no rule: what it is made of has them. Bodies that depend on the operands' types and
ranks, and on which operands are there, are built per node.

1. Attention, RotaryEmbedding, the losses, ... (:data:`EXPANDED`) -> the standard's body at the model's opset
2. operators of such a body that have one themselves (a loss within a loss) -> theirs, until none is left
3. a body that computes in float32 for the sake of narrower operands computes in float64 where an operand is that
4. a node whose body cannot be built (unknown types) is left as it is; the walk refuses it where it is asked for
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.graph.builder import schema_of
from onnxplain.engine.graph.captures import captured, walk

#: (domain, operator) of what is expanded. No rule may be registered for one of these: it would never run.
EXPANDED = frozenset(
    {
        ("", "Attention"),
        ("", "CausalConvWithState"),
        ("", "LinearAttention"),
        ("", "NegativeLogLikelihoodLoss"),
        ("", "RotaryEmbedding"),
        ("", "SoftmaxCrossEntropyLoss"),
        ("", "SwiGLU"),
        ("ai.onnx.preview", "FlexAttention"),
    }
)

#: Domain that a node has between finding its body and taking it in.
_DOMAIN = "onnxplain.body"


class ExpandFunctionsPass(ir.passes.InPlacePass):
    """See the module's text. Requires inferred types, nodes in order and functions inlined."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while _attach_bodies(model):
            common.InlinePass()(model)
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
            modified = True
        model.graph.opset_imports.pop(_DOMAIN, None)
        return ir.passes.PassResult(model, modified=modified)


def _attach_bodies(model: ir.Model) -> bool:
    """Turn every node to be expanded into a call of a function of the model."""
    opset = model.graph.opset_imports.get("", 0)
    nodes = [n for n in walk(model.graph) if _key(n) in EXPANDED]
    found = False
    for index, node in enumerate(nodes):
        body = body_of(node, opset)
        if body is None:
            continue
        name = f"{node.op_type}_{index}"
        for attribute in [a for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]:
            del node.attributes[attribute.name]  # the body was built with it
        body.domain, body.name = _DOMAIN, name
        function = ir.serde.deserialize_function(body)
        function.opset_imports[""] = opset
        model.functions[function.identifier()] = function
        node.domain, node.op_type, node.version = _DOMAIN, name, None
        found = True
    if found:
        model.graph.opset_imports[_DOMAIN] = 1
    return found


def _key(node: ir.Node) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def body_of(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The node's function body as it is valid at ``opset`` of ai.onnx; None where the standard has none for it."""
    domain, version = _key(node)[0], opset
    if domain:
        version = node.graph.opset_imports.get(domain, 1) if isinstance(node.graph, ir.Graph) else 1
    try:
        schema: Any = schema_of(node.op_type, version, domain)  # onnx's stubs lack the functions
    except ValueError:
        return None
    fixed = [int(v) for v in schema.function_opset_versions if v <= version]
    built = [int(v) for v in schema.context_dependent_function_opset_versions if v <= version]
    if captured(node):
        return None  # a body sees its own operands alone
    if fixed:
        body = onnx.FunctionProto.FromString(schema.get_function_with_opset_version(max(fixed)))
    elif built and (types := _types(node)) is not None:
        content = schema.get_context_dependent_function_with_opset_version(
            max(built), ir.to_proto(node).SerializeToString(), types
        )
        if not content:
            return None
        body = onnx.FunctionProto.FromString(content)
    else:
        return None
    _fit_outputs(body, len(node.outputs))
    if any(x is not None and x.dtype == ir.DataType.DOUBLE for x in node.inputs):
        _widen(body.node)
    _fill_defaults(node, schema)
    return body if all(_valid(n, opset) for n in body.node) else None


def _types(node: ir.Node) -> list[bytes] | None:
    """The operands' types; None where one is unknown."""
    types = []
    for x in node.inputs:
        proto = onnx.TypeProto()
        if x is not None:
            if x.type is None:
                return None
            ir.serde.serialize_type_into(proto, x.type)
            if x.shape is not None:
                ir.serde.serialize_shape_into(proto, x.shape)
        types.append(proto.SerializeToString())
    return types


def _fit_outputs(body: onnx.FunctionProto, count: int) -> None:
    """A body lists all results of the operator, and computes those that the node has."""
    del body.output[count:]
    computed = {*body.input, *(y for n in body.node for y in n.output)}
    for name in [y for y in body.output if y not in computed]:
        body.node.append(onnx.helper.make_node("Identity", [body.output[0]], [name]))


def _widen(nodes: Iterable[onnx.NodeProto]) -> None:
    """float64 in the place of float32, in graphs inside as well."""
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", onnx.helper.make_tensor("", double, [1], [0.0])))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g.node)
                for value in (*attribute.g.input, *attribute.g.output):
                    if value.type.tensor_type.elem_type == single:
                        value.type.tensor_type.elem_type = double
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == single:
                wide = onnx.numpy_helper.to_array(attribute.t).astype("float64")
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(wide, attribute.t.name))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = double


def _fill_defaults(node: ir.Node, schema: onnx.defs.OpSchema) -> None:
    """A fixed body reads attributes; those left out have their default."""
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.type:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)


def _valid(proto: onnx.NodeProto, opset: int) -> bool:
    """Whether a node of a body written for an older opset has a form that exists at this one."""
    try:
        schema = schema_of(proto.op_type, opset, proto.domain)
    except ValueError:
        return False
    known = schema.attributes
    return len(proto.input) <= schema.max_input and _names(proto.attribute) <= set(known)


def _names(attributes: Iterable[onnx.AttributeProto]) -> set[str]:
    return {a.name for a in attributes}
