"""Takes away what no result needs.

1. nodes none of whose results is used
2. operands that are left out behind the last one that is there, and optional results that nobody uses
3. initializers that nobody uses

Graphs inside nodes, and functions, are cleaned likewise. BatchNormalization keeps its results: their number
means something there.
"""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from onnxplain.engine.graph.builder import schema_of
from onnxplain.engine.graph.captures import may_carry, subgraphs


class RemoveUnusedPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.graph.opset_imports.get("", 0)
        count = _clean(model.graph, opset)
        for function in model.functions.values():
            count += _clean(function.graph, function.opset_imports.get("", opset))
        initializers = model.graph.initializers
        for name, value in list(initializers.items()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del initializers[name]
                count += 1
        return ir.passes.PassResult(model, modified=bool(count))


def _clean(graph: ir.Graph, opset: int) -> int:
    count = 0
    for node in reversed(graph):
        if not any(y.uses() or y.is_graph_output() for y in node.outputs):
            graph.remove(node, safe=True)
            count += 1
            continue
        if node.inputs and node.inputs[-1] is None:
            node.resize_inputs(max(i + 1 for i, x in enumerate((True, *node.inputs)) if x is not None) - 1)
        if node.domain in ("", "ai.onnx"):
            _drop_results(node, _optional(node.op_type, opset))
        if may_carry(node):
            count += sum(_clean(inner, opset) for inner in subgraphs(node))
    return count


@functools.cache
def _optional(op_type: str, opset: int) -> tuple[bool, ...]:
    """Per result whether it may be left out; nothing where none may."""
    if op_type == "BatchNormalization":
        return ()
    try:
        outputs = schema_of(op_type, opset).outputs
    except ValueError:
        return ()
    kinds = onnx.defs.OpSchema.FormalParameterOption
    if any(y.option == kinds.Variadic for y in outputs):
        return ()
    flags = tuple(y.option == kinds.Optional for y in outputs)
    return flags if any(flags) else ()


def _drop_results(node: ir.Node, optional: tuple[bool, ...]) -> None:
    if not optional:
        return
    for y, may_go in zip(node.outputs, optional, strict=False):
        if may_go and not y.uses() and not y.is_graph_output():
            y.name = ""
    count = len(node.outputs)
    while count and not node.outputs[count - 1].name:
        count -= 1
    node.resize_outputs(count)
