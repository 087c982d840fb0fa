"""The one walk: seeds in, adjoints out.

A reverse sweep over the nodes between what is wanted and what is seeded asks one rule per node. The
walk sums contributions, undoes broadcasting, skips operands nobody asked for and checks the arity; it
knows no operator. Gradients, Guided Backprop, LRP, DeepLIFT are different tables for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxplain.engine.broadcast import unbroadcast
from onnxplain.engine.errors import BlockedGradientError, UnsupportedNodeError
from onnxplain.engine.graph.builder import PREFIX, Builder
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.passes.fused.table import CONTRIB, REASON, known_operators
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import FLAT, GRADIENT, Entry, GradientRule

#: Finds the rule for a node; None means that there is none.
Lookup = Callable[[Primal, int], Entry[GradientRule] | None]


def gradients(node: Primal, opset: int) -> Entry[GradientRule] | None:
    """The lookup of plain gradients."""
    return GRADIENT.find(node.domain, node.op_type, opset)


@dataclass(frozen=True)
class Blocked:
    """A node at which the gradient ends although the model's answer depends on what enters it."""

    node: str
    operator: str
    remedy: str


@dataclass
class Path:
    """What lies between the wanted values and the seeded ones.

    Attributes:
        active: Values that depend differentiably on a wanted value.
        nodes: Nodes with an active operand and an active result on which a seed depends, in topological order.
        blocked: Nodes where the gradient ends.
    """

    active: set[ir.Value]
    nodes: list[ir.Node]
    blocked: list[Blocked]


@dataclass
class Adjoints:
    """Result of a walk.

    Attributes:
        of: Adjoint per value, in the value's shape; values without one are missing.
        path: What the walk went along.
        nodes: The forward nodes as the rules saw them, in topological order.
        obstacles: Nodes that could not be served; empty unless the walk was asked to collect them.
    """

    of: dict[ir.Value, ir.Value]
    path: Path
    nodes: list[Primal] = field(default_factory=list)
    obstacles: list[UnsupportedNodeError] = field(default_factory=list)


