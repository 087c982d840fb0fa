"""Infers types and sizes inside Loop and Scan bodies, where the standard's inference drops the shapes of states.

It also sees no constant of an outer graph from inside a body, so that an Unsqueeze by one has no known rank.

1. A state is taken to have the sizes that it starts with; what the body makes of them is inferred. What a Scan
   goes through has one axis less inside.
2. Sizes that come out differently are not known, and the body is inferred again, until it agrees with itself.
3. The node's results get those sizes, and what was not known of the nodes behind it is inferred again, through
   sizes that are computed (:mod:`onnxplain.engine.graph.contents`) as well.

Shapes that a file notes for the inputs of a body are not trusted, like all others. A Loop that has neither states
nor a condition gets the condition that is true: an operand that is left out at the end is easily lost.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.contents import Contents
from onnxplain.engine.graph.infer import infer_node
from onnxplain.engine.graph.shapes import Dim, Dims, dims, set_dims

#: Mark of a state (an input of the body) that is known to change its shape from step to step.
CHANGES = "onnxplain.changes_shape"


class LoopStatesPass(ir.passes.InPlacePass):
    """See the module's text. Requires the working opset, nodes in order and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.graph.opset_imports.get("", 18)
        found = any(n.op_type in _SETTLED for n in walk(model.graph))
        if found:
            _say_conditions(model)
            _visit(model.graph, opset, Contents())
        return ir.passes.PassResult(model, modified=found)


def _say_conditions(model: ir.Model) -> None:
    taken: set[str] | None = None
    for node in list(walk(model.graph)):
        if node.op_type != "Loop" or node.domain != "" or len(node.inputs) > 2 or not isinstance(node.graph, ir.Graph):
            continue
        if len(node.inputs) < 2 or node.inputs[1] is None:
            taken = names_of(model.graph) if taken is None else taken
            node.resize_inputs(2)
            node.replace_input_with(1, Builder(node.graph, taken=taken).constant(np.asarray(True)))


def _visit(nodes: Iterable[ir.Node], opset: int, contents: Contents) -> None:
    for node in nodes:
        if node.op_type in _SETTLED and node.domain == "":
            _SETTLED[node.op_type](node, opset, contents)
            continue
        for graph in subgraphs(node):
            _visit(graph, opset, contents)
        infer_node(node, opset, again=True)
        contents.learn(node)


def _settle_loop(node: ir.Node, opset: int, contents: Contents) -> None:
    body = next(subgraphs(node))
    for scalar in list(body.inputs)[:2]:
        scalar.shape = ir.Shape([])
    states = list(zip(list(node.inputs)[2:], list(body.inputs)[2:], list(body.outputs)[1:], strict=False))
    _settle_states(node, body, states, opset, contents)
    for value, result in zip(list(body.outputs)[1 + len(states) :], list(node.outputs)[len(states) :], strict=False):
        _collected(value, result, 0, None)


def _settle_scan(node: ir.Node, opset: int, contents: Contents) -> None:
    body = next(subgraphs(node))
    count = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    states = list(zip(list(node.inputs)[:count], list(body.inputs)[:count], list(body.outputs)[:count], strict=False))
    scanned = list(zip(list(node.inputs)[count:], list(body.inputs)[count:], strict=False))
    steps: Dim = None
    for (whole, entry), axis in zip(scanned, _axes(node, "scan_input_axes", len(scanned)), strict=True):
        known = None if whole is None else dims(whole)
        entry.type = entry.type or (None if whole is None else whole.type)
        entry.shape = None
        if known:
            axis %= len(known)
            steps = known[axis] if steps is None else steps
            set_dims(entry, [*known[:axis], *known[axis + 1 :]])
    _settle_states(node, body, states, opset, contents)
    kept = list(zip(list(body.outputs)[count:], list(node.outputs)[count:], strict=False))
    for (value, result), axis in zip(kept, _axes(node, "scan_output_axes", len(kept)), strict=False):
        _collected(value, result, axis, steps)


#: Nodes whose bodies are inferred here.
_SETTLED = {"Loop": _settle_loop, "Scan": _settle_scan}


def _axes(node: ir.Node, name: str, count: int) -> list[int]:
    given = node.attributes.get(name)
    return list(given.as_ints()) if given is not None and given.as_ints() else [0] * count


def _settle_states(
    node: ir.Node,
    body: ir.Graph,
    states: list[tuple[ir.Value | None, ir.Value, ir.Value]],
    opset: int,
    contents: Contents,
) -> None:
    """Steps 1 and 2; the first results of the node are its final states."""
    for initial, before, _ in states:
        if initial is not None:
            before.type = before.type or initial.type
            before.shape = None if dims(initial) is None else ir.Shape(list(dims(initial) or ()))
    agreed = False
    while not agreed:
        for inner in walk(body):
            for value in inner.outputs:
                value.shape = None
        _visit(body, opset, contents)
        verdicts = [_agree(before, after) for _, before, after in states]
        agreed = all(verdicts)
    for (_, before, _), result in zip(states, node.outputs, strict=False):
        result.type, result.shape = result.type or before.type, before.shape


def _collected(value: ir.Value, result: ir.Value, axis: int, steps: Dim) -> None:
    """Type and sizes of the values of all steps, stacked along a new axis."""
    known = dims(value)
    result.type = result.type or value.type
    if known is not None:
        axis %= len(known) + 1
        set_dims(result, [*known[:axis], steps, *known[axis:]])


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
