"""Layers of a net: the nodes that multiply what is explained by weights, and their places on the way.

A rule for "the first layer" or "the last three" needs to know where a node stands. That is read from the
graph once, before the walk, and noted on the nodes; the predicates here read the note.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.backward import find_path
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.propagation.composite import Predicate
from onnxplain.engine.rules.node import Primal

#: Operators that are a layer where exactly one of their factors depends on what is explained.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})

#: Key of a node's ``meta``: how many layers lie at most between it and the input, and between it and the target.
_PLACE = "onnxplain.layer"


def factors(node: Primal) -> list[int]:
    """Positions of the operands that a weighted operator multiplies with each other."""
    return list(range(len(node.ir.inputs) if node.op_type == "Einsum" else 2))


def is_layer(node: Primal) -> bool:
    """Whether the node multiplies one tensor that depends on what is explained by weights that do not."""
    if node.domain != "" or node.op_type not in WEIGHTED:
        return False
    return len(factors(node)) == 2 and sum(node.active(i) for i in factors(node)) == 1


def mark_layers(nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], seeded: Sequence[ir.Value]) -> None:
    """Note on each layer of the outermost graph between ``wanted`` and ``seeded`` how far it is from both."""
    path = find_path(nodes, wanted, seeded)
    chosen = {n for n in path.nodes if is_layer(Primal(n, path.active))}
    before: dict[ir.Value, int] = {}
    after: dict[ir.Value, int] = {}
    start: dict[ir.Node, int] = {}
    for node in path.nodes:
        start[node] = max((before.get(x, 0) for x in operands(node) if x in path.active), default=0)
        before.update(dict.fromkeys(node.outputs, start[node] + (node in chosen)))
    for node in reversed(path.nodes):
        end = max((after.get(y, 0) for y in node.outputs), default=0)
        if node in chosen:
            node.meta[_PLACE] = (start[node], end)
        for x in operands(node):
            after[x] = max(after.get(x, 0), end + (node in chosen))


def first_layers(count: int) -> Predicate:
    """Layers with fewer than ``count`` layers between them and the input."""
    return lambda node: _PLACE in node.ir.meta and node.ir.meta[_PLACE][0] < count


def last_layers(count: int) -> Predicate:
    """Layers with fewer than ``count`` layers between them and the target."""
    return lambda node: _PLACE in node.ir.meta and node.ir.meta[_PLACE][1] < count


def operators(*op_types: str) -> Predicate:
    """Nodes of these operators of the default domain."""
    return lambda node: node.domain == "" and node.op_type in op_types


def named(*patterns: str) -> Predicate:
    """Nodes whose name matches one of these patterns (``*`` and ``?``; upper and lower case differ)."""
    return lambda node: any(fnmatch.fnmatchcase(node.name, pattern) for pattern in patterns)
