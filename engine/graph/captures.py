"""What a node reads: its operands, and what the graphs inside it take from the graphs around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

#: Operators of the standard that carry graphs; those of other domains may.
CARRIERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})

_STANDARD = frozenset({"", "ai.onnx"})


def walk(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """All nodes in order, each followed by those of the graphs that it carries."""
    for node in graph:
        yield node
        if node.op_type in CARRIERS or node.domain not in _STANDARD:  # what may_carry says, without the call
            for inner in subgraphs(node):
                yield from walk(inner)


def may_carry(node: ir.Node) -> bool:
    """Whether the node is of a kind that carries graphs: asked of every node, so it has to be quick."""
    return node.op_type in CARRIERS or node.domain not in _STANDARD


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that the node carries: branches of If, the body of Loop and Scan."""
    if not may_carry(node):
        return
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: ir.Node) -> list[ir.Value]:
    """Values of outer graphs that the node's graphs read, each once, in the order of first use."""
    if not may_carry(node):
        return []
    return list(dict.fromkeys(v for graph in subgraphs(node) for v in captured_by(graph)))


def captured_by(graph: ir.Graph) -> list[ir.Value]:
    """The same for one graph; a value may be listed more than once."""
    own = {*graph.inputs, *graph.initializers.values()}
    read: list[ir.Value] = []
    for node in graph:
        read += operands(node)
        own.update(node.outputs)
    return [v for v in (*read, *graph.outputs) if v not in own]


def operands(node: ir.Node) -> list[ir.Value]:
    """All values that a node reads, those that its graphs capture included."""
    return [x for x in node.inputs if x is not None] + captured(node)