def operands(node: ir.Node) -> list[ir.Value]:
    """All values that a node reads, those that its subgraphs capture included."""
    values = [x for x in node.inputs if x is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            values += _captured(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            values += [v for graph in attribute.as_graphs() for v in _captured(graph)]
    return values


def _captured(graph: ir.Graph) -> list[ir.Value]:
    own = {*graph.inputs, *graph.initializers.values()}
    read: list[ir.Value] = []
    for node in graph:
        read += operands(node)
        own.update(node.outputs)
    return [v for v in (*read, *graph.outputs) if v not in own]


def find_path(nodes: Sequence[ir.Node], wanted: Iterable[ir.Value], seeded: Iterable[ir.Value]) -> Path:
    """Forward from the wanted values, backward from the seeded ones."""
    load_rules()
    active = set(wanted)
    ends: list[ir.Node] = []
    entered: set[ir.Node] = set()
    for node in nodes:
        if not any(x in active for x in operands(node)):
            continue
        entered.add(node)
        flat = FLAT.get((node.domain, node.op_type))
        results = [] if flat is not None else [y for y in node.outputs if carries_adjoint(y, node)]
        active.update(results)
        if not results and (flat.reported if flat is not None else True):
            ends.append(node)
    needed, reached = set(seeded), set(seeded)
    on_path: list[ir.Node] = []
    for node in reversed(nodes):
        if any(y in needed for y in node.outputs):
            needed.update(operands(node))
        # What lies before a node at which all gradient ends is needed, but no adjoint comes to it.
        # Nor does it go on through what computes a wanted inner tensor: that stands for itself.
        if node in entered and any(y in reached and y in active for y in node.outputs):
            reached.update(operands(node))
            on_path.append(node)
    blocked = [Blocked(label(n), describe(n), _remedy(n)) for n in ends if any(y in needed for y in n.outputs)]
    return Path(active, on_path[::-1], blocked)


def carries_adjoint(value: ir.Value, node: ir.Node) -> bool:
    """Floats do; so do the integers between QuantizeLinear and DequantizeLinear (straight-through).

    A value of unknown type does as well: its node then needs a rule, and is refused where it has none.
    """
    unknown = value.type is None or value.dtype in (None, ir.DataType.UNDEFINED)
    return unknown or is_float(value) or (node.op_type == "QuantizeLinear" and node.domain == "")


def _remedy(node: ir.Node) -> str:
    flat = FLAT.get((node.domain, node.op_type))
    return flat.remedy if flat is not None else "its result is no float tensor"


def backward(
    op: Builder,
    nodes: Sequence[ir.Node],
    seeds: Mapping[ir.Value, ir.Value],
    wanted: Sequence[ir.Value],
    lookup: Lookup = gradients,
    *,
    collect: bool = False,
) -> Adjoints:
    """Append the reverse sweep.

    Args:
        op: Builder at the end of the graph.
        nodes: The forward nodes, in topological order.
        seeds: Adjoint (cotangent) per seeded value, in that value's shape.
        wanted: Values whose adjoints are asked for: inputs, initializers or inner tensors.
        lookup: The rule table.
        collect: Gather obstacles instead of raising at the first one.

    Returns:
        Adjoints of every value on the way; wanted ones among them unless the gradient never reaches them.

    Raises:
        UnsupportedNodeError: A node on the way has no rule, or its rule cannot serve it.
        BlockedGradientError: No differentiable way leads from any wanted value to a seeded one.
    """
    path = find_path(nodes, wanted, seeds)
    walk = _Walk(op, path, seeds, lookup, collect)
    if not path.nodes and not any(w in seeds for w in wanted):
        raise BlockedGradientError(_no_way(wanted, path))
    for node in reversed(path.nodes):
        walk.visit(node)
    walk.result.nodes.reverse()
    for value in wanted:
        walk.adjoint(value)
    return walk.result


def _no_way(wanted: Sequence[ir.Value], path: Path) -> str:
    names = ", ".join(f"'{v.name}'" for v in wanted)
    if not path.blocked:
        return f"the target does not depend on {names}; choose another output or input"
    ends = "; ".join(f"'{b.node}' ({b.operator}): {b.remedy}" for b in path.blocked[:5])
    return f"no differentiable path leads from {names} to the target: the gradient is blocked at {ends}"


class _Walk:
    def __init__(
        self, op: Builder, path: Path, seeds: Mapping[ir.Value, ir.Value], lookup: Lookup, collect: bool
    ) -> None:
        self.op = op
        self.lookup = lookup
        self.collect = collect
        self.result = Adjoints({}, path)
        self._parts: dict[ir.Value, list[ir.Value]] = {v: [a] for v, a in seeds.items()}

    def adjoint(self, value: ir.Value) -> ir.Value | None:
        """The sum of all contributions to a value; complete once its consumers were visited."""
        parts = self._parts.get(value)
        if not parts:
            return None
        if value not in self.result.of:
            total = parts[0]
            if len(parts) > 1:
                emit = self.op.Add if len(parts) == 2 else self.op.Sum
                total = emit(*parts, name=f"{PREFIX}/adjoint/{value.name}")
            total.shape = total.shape or value.shape
            self.result.of[value] = total
        return self.result.of[value]

    def visit(self, node: ir.Node) -> None:
        primal = Primal(node, self.result.path.active)
        dy = [self.adjoint(y) if y in self.result.path.active else None for y in node.outputs]
        if all(d is None for d in dy):
            return
        self.result.nodes.append(primal)
        try:
            self._apply(primal, dy)
        except UnsupportedNodeError as error:
            if not self.collect:
                raise
            self.result.obstacles.append(error)
            self._pretend(primal)

    def _apply(self, node: Primal, dy: list[ir.Value | None]) -> None:
        entry = self.lookup(node, self.op.opset)
        if entry is None:
            raise _no_rule(node)
        contributions = entry.rule(self.op, node, *dy)
        if len(contributions) != len(node.inputs):
            raise AssertionError(
                f"the rule of {node.op_type} gave {len(contributions)} contributions for {len(node.inputs)} operands"
            )
        for index, (x, part) in enumerate(zip(node.inputs, contributions, strict=True)):
            if x is None or part is None or not node.active(index):
                continue
            value = part() if callable(part) else part
            if entry.broadcasts:
                value = unbroadcast(self.op, value, x, node.y)
            if value.shape is None and value.producer() is not None:
                value.shape = x.shape
            self._parts.setdefault(x, []).append(value)

    def _pretend(self, node: Primal) -> None:
        """Let the sweep go on past an obstacle, so that the ones behind it are found as well."""
        for x in node.inputs:
            if x is not None and x in self.result.path.active:
                self._parts.setdefault(x, []).append(x)


def _no_rule(node: Primal) -> UnsupportedNodeError:
    reason = node.ir.meta.get(REASON)
    if reason is not None:
        return node.unsupported(*reason)
    if node.domain == CONTRIB:
        return node.unsupported(
            f"this operator of {CONTRIB} is not known; those that are split into standard ones: {', '.join(known_operators())}",
            "give the model as it was before the runtime's optimisation, or register a rule (entry point 'onnxplain.rules')",
        )
    if node.domain:
        return node.unsupported(
            f"the domain '{node.domain}' has no rule for this operator",
            "register one with a plug-in (entry point 'onnxplain.rules'), or export the model with standard operators",
        )
    return node.unsupported(
        "there is no gradient rule for this operator", "see 'onnxplain operators' for those that have one"
    )
