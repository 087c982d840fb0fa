"""What is known of sequences and optionals while they are resolved: which tensors they hold, or why that is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import PREFIX
from onnxplain.engine.graph.captures import operands, subgraphs
from onnxplain.engine.graph.infer import InferringBuilder
from onnxplain.engine.graph.passes.fused.table import REASON
from onnxplain.engine.graph.shapes import constant, dims, is_container, set_dims

#: Tensors are cut into at most that many values; more are read piece by piece.
_MOST = 64


@dataclass(frozen=True)
class Items:
    """A list of tensors."""

    values: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Pieces:
    """One tensor, cut along an axis into pieces of equal size; the last one may be shorter.

    Attributes:
        whole: The tensor.
        axis: Counted from the front.
        size: Of a piece, along the axis.
        keeps: Whether pieces keep the axis; only those of size 1 may lack it.
        count: How many there are; None where only the run time tells.
        before: A node in front of which the tensor may be cut into values; None where that is nowhere.
    """

    whole: ir.Value
    axis: int
    size: int = 1
    keeps: bool = True
    count: int | None = None
    before: ir.Node | None = None


@dataclass(frozen=True)
class Holds:
    """An optional, and what is in it; None where it is empty."""

    value: ir.Value | None


Known = Items | Pieces | Holds

#: What gives sequences.
_MAKERS = frozenset(
    {"SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SplitToSequence", "SequenceMap"}
)


#: What reads or gives sequences and optionals.
OPERATORS = _MAKERS | {
    *("SequenceAt", "ConcatFromSequence", "SequenceLength", "Optional", "OptionalGetElement", "OptionalHasElement")
}


def forget_doubtful(model: ir.Model) -> None:
    """Drop what inference invents about tensors that come out of sequences, and about all that is computed from them.

    1. The standard describes all tensors of a sequence by one shape. A size that it has no number for thus bears
       one symbol for different sizes, and broadcasting between two of them would go unseen.
    2. A sequence that is split by sizes keeps the axis by the standard, with ``keepdims=0`` as well; what lacks
       it by onnxruntime has another rank.
    """
    known = input_symbols(model)
    for value in _computed_from(model, _is_operator):
        if value.shape is not None:
            set_dims(value, [d if isinstance(d, int) or d in known else None for d in dims(value) or ()])
    for value in _computed_from(model, _is_unbound):
        value.shape = None


def _is_operator(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in OPERATORS


def _is_unbound(node: ir.Node) -> bool:
    keeps = node.attributes.get("keepdims")
    sized = len(node.inputs) > 1 and node.inputs[1] is not None
    return node.domain == "" and node.op_type == "SplitToSequence" and sized and keeps is not None and not keeps.value


def _computed_from(model: ir.Model, chosen: Callable[[ir.Node], bool]) -> set[ir.Value]:
    """Results of the chosen nodes and of all that depend on them, inside graphs as well."""
    found: set[ir.Value] = set()

    def visit(nodes: Iterable[ir.Node]) -> None:
        for node in nodes:
            hit = chosen(node) or any(x in found for x in operands(node))
            for graph in subgraphs(node):
                found.update(graph.inputs if hit else ())
                visit(graph)
                hit = hit or any(v in found for v in graph.outputs)
            found.update(node.outputs if hit else ())

    visit(model.graph)
    return found


def input_symbols(model: ir.Model) -> set[str]:
    """Names of sizes that mean the same everywhere in the model."""
    return {d for v in model.graph.inputs for d in dims(v) or () if isinstance(d, str)}


def declare(nodes: Iterable[ir.Node]) -> None:
    """Set the types of sequences and optionals, which onnx_ir's inference turns into those of tensors."""
    for node in nodes:
        for graph in subgraphs(node):
            if node.op_type == "Loop":
                for x, inside in zip(list(node.inputs)[2:], list(graph.inputs)[2:], strict=False):
                    _same_type(inside, x)
            declare(graph)
        if node.domain != "":
            continue
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _MAKERS:
            for y in node.outputs:
                kind = ir.TensorType(y.dtype or (first.dtype if first is not None else None) or ir.DataType.FLOAT)
                y.type, y.shape = ir.SequenceType(kind), None
        elif node.op_type == "Optional":
            given = node.attributes.get("type")
            inner = first.type if first is not None else given.value.type if given is not None else None
            if inner is not None:
                node.outputs[0].type, node.outputs[0].shape = ir.OptionalType(inner), None
        elif node.op_type == "OptionalGetElement" and first is not None and isinstance(first.type, ir.OptionalType):
            node.outputs[0].type = first.type.elem_type
        elif node.op_type in ("Identity", "OptionalGetElement"):
            _same_type(node.outputs[0], first)
        elif node.op_type == "If":
            for y, inside in zip(node.outputs, next(subgraphs(node)).outputs, strict=True):
                _same_type(y, inside)
        elif node.op_type == "Loop":
            for y, x in zip(node.outputs, list(node.inputs)[2:], strict=False):
                _same_type(y, x)


def _same_type(value: ir.Value, like: ir.Value | None) -> None:
    if like is not None and is_container(like):
        value.type, value.shape = like.type, None


