"""Infers types and sizes inside Loop bodies, where the standard's inference drops the shapes of states.

1. A state is taken to have the sizes that it starts with; what the body makes of them is inferred.
2. Sizes that come out differently are not known, and the body is inferred again, until it agrees with itself.
3. The Loop's results get those sizes, and the nodes behind it are inferred where they had none.

Shapes that a file notes for the inputs of a body are not trusted, like all others.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxplain.engine.graph.captures import subgraphs
from onnxplain.engine.graph.infer import infer_node
from onnxplain.engine.graph.shapes import Dim, Dims, dims, set_dims

#: Mark of a state (an input of the body) that is known to change its shape from step to step.
CHANGES = "onnxplain.changes_shape"


class LoopStatesPass(ir.passes.InPlacePass):
    """See the module's text. Requires the working opset, nodes in order and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.graph.opset_imports.get("", 18)
        found = any(n.op_type == "Loop" for n in ir.traversal.RecursiveGraphIterator(model.graph))
        if found:
            _visit(model.graph, opset)
        return ir.passes.PassResult(model, modified=found)


def _visit(nodes: Iterable[ir.Node], opset: int) -> None:
    for node in nodes:
        if node.op_type == "Loop" and node.domain == "":
            _settle(node, opset)
            continue
        for graph in subgraphs(node):
            _visit(graph, opset)
        infer_node(node, opset)


def _settle(node: ir.Node, opset: int) -> None:
    body = next(subgraphs(node))
    states = list(zip(list(node.inputs)[2:], list(body.inputs)[2:], list(body.outputs)[1:], strict=False))
    for scalar in list(body.inputs)[:2]:
        scalar.shape = ir.Shape([])
    for initial, before, _ in states:
        if initial is not None:
            before.type = before.type or initial.type
            before.shape = None if dims(initial) is None else ir.Shape(list(dims(initial) or ()))
    agreed = False
    while not agreed:
        for inner in ir.traversal.RecursiveGraphIterator(body):
            for value in inner.outputs:
                value.shape = None
        _visit(body, opset)
        verdicts = [_agree(before, after) for _, before, after in states]
        agreed = all(verdicts)
    for (_, before, _), result in zip(states, node.outputs, strict=False):
        result.type, result.shape = result.type or before.type, before.shape
    for value, result in zip(list(body.outputs)[1 + len(states) :], list(node.outputs)[len(states) :], strict=False):
        known = dims(value)
        result.type = result.type or value.type
        if known is not None:
            set_dims(result, [None, *known])


def _may_agree(a: Dims, b: Dims) -> bool:
    pairs = zip(a, b, strict=False)
    return len(a) == len(b) and all(x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in pairs)


def _agree(before: ir.Value, after: ir.Value) -> bool:
    """Whether the body gives the sizes that were assumed; what it does not is assumed no longer."""
    assumed, now = dims(before), dims(after)
    if assumed is None:
        return True
    if now is not None and not _may_agree(assumed, now):
        before.meta[CHANGES] = True
    if now is None or len(now) != len(assumed):
        before.shape = None
        return False
    kept: list[Dim] = [a if a == b else None for a, b in zip(assumed, now, strict=True)]
    if tuple(kept) == assumed:
        return True
    set_dims(before, kept)
    return False
