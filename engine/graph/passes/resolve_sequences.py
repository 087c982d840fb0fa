"""Replaces sequences and optionals by the tensors in them, so that no rule has to know what a sequence is.

What a sequence holds is followed from where it is made to where a tensor is taken out of it:

1. SequenceEmpty, SequenceConstruct, SequenceInsert and SequenceErase at constant positions, SplitToSequence ->
   a list of values, or one tensor that is cut into equal pieces (as many as there turn out to be). Pieces of
   one element without their axis (``keepdims=0``) may be told by a size of 1 as well, as onnxruntime has it.
2. ``SequenceAt`` -> the value; at a position of the run time a Gather, or an If per value
3. ``ConcatFromSequence`` -> Concat, of Unsqueeze where a new axis is made; the tensor itself where it was cut
4. ``SequenceLength`` -> the number, or the size over the size of a piece
5. ``SequenceMap`` -> its body once per value; a Scan where their number is of the run time
6. ``OptionalGetElement(Optional(x))`` -> ``x``; ``OptionalHasElement`` -> a constant
7. an If whose branches give lists of the same length -> an If that gives the values
8. a Loop that appends one tensor of fixed shape per trip to an empty sequence -> a scan output

What cannot be followed stays, and says why when a gradient has to pass it. Sequences that the model takes or
gives stay as well. New constants (a length, whether an optional is empty) are folded, and all is tried again
until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.graph.builder import names_of
from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.infer import InferringBuilder
from onnxplain.engine.graph.passes import sequence_nodes as nodes
from onnxplain.engine.graph.passes.fold_constants import FoldConstantsPass
from onnxplain.engine.graph.passes.fused.table import REASON
from onnxplain.engine.graph.passes.inline_if import InlineIfPass
from onnxplain.engine.graph.passes.loop_states import LoopStatesPass
from onnxplain.engine.graph.passes.remove_identity import RemoveIdentityPass
from onnxplain.engine.graph.passes.sequence_values import (
    OPERATORS,
    Holds,
    Items,
    Pieces,
    Unknown,
    Work,
    declare,
    forget_doubtful,
)
from onnxplain.engine.graph.shapes import constant, dims, is_container, rank

#: More rounds than that are no progress but a model that means nothing; the walk refuses what is left.
_ROUNDS = 50
#: More positions than that are not told apart by branches.
_BRANCHES = 32


class ResolveSequencesPass(ir.passes.InPlacePass):
    """See the module's text. Requires constants as initializers, the working opset and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for _ in range(_ROUNDS):
            if not _resolve(model):
                break
            modified = True
            RemoveIdentityPass()(model)
            common.RemoveUnusedNodesPass()(model)
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
            FoldConstantsPass()(model)
            InlineIfPass()(model)
        return ir.passes.PassResult(model, modified=modified)


class DeclareSequencesPass(ir.passes.InPlacePass):
    """Mends what inference does with sequences: types become those of tensors, different sizes get one name."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = _has_sequences(model)
        if found:
            _describe(model)
        return ir.passes.PassResult(model, modified=found)


def _has_sequences(model: ir.Model) -> bool:
    return any(n.domain == "" and n.op_type in OPERATORS for n in walk(model.graph))


def _describe(model: ir.Model) -> None:
    declare(model.graph)
    forget_doubtful(model)


def _resolve(model: ir.Model) -> bool:
    if not _has_sequences(model):
        return False
    _describe(model)
    found = list(walk(model.graph))
    loops = [n for n in found if n.op_type == "Loop" and any(map(is_container, n.inputs))]
    if loops:
        for loop in loops:
            nodes.drop_whole_slices(next(subgraphs(loop)))
        LoopStatesPass()(model)  # sizes inside bodies
        _describe(model)
    resolver = _Resolver(model)
    resolver.visit(model.graph)
    return resolver.changed


class _Resolver(Work):
    """One sweep over the nodes, in order."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model)
        self.names = names_of(model.graph)
        self._builders: dict[ir.Graph, InferringBuilder] = {}

    def visit(self, graph: Iterable[ir.Node]) -> None:
        for node in list(graph):
            if node.domain == "" and node.op_type in HANDLERS:
                self._handle(node, HANDLERS[node.op_type])
                continue
            for inner in subgraphs(node):
                self.visit(inner)
            if node.domain == "" and node.op_type in _AROUND and any(map(is_container, (*node.inputs, *node.outputs))):
                self._handle(node, _AROUND[node.op_type])

    def builder(self, node: ir.Node) -> InferringBuilder:
        """A builder that inserts in front of ``node``."""
        graph = node.graph
        assert isinstance(graph, ir.Graph), "functions are inlined"
        if graph not in self._builders:
            self._builders[graph] = InferringBuilder(graph, taken=self.names)
        self._builders[graph].before = node
        return self._builders[graph]

    def _handle(self, node: ir.Node, handler: Callable[[_Resolver, ir.Node], None]) -> None:
        try:
            handler(self, node)
        except Unknown as problem:
            node.meta[REASON] = (problem.reason, problem.hint)
            for value in node.outputs:
                self.why[value] = problem