class Unknown(Exception):  # noqa: N818 - no error of the user's: the node stays as it is
    """What a node holds cannot be told: reason and remedy, as the walk tells them where a gradient passes."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


class Work:
    """What was found so far, and how nodes are replaced.

    Attributes:
        known: Content per sequence or optional.
        why: Why there is none, per value.
        names: All names in use in the model.
        fed: The model's inputs.
        symbols: Sizes that are the same everywhere in the model: those of its inputs.
        changed: Whether any node was replaced.
    """

    def __init__(self, model: ir.Model) -> None:
        self.known: dict[ir.Value, Known] = {}
        self.why: dict[ir.Value, Unknown] = {}
        self.names: set[str] = set()
        self.fed = set(model.graph.inputs)
        self.symbols = input_symbols(model)
        self.changed = False
        self._cut: dict[Pieces, tuple[ir.Value, ...]] = {}

    def builder(self, node: ir.Node) -> InferringBuilder:
        """A builder that inserts in front of ``node``."""
        raise NotImplementedError

    def content(self, node: ir.Node) -> Known:
        """What the first operand holds.

        Raises:
            Unknown: That cannot be told.
        """
        return self.content_of(node.inputs[0] if node.inputs else None)

    def content_of(self, x: ir.Value | None) -> Known:
        """The same for any value."""
        if x is None:
            raise Unknown("its sequence is missing", "check the model with onnx.checker")
        if x in self.known:
            return self.known[x]
        raise self.reason(x)

    def reason(self, x: ir.Value) -> Unknown:
        """Why the content of ``x`` cannot be told."""
        if x in self.why:
            return self.why[x]
        maker = x.producer()
        if maker is not None and REASON in maker.meta:
            return Unknown(*maker.meta[REASON])
        what = "the model takes it as an input" if x in self.fed else "it changes at run time"
        return Unknown(
            f"what is in the sequence or optional '{x.name}' is not known: {what}",
            "export the model with tensors in its place (split, stack and concatenate by constant sizes)",
        )

    def countable(self, content: Known) -> bool:
        """Whether the values can be told one by one."""
        return isinstance(content, Items) or (
            isinstance(content, Pieces)
            and content.count is not None
            and content.count <= _MOST
            and content.before is not None
        )

    def items(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """The values in the first operand, one by one.

        Raises:
            Unknown: Their number is not known, or too large.
        """
        return self.items_of(node.inputs[0] if node.inputs else None)

    def items_of(self, x: ir.Value | None) -> tuple[ir.Value, ...]:
        """The same for any value."""
        content = self.content_of(x)
        if isinstance(content, Items):
            return content.values
        if isinstance(content, Pieces) and self.countable(content):
            if content not in self._cut:
                self._cut[content] = self._split(content)
            return self._cut[content]
        raise Unknown(
            "how many tensors its sequence holds is known only at run time, or large",
            "export the model with a fixed size of the axis that is split",
        )

    def _split(self, content: Pieces) -> tuple[ir.Value, ...]:
        assert content.before is not None
        assert content.count is not None
        if content.count == 0:
            return ()
        op = self.builder(content.before)
        parts = [content.whole]
        if content.count > 1:
            whole = dims(content.whole)
            length = whole[content.axis] if whole is not None else None
            last = int(length) - content.size * (content.count - 1) if isinstance(length, int) else content.size
            sizes = [content.size] * (content.count - 1) + [last]
            parts = op.emit("Split", [content.whole, sizes], outputs=content.count, axis=content.axis)
        if content.keeps:
            return tuple(parts)
        return tuple(op.Squeeze(part, [content.axis]) for part in parts)

    def position(self, node: ir.Node, index: int, default: int) -> int:
        """A constant position among the operands.

        Raises:
            Unknown: It is computed.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return default
        known = constant(value)
        if known is None:
            raise Unknown("its position is known only at run time", "export the model with constant positions")
        return int(np.asarray(known).reshape(-1)[0])

    def remake(self, node: ir.Node, old: ir.Value, content: Items | Pieces) -> None:
        """Make the sequence ``old`` anew in front of ``node``: for what reads it and cannot be resolved."""
        op = self.builder(node)
        if isinstance(content, Pieces):
            new = op.SplitToSequence(content.whole, axis=content.axis, keepdims=0)
            maker = new.producer()
            content = replace(content, before=maker)
        else:
            new = (
                op.SequenceConstruct(*content.values)
                if content.values
                else op.SequenceEmpty(dtype=(old.dtype or ir.DataType.FLOAT).value)
            )
        name, old.name = old.name, None
        new.type, new.name = old.type, name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.known[new] = content
        self.changed = True

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Put ``value`` in the place of the node's result: under its name where it was made here."""
        old, graph = node.outputs[0], node.graph
        assert isinstance(graph, ir.Graph)
        maker = value.producer()
        own = maker is not None and maker.graph is graph and (value.name or "").startswith(PREFIX)
        if not own or value.is_graph_output():
            source = value
            value = self.builder(node).Identity(source)
            value.type, value.shape = source.type, source.shape
        value.type, value.shape = value.type or old.type, value.shape or old.shape
        name, old.name = old.name, None
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
        graph.remove(node, safe=True)
        self.changed = True
