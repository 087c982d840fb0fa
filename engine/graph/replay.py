"""Forward nodes computed a second time from other operands, inside the same graph.

A second forward pass (on a baseline, with modified weights, with the positive part of an operand) is a
copy of nodes whose operands are substituted; weights are shared, and whatever depends on no substituted
value is used as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands, subgraphs


def replay(op: Builder, nodes: Iterable[ir.Node], substitutes: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
    """Append copies of the nodes that depend on a substituted value.

    Args:
        op: Builder at the end of the graph.
        nodes: Forward nodes in topological order.
        substitutes: What stands in the place of which value.

    Returns:
        The copy of every value that has one, the substitutes among them. Sizes of substituted values are
        taken to be those of what they stand for.
    """
    twins = dict(substitutes)
    for node in nodes:
        if all(y in twins for y in node.outputs) or not any(x in twins for x in operands(node)):
            continue
        copy = copy_node(op, node, twins)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            twins.setdefault(old, new)
    return twins


def replay_node(op: Builder, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
    """Append one node again with other operands, position by position; its results have the same sizes.

    An operand that appears twice may be replaced in one position alone, which :func:`replay` cannot do.
    """
    copy = copy_node(op, node, {})
    for index, value in enumerate(inputs):
        if index < len(copy.inputs):
            copy.replace_input_with(index, value)
    return copy


def copy_node(op: Builder, node: ir.Node, twins: Mapping[ir.Value, ir.Value]) -> ir.Node:
    """Append a copy of one node, its graphs included, that reads twins where there are some."""
    copy = ir.Node(
        node.domain,
        node.op_type,
        [twins.get(x, x) if x is not None else None for x in node.inputs],
        [_copied(attribute, twins) for attribute in node.attributes.values()],
        overload=node.overload,
        num_outputs=len(node.outputs),
    )
    copy.meta.update(node.meta)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
    op.graph.append(copy)
    _rename(op, copy, [y.name for y in node.outputs])
    return copy


def _copied(attribute: ir.Attr, twins: Mapping[ir.Value, ir.Value]) -> ir.Attr:
    def clone(graph: ir.Graph) -> ir.Graph:
        twin = graph.clone(allow_outer_scope_values=True)
        for inner in twin.all_nodes():
            for index, x in enumerate(inner.inputs):
                if x is not None and x in twins:
                    inner.replace_input_with(index, twins[x])
        for index, y in enumerate(twin.outputs):
            if y in twins:
                twin.outputs[index] = twins[y]
        return twin

    if attribute.type == ir.AttributeType.GRAPH:
        return ir.AttrGraph(attribute.name, clone(attribute.as_graph()))
    if attribute.type == ir.AttributeType.GRAPHS:
        return ir.AttrGraphs(attribute.name, [clone(g) for g in attribute.as_graphs()])
    return attribute


def _rename(op: Builder, node: ir.Node, stems: Sequence[str | None]) -> None:
    node.name = op.unique_name(f"{node.name or stems[0] or node.op_type}/again")
    for value, stem in zip(node.outputs, stems, strict=True):
        value.name = op.unique_name(f"{stem}/again") if stem else ""
    for graph in subgraphs(node):
        for value in graph.inputs:
            value.name = op.unique_name(f"{value.name}/again")
        for inner in graph:
            _rename(op, inner, [y.name for y in inner.outputs])