# ----- what makes sequences -----------------------------------------------------------------------------


def _empty(work: _Resolver, node: ir.Node) -> None:
    work.known[node.outputs[0]] = Items(())


def _construct(work: _Resolver, node: ir.Node) -> None:
    work.known[node.outputs[0]] = Items(tuple(x for x in node.inputs if x is not None))


def _insert(work: _Resolver, node: ir.Node) -> None:
    values = list(work.items(node))
    position = work.position(node, 2, len(values))
    if not -len(values) <= position <= len(values):
        raise Unknown(f"its position {position} lies outside of the sequence", "check the model with onnx.checker")
    values.insert(position, nodes.operand(node, 1))
    work.known[node.outputs[0]] = Items(tuple(values))


def _erase(work: _Resolver, node: ir.Node) -> None:
    values = list(work.items(node))
    position = work.position(node, 1, -1)
    if not -len(values) <= position < len(values):
        raise Unknown(f"its position {position} lies outside of the sequence", "check the model with onnx.checker")
    del values[position]
    work.known[node.outputs[0]] = Items(tuple(values))


def _split(work: _Resolver, node: ir.Node) -> None:
    x = nodes.operand(node, 0)
    sizes = node.inputs[1] if len(node.inputs) > 1 else None
    keeps = bool(nodes.number(node, "keepdims", 1))
    axis = nodes.from_front(nodes.number(node, "axis", 0), rank(x))
    known = constant(sizes)
    ones = known is not None and known.ndim == 0 and int(known) == 1  # PyTorch's unbind: the axis goes
    if sizes is not None and not keeps and not ones:
        raise Unknown(
            "it has both sizes and keepdims=0, which the standard ignores and onnxruntime does not",
            "export it with keepdims=1, and a Squeeze behind it where the axis is to go",
        )
    if sizes is None or (known is not None and known.ndim == 0):
        size = 1 if known is None else int(known)
        whole = dims(x)
        length = whole[axis] if whole is not None else None
        count = -(-length // size) if isinstance(length, int) else None
        work.known[node.outputs[0]] = Pieces(x, axis, size, keeps, count, node)
        return
    listed = dims(sizes)
    if listed is None or len(listed) != 1 or not isinstance(listed[0], int):
        raise Unknown(
            "into how many parts it splits is known only at run time", "export it with a constant list of sizes"
        )
    parts = work.builder(node).emit("Split", [x, sizes], outputs=listed[0], axis=axis)
    work.known[node.outputs[0]] = Items(tuple(parts))


def _optional(work: _Resolver, node: ir.Node) -> None:
    work.known[node.outputs[0]] = Holds(node.inputs[0] if node.inputs else None)


def _identity(work: _Resolver, node: ir.Node) -> None:
    if is_container(node.inputs[0]):
        work.known[node.outputs[0]] = work.content(node)


# ----- what takes tensors out of them -------------------------------------------------------------------


def _at(work: _Resolver, node: ir.Node) -> None:
    content = work.content(node)
    position = constant(nodes.operand(node, 1))
    if position is not None and work.countable(content):
        values = work.items(node)
        index = int(position.reshape(-1)[0])
        if not -len(values) <= index < len(values):
            raise Unknown(f"its position {index} lies outside of the sequence", "check the model with onnx.checker")
        work.replace(node, values[index])
    elif isinstance(content, Pieces):
        work.replace(node, nodes.piece(work.builder(node), content, nodes.operand(node, 1)))
    else:
        work.replace(node, nodes.choice(work, node, work.items(node), _BRANCHES))


def _concatenated(work: _Resolver, node: ir.Node) -> None:
    content = work.content(node)
    axis, new = nodes.number(node, "axis", 0), bool(nodes.number(node, "new_axis", 0))
    op = work.builder(node)
    if isinstance(content, Pieces):
        joined = nodes.rejoined(op, content, axis, new)
        if joined is not None:
            work.replace(node, joined)
            return
    values = work.items(node)
    if not values:
        raise Unknown("its sequence is empty", "check the model with onnx.checker")
    parts = [op.Unsqueeze(v, [axis]) for v in values] if new else list(values)
    work.replace(node, op.Concat(*parts, axis=axis))


def _length(work: _Resolver, node: ir.Node) -> None:
    content = work.content(node)
    op = work.builder(node)
    if isinstance(content, Pieces) and content.count is None:
        size = op.Gather(op.Shape(content.whole), op.constant(np.asarray(content.axis, np.int64)))
        work.replace(node, size if content.size == 1 else op.Div(op.Add(size, content.size - 1), content.size))
        return
    count = content.count if isinstance(content, Pieces) else len(work.items(node))
    work.replace(node, op.constant(np.asarray(count, np.int64)))


def _element(work: _Resolver, node: ir.Node) -> None:
    x = nodes.operand(node, 0)
    if isinstance(x.type, ir.OptionalType):
        held = work.content(node)
        if not isinstance(held, Holds) or held.value is None:
            raise Unknown("its optional is empty", "check the model with onnx.checker")
        x = held.value
    if isinstance(x.type, ir.TensorType):
        work.replace(node, x)
    elif x in work.known:
        work.known[node.outputs[0]] = work.known[x]
    else:
        raise work.reason(x)


def _has_element(work: _Resolver, node: ir.Node) -> None:
    x = node.inputs[0] if node.inputs else None
    there = x is not None
    if x is not None and not isinstance(x.type, (ir.TensorType, ir.SequenceType)):
        held = work.content(node)
        there = isinstance(held, Holds) and held.value is not None
    work.replace(node, work.builder(node).constant(np.asarray(there)))


def _map(work: _Resolver, node: ir.Node) -> None:
    content = work.content(node)
    if isinstance(content, Pieces) and not work.countable(content):
        nodes.map_by_scan(work, node)
        return
    values = work.items(node)
    rest: list[list[ir.Value]] = []
    for x in node.inputs[1:]:
        if x is None or not is_container(x):
            rest.append([x] * len(values) if x is not None else [])
            continue
        others = list(work.items_of(x))
        if len(others) < len(values):
            raise Unknown("its sequences differ in length", "check the model with onnx.checker")
        rest.append(others)
    results = [nodes.copy_of_body(work, node, [v, *(r[i] for r in rest)]) for i, v in enumerate(values)]
    for k, value in enumerate(node.outputs):
        work.remake(node, value, Items(tuple(r[k] for r in results)))
    nodes.drop(node)


#: Operators that are resolved here.
HANDLERS: dict[str, Callable[[_Resolver, ir.Node], None]] = {
    "SequenceEmpty": _empty,
    "SequenceConstruct": _construct,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SplitToSequence": _split,
    "SequenceAt": _at,
    "ConcatFromSequence": _concatenated,
    "SequenceLength": _length,
    "SequenceMap": _map,
    "Optional": _optional,
    "OptionalGetElement": _element,
    "OptionalHasElement": _has_element,
}

#: Nodes that only hand sequences on.
_AROUND: dict[str, Callable[[_Resolver, ir.Node], None]] = {
    "Identity": _identity,
    "If": nodes.unpack_if,
    "Loop": nodes.collect_in_loop,
}
