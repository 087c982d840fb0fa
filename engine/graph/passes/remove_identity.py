"""Removes Identity, except where a graph's interface needs it.

1. ``Identity(x)`` inside a graph -> ``x``.
2. ``Identity(x)`` that is an output of its graph -> ``x`` under the output's name, where ``x`` is computed
   in the same graph and is no output itself.
3. An output that would otherwise be an input, a constant, another output or a value of an outer graph:
   the Identity stays (a runtime refuses a branch that returns an outer value directly).

:class:`OwnOutputsPass` puts such an Identity where one is missing.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxplain.engine.graph.captures import subgraphs, walk


class RemoveIdentityPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        removed = [_remove(n) for n in list(walk(model.graph)) if _is_identity(n)]
        return ir.passes.PassResult(model, modified=any(removed))


def _is_identity(node: ir.Node) -> bool:
    return node.op_type == "Identity" and node.domain in ("", "ai.onnx") and len(node.inputs) == len(node.outputs) == 1


def _remove(node: ir.Node) -> bool:
    x, y, graph = node.inputs[0], node.outputs[0], node.graph
    if x is None or graph is None:
        return False
    output = y.is_graph_output()
    producer = x.producer()
    if output and (producer is None or producer.graph is not graph or x.is_graph_output()):
        return False
    x.type = x.type or y.type
    x.shape = x.shape or y.shape
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    if output:
        x.name = y.name
    graph.remove(node, safe=True)
    return True


class OwnOutputsPass(ir.passes.InPlacePass):
    """Gives every graph inside a node outputs of its own: computed there, and each a different value."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graphs = [g for n in walk(model.graph) for g in subgraphs(n)]
        changed = [own_outputs(g) for g in graphs]
        return ir.passes.PassResult(model, modified=any(changed))


def own_outputs(graph: ir.Graph) -> bool:
    """The same for one graph."""
    seen: set[ir.Value] = set()
    changed = False
    for i, value in enumerate(list(graph.outputs)):
        producer = value.producer()
        if producer is None or producer.graph is not graph or value in seen:
            node = ir.node("Identity", [value])
            _describe_as(node.outputs, value)
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
            changed = True
        seen.add(graph.outputs[i])
    return changed


def _describe_as(values: Iterable[ir.Value], like: ir.Value) -> None:
    for value in values:
        value.type, value.shape = like.type, like.shape
        value.name = f"{like.name}/returned"
