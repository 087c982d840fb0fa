"""What a node reads: its operands, and what the graphs inside it take from the graphs around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that the node carries: branches of If, the body of Loop and Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: ir.Node) -> list[ir.Value]:
    """Values of outer graphs that the node's graphs read, each once, in the order of first use."""
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
