"""Replaces an If whose condition is known by the branch that is taken.

1. ``If(true)`` -> the nodes of ``then_branch``; ``If(false)`` -> those of ``else_branch``; their constants
   move along, their results take the place and the names of the If's.
2. Sizes and constants that the branch makes known are propagated, and conditions that become known by that
   are resolved in turn, until none is left.

Exporters write such nodes for what depends on a rank or a size ("squeeze if the axis is 1"): after this pass
a model of fixed rank has none of them. Values that are taken out of a branch get a name of their own where
the graph around already has one like it.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.passes.fold_constants import FoldConstantsPass
from onnxplain.engine.graph.passes.remove_identity import RemoveIdentityPass
from onnxplain.engine.graph.shapes import constant


class InlineIfPass(ir.passes.InPlacePass):
    """See the module's text. Requires constants as initializers, folded, and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while self._inline_all(model):
            modified = True
            RemoveIdentityPass()(model)
            common.RemoveUnusedNodesPass()(model)
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
            FoldConstantsPass()(model)
        return ir.passes.PassResult(model, modified=modified)

    def _inline_all(self, model: ir.Model) -> bool:
        found = [
            (node, taken)
            for node in walk(model.graph)
            if node.op_type == "If" and node.domain == "" and (taken := _taken(node)) is not None
        ]
        if not found:
            return False
        names = _Names(model.graph)
        for node, branch in reversed(found):  # inner ones first: their outer node is still in place
            _inline(node, branch, names)
        return True


def _taken(node: ir.Node) -> ir.Graph | None:
    condition = constant(node.inputs[0])
    if condition is None or condition.size != 1:
        return None
    return node.attributes["then_branch" if condition.reshape(-1)[0] else "else_branch"].as_graph()


class _Names:
    """Names of values in use in the main graph and in all graphs inside it."""

    def __init__(self, graph: ir.Graph) -> None:
        self.used: dict[str, int] = {}
        for one in (graph, *graph.subgraphs()):
            for value in (*one.inputs, *one.initializers.values()):
                self._count(value)
        for node in graph.all_nodes():
            for value in node.outputs:
                self._count(value)

    def _count(self, value: ir.Value) -> None:
        if value.name:
            self.used[value.name] = self.used.get(value.name, 0) + 1

    def settle(self, value: ir.Value) -> None:
        """Rename the value where another one has its name."""
        stem = value.name
        if not stem or self.used.get(stem, 0) <= 1:
            return
        self.used[stem] -= 1
        number = 1
        while (name := f"{stem}_{number}") in self.used:
            number += 1
        self.used[name] = 1
        value.name = name


def _inline(node: ir.Node, branch: ir.Graph, names: _Names) -> None:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        return
    results = list(branch.outputs)
    branch.outputs.clear()
    for initializer in list(branch.initializers.values()):
        branch.initializers.pop(initializer.name or "")
        names.settle(initializer)
        graph.register_initializer(initializer)
    nodes = list(branch)
    branch.remove(nodes)
    for inner in nodes:
        for value in inner.outputs:
            names.settle(value)
    identities = [ir.node("Identity", [value]) for value in results]
    graph.insert_before(node, [*nodes, *identities])
    for old, identity in zip(node.outputs, identities, strict=True):
        _take_place(old, identity.outputs[0], identity.inputs[0])
    graph.remove(node, safe=True)


def _take_place(old: ir.Value, new: ir.Value, source: ir.Value | None) -> None:
    """Let ``new``, which is the same as ``source``, stand where ``old`` stood, under its name."""
    new.type, new.shape = old.type, old.shape
    if source is not None:
        new.type, new.shape = source.type or old.type, source.shape or old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, None
