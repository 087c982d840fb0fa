"""Graphs inside nodes, as rules build them: a forward body copied in, and what is computed from it.

A rule of If, Loop or Scan makes a new graph, copies the forward nodes into it (that is the recomputation)
and lets the walk go over the copy. Names differ from all others of the model, constants live in the main
graph, and values of the graphs around are read where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import subgraphs
from onnxplain.engine.graph.infer import infer_node
from onnxplain.engine.graph.names import ORIGIN, label
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.rules.node import Walk


@dataclass
class Copy:
    """A forward body inside a new graph.

    Attributes:
        nodes: The copied nodes.
        outputs: What the body returns, in the copy.
    """

    nodes: list[ir.Node]
    outputs: list[ir.Value]


def new_graph(op: Builder, stem: str) -> tuple[ir.Graph, Builder]:
    """An empty graph inside the one that ``op`` writes to, and its builder."""
    graph = ir.Graph(
        [], [], nodes=[], opset_imports={"": op.opset, **op.graph.opset_imports}, name=op.unique_name(stem)
    )
    return graph, op.inside(graph)


def formal(op: Builder, graph: ir.Graph, like: ir.Value, stem: str) -> ir.Value:
    """A new input of ``graph`` with the type and sizes of ``like``."""
    value = placeholder(op, like, stem)
    graph.inputs.append(value)
    return value


def placeholder(op: Builder, like: ir.Value, stem: str) -> ir.Value:
    """A value that nothing computes yet, with the type and sizes of ``like``."""
    return ir.Value(name=op.unique_name(f"{stem}/{like.name}"), type=like.type, shape=like.shape)


def copy_into(op: Builder, source: ir.Graph, actuals: Sequence[ir.Value]) -> Copy:
    """Append a copy of the graph's nodes, with ``actuals`` in the place of its inputs."""
    twin = source.clone(allow_outer_scope_values=True)
    for old, new in zip(list(twin.inputs), actuals, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    outputs, nodes = list(twin.outputs), list(twin)
    twin.outputs.clear()
    twin.remove(nodes)
    for node in nodes:
        op.graph.append(node)
        _rename(op, node)
    return Copy(nodes, outputs)


def _rename(op: Builder, node: ir.Node) -> None:
    node.meta[ORIGIN] = label(node)
    node.name = op.unique_name(f"{node.name}/again")
    for value in node.outputs:
        if value.name:
            value.name = op.unique_name(f"{value.name}/again")
    for graph in subgraphs(node):
        for value in graph.inputs:
            value.name = op.unique_name(f"{value.name}/again")
        for inner in graph:
            _rename(op, inner)


def returned(op: Builder, graph: ir.Graph, values: Sequence[ir.Value], likes: Sequence[ir.Value]) -> None:
    """Let the graph return ``values``, each as a value of its own, described as ``likes``."""
    for value, like in zip(values, likes, strict=True):
        result = op.Identity(value)
        result.type, result.shape = like.type, like.shape
        graph.outputs.append(result)


def control(
    op: Builder, op_type: str, inputs: Sequence[Any], likes: Sequence[ir.Value], **attributes: Any
) -> list[ir.Value]:
    """Emit a control-flow node whose results are described as ``likes``."""
    results = op.emit(op_type, inputs, outputs=len(likes), **attributes)
    for value, like in zip(results, likes, strict=True):
        value.type, value.shape = like.type, like.shape
    return results


def adjoints(
    op: Builder, walk: Walk, copy: Copy, seeds: Mapping[ir.Value, ir.Value], wanted: Sequence[ir.Value]
) -> list[ir.Value]:
    """The adjoint of each wanted value, zeros where none arrives."""
    own = {y: _own(op, d, y) for y, d in seeds.items()}
    found = walk(op, copy.nodes, own, wanted) if own else {}
    return [found[v] if v in found else zeros_like(op, v) for v in wanted]


def _own(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """``value`` under a description that holds in this graph: two branches may know different sizes of it."""
    if value.shape is not None and value.shape == like.shape:
        return value
    result = op.Identity(value)
    result.type, result.shape = value.type or like.type, like.shape
    return result


def tangents(
    op: Builder, walk: Walk, copy: Copy, given: Mapping[ir.Value, ir.Value], outputs: Sequence[ir.Value]
) -> list[ir.Value]:
    """Directional derivatives ``J t`` of the copy's ``outputs``, zeros where there is none.

    The vector-Jacobian product ``J^T u`` is linear in ``u``, so its own reverse sweep, seeded with ``t``,
    gives ``J t``. Both sweeps use the rules there are; what only the first one computed is dropped as unused.
    """
    units = [zeros_like(op, y) for y in outputs]
    for unit, y in zip(units, outputs, strict=True):
        unit.type, unit.shape = y.type, y.shape
    start = len(op.graph)
    first = walk(op, copy.nodes, dict(zip(outputs, units, strict=True)), list(given))
    added = list(op.graph)[start:]
    for node in added:
        infer_node(node, op.opset)
    seeds: dict[ir.Value, ir.Value] = {}
    for value, tangent in given.items():
        if value in first:
            adjoint = first[value]
            seeds[adjoint] = op.Add(seeds[adjoint], tangent) if adjoint in seeds else _own(op, tangent, adjoint)
    second = walk(op, added, seeds, units) if seeds else {}
    return [second[u] if u in second else zeros_like(op, y) for u, y in zip(units, outputs, strict=True)]
