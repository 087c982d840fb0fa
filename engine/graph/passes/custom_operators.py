"""Readies operators of other domains for their rules: the version that they are meant at, and their results' types.

1. Every node of a domain other than the standard one is stamped with the version that the model imports,
   in graphs inside others as well.
2. A result whose type or sizes are not known gets what the operator's plug-in declares; a call of a
   model-local function gets what inference finds in its body; what is still without a type gets that of
   the first float operand, where a plug-in has a rule for the operator (a wrong guess is refused by the
   runtime, it cannot change a number).
3. Whole-graph inference stops at an operator that it does not know, so what comes behind one that became
   known here is inferred node by node.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import onnx
import onnx_ir as ir

from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.custom import RESULTS, is_kept
from onnxplain.engine.graph.infer import infer_node, type_proto
from onnxplain.engine.graph.passes.upgrade_opset import UpgradeOpsetPass
from onnxplain.engine.graph.shapes import is_float, set_dims
from onnxplain.engine.rules.node import Primal

Functions = Mapping[ir.OperatorIdentifier, ir.Function]


class SetFunctionsAsidePass(ir.passes.InPlacePass):
    """Takes the functions whose calls stay, so that no later pass writes their bodies in the place of the calls.

    Their bodies come to the working opset like the rest of the model.

    Args:
        aside: Where they go.
    """

    def __init__(self, aside: MutableMapping[ir.OperatorIdentifier, ir.Function]) -> None:
        super().__init__()
        self.aside = aside

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for key in [key for key in model.functions if is_kept(key[0], key[1])]:
            function = self.aside[key] = model.functions.pop(key)
            UpgradeOpsetPass()(ir.Model(function.graph, ir_version=model.ir_version))
            _initializers_to_constants(function.graph)
        return ir.passes.PassResult(model, modified=bool(self.aside))


def _initializers_to_constants(graph: ir.Graph) -> None:
    """A function has no initializers; what an upgrade made of an attribute is a Constant there."""
    for name, value in list(graph.initializers.items()):
        graph.initializers.pop(name)
        tensor = value.const_value
        assert tensor is not None, "initializers have content"
        node = ir.node("Constant", [], attributes={"value": tensor})
        value.replace_all_uses_with(node.outputs[0])
        value.name, node.outputs[0].name = None, name
        graph.insert_before(graph[0], node)


class CustomOperatorsPass(ir.passes.InPlacePass):
    """See the module's text. Requires nodes in order and the working opset.

    Args:
        functions: Model-local functions whose calls stay in the graph.
    """

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = functions

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        imports = dict(model.graph.opset_imports)
        custom = False
        for node in walk(model.graph):
            if node.domain not in ("", "ai.onnx"):
                node.version = imports.get(node.domain, 1)
                custom = custom or is_kept(node.domain, node.op_type)
        if custom:
            opset = imports.get("", 18)
            for node in walk(model.graph):
                if is_kept(node.domain, node.op_type):
                    self._type_results(node, imports)
                else:
                    infer_node(node, opset)
        return ir.passes.PassResult(model, modified=custom)

    def _type_results(self, node: ir.Node, imports: Mapping[str, int]) -> None:
        """Case 2."""
        if all(y.type is not None and y.shape is not None for y in node.outputs):
            return
        rule = RESULTS.get((node.domain, node.op_type))
        if rule is not None:
            for y, (dtype, sizes) in zip(node.outputs, rule(Primal(node, frozenset())), strict=False):
                if y.type is None and dtype is not None:
                    y.type = ir.TensorType(dtype)
                if y.shape is None and sizes is not None:
                    set_dims(y, sizes)
        elif (function := self.functions.get(node.op_identifier())) is not None:
            _infer_call(node, function, imports)
        like = next((x for x in node.inputs if x is not None and is_float(x)), None)
        for y in node.outputs:
            if y.type is None and like is not None and like.dtype is not None:
                y.type = ir.TensorType(like.dtype)


def _infer_call(node: ir.Node, function: ir.Function, imports: Mapping[str, int]) -> None:
    """Types and sizes of a call's results, from the function's body."""
    inputs = [
        onnx.helper.make_value_info(x.name, type_proto(x))
        for x in dict.fromkeys(node.inputs)
        if x is not None and x.name and x.dtype is not None
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(y.name or "") for y in node.outputs]
    try:
        graph = onnx.helper.make_graph([ir.to_proto(node)], "call", inputs, outputs)
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in {**function.opset_imports, **imports}.items()]
        proto = onnx.helper.make_model(graph, opset_imports=opsets, functions=[ir.to_proto(function)])
        found = onnx.shape_inference.infer_shapes(proto).graph.output
    except Exception:  # less is known; what is known stays right
        return
    for y, info in zip(node.outputs, found, strict=True):
        tensor = info.type.tensor_type
        if y.type is None and tensor.elem_type:
            y.type = ir.TensorType(ir.DataType(tensor.elem_type))
        if y.shape is None and tensor.HasField("shape"):
            sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
            set_dims(y, sizes)
