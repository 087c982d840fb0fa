"""Fused operators that onnxruntime's optimiser and exporters leave behind -> standard operators.

1. A node of the domain ``com.microsoft`` (or one that onnxruntime and tf2onnx put into the default
   domain without its being in the standard) with a splitter in :mod:`.fused` -> what that emits.
2. A splitter that cannot serve the node's attributes or operands -> the node stays; the reason is kept
   in its ``meta`` and told when a gradient has to pass the node.
3. Everything else stays.

Types and shapes are inferred along the way, because standard inference stops at the first such node. Branches and
bodies are gone through as well; what a body is fed has no known rank yet, so that operators that need one stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.discover import import_submodules
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import names_of
from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.infer import InferringBuilder, infer_node
from onnxplain.engine.graph.passes import fused
from onnxplain.engine.graph.passes.fused.table import CONTRIB, REASON, SPLITTERS
from onnxplain.engine.rules.node import Primal

import_submodules(fused)  # a splitter registers itself when its module is imported


class SplitFusedPass(ir.passes.InPlacePass):
    """See the module's text. Requires nodes in order, inlined functions and the working opset."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        if not any((n.domain, n.op_type) in SPLITTERS for n in walk(graph)):
            return ir.passes.PassResult(model, modified=False)
        count = _split_all(graph, graph.opset_imports.get("", 18), names_of(graph))
        if all(n.domain != CONTRIB for n in graph.all_nodes()):
            graph.opset_imports.pop(CONTRIB, None)
        return ir.passes.PassResult(model, modified=count > 0)


def _split_all(graph: ir.Graph, opset: int, taken: set[str]) -> int:
    """Split the nodes of a graph and of the graphs inside it; how many that were."""
    splitter, inside = _Splitter(graph, opset, taken), 0
    for node in list(graph):
        inside += sum(_split_all(inner, opset, taken) for inner in subgraphs(node))
        if (node.domain, node.op_type) in SPLITTERS:
            splitter.split(node)
        else:
            infer_node(node, opset)
    return splitter.count + inside


class _Splitter:
    def __init__(self, graph: ir.Graph, opset: int, taken: set[str]) -> None:
        self.op = InferringBuilder(graph, taken)
        self.op.opset = opset
        self.graph, self.count = graph, 0

    def split(self, node: ir.Node) -> None:
        self.op.before = node
        self.op.emitted.clear()
        try:
            results = SPLITTERS[node.domain, node.op_type](self.op, Primal(node, frozenset()))
            _require(node, results)
        except UnsupportedNodeError as error:
            for emitted in reversed(self.op.emitted):
                self.graph.remove(emitted, safe=True)
            node.meta[REASON] = (error.reason, error.hint)
            return
        for old, new in zip(node.outputs, results, strict=False):
            if new is not None and _used(old):
                _take_over(old, self._own(new, node))
        self.graph.remove(node, safe=True)
        self.count += 1

    def _own(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """A value that may be renamed: an operand that is handed through gets an Identity."""
        if value.producer() is None or value in node.inputs:
            return self.op.Identity(value)
        return value


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _require(node: ir.Node, given: Sequence[ir.Value | None]) -> None:
    for index, value in enumerate(node.outputs):
        if _used(value) and (index >= len(given) or given[index] is None):
            raise Primal(node, frozenset()).unsupported(
                f"its output {index} ('{value.name}') is used", "export the model without that output"
            )


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Put ``new`` in the place of ``old``, under its name."""
    name = old.name
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    new.name = name
