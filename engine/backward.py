"""The one walk: seeds in, adjoints out.

A reverse sweep over the nodes between what is wanted and what is seeded asks one rule per node. The
walk sums contributions, undoes broadcasting, skips operands nobody asked for and checks the arity; it
knows no operator. Gradients, Guided Backprop, LRP, DeepLIFT are different tables for it.

No zero is silent: a rule gives every active operand a value, or says that the derivative is zero, and what
sensitivity is lost by that is listed among what is blocked. A rule that gives nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxplain.engine.broadcast import unbroadcast
from onnxplain.engine.errors import BlockedGradientError, UnsupportedNodeError
from onnxplain.engine.graph.builder import PREFIX, Builder, schema_of
from onnxplain.engine.graph.captures import operands, subgraphs
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.passes.fused.table import CONTRIB, REASON, known_operators
from onnxplain.engine.graph.shapes import FLOATS, is_container, is_float
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import FLAT, GRADIENT, Entry, GradientRule, Zero

#: Finds the rule for a node; None means that there is none.
Lookup = Callable[[Primal, int], Entry[GradientRule] | None]


def gradients(node: Primal, opset: int) -> Entry[GradientRule] | None:
    """The lookup of plain gradients."""
    return GRADIENT.find(node.domain, node.op_type, node.version(opset))


@dataclass(frozen=True)
class Blocked:
    """A node at which the gradient ends although the model's answer depends on what enters it."""

    node: str
    operator: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.remedy}"


@dataclass
class Path:
    """What lies between the wanted values and the seeded ones.

    Attributes:
        active: Values that depend differentiably on a wanted value.
        nodes: Nodes with an active operand and an active result on which a seed depends, in topological order.
        blocked: Nodes where the gradient ends: at once, or (after a walk) by some of their operands.
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
        obstacles: Nodes that could not be served, those inside other nodes' graphs included; empty unless the
            walk was asked to collect them.
        failed: The forward nodes that are such, or contain one.
        unreached: The wanted values that no gradient reaches although it reaches others, and why.
        problem: Why no gradient reaches any wanted value; empty where one does, or where that was raised.
    """

    of: dict[ir.Value, ir.Value]
    path: Path
    nodes: list[Primal] = field(default_factory=list)
    obstacles: list[UnsupportedNodeError] = field(default_factory=list)
    failed: list[Primal] = field(default_factory=list)
    unreached: dict[ir.Value, str] = field(default_factory=dict)
    problem: str = ""


def find_path(nodes: Sequence[ir.Node], wanted: Iterable[ir.Value], seeded: Iterable[ir.Value]) -> Path:
    """Forward from the wanted values, backward from the seeded ones."""
    load_rules()
    active = set(wanted)
    ends: list[_End] = []
    entered = _spread(nodes, active, ends)
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
    found = dict.fromkeys(n for n, outermost in ends if any(y in needed for y in outermost.outputs))
    blocked = [Blocked(label(n), describe(n), _remedy(n)) for n in found]
    return Path(active, on_path[::-1], blocked)


#: A node where the gradient ends, and the node of the outermost graph that it lies in.
_End = tuple[ir.Node, ir.Node]


def _spread(nodes: Iterable[ir.Node], active: set[ir.Value], ends: list[_End]) -> set[ir.Node]:
    """Mark what depends on active values; gives the nodes that have an active operand."""
    entered: set[ir.Node] = set()
    for node in nodes:
        if not any(x in active for x in operands(node)):
            continue
        entered.add(node)
        flat = FLAT.get((node.domain, node.op_type))
        if flat is None and node.domain == "" and node.op_type in _FLOWS:
            inner: list[_End] = []
            active.update(_FLOWS[node.op_type](node, active, inner))
            ends += [(end, node) for end, _ in inner]
            continue
        results = [] if flat is not None else [y for y in node.outputs if carries_adjoint(y, node)]
        active.update(results)
        if not results and (flat.reported if flat is not None else True):
            ends.append((node, node))
    return entered


def _through_branches(node: ir.Node, active: set[ir.Value], ends: list[_End]) -> list[ir.Value]:
    """Results of an If that depend on active values in one of the branches."""
    graphs = list(subgraphs(node))
    for graph in graphs:
        _spread(graph, active, ends)
    return [y for i, y in enumerate(node.outputs) if any(i < len(g.outputs) and g.outputs[i] in active for g in graphs)]


def _through_steps(first: int) -> Callable[[ir.Node, set[ir.Value], list[_End]], list[ir.Value]]:
    """The same for a body that runs again and again; its states begin at input ``first``."""

    def through(node: ir.Node, active: set[ir.Value], ends: list[_End]) -> list[ir.Value]:
        body = next(subgraphs(node))
        after = list(body.outputs)[1 if first else 0 :]
        scanned = node.attributes.get("num_scan_inputs")
        states = max(len(node.inputs) - first - (scanned.as_int() if scanned is not None else 0), 0)
        given = zip(list(node.inputs)[first:], list(body.inputs)[first:], strict=False)
        active.update(inside for x, inside in given if x is not None and x in active)
        while True:
            found: list[_End] = []
            _spread(body, active, found)
            again = zip(list(body.inputs)[first : first + states], after, strict=False)
            more = {before for before, now in again if now in active and before not in active}
            if not more:
                break
            active.update(more)
        ends += found
        # A state that runs no step is the initial one.
        ends_active = [v in active for v in after]
        ends_active[:states] = [v in active for v in list(body.inputs)[first : first + states]]
        return [y for y, is_active in zip(node.outputs, ends_active, strict=False) if is_active]

    return through


#: Nodes with graphs inside: which of their results depend on active values.
_FLOWS = {"If": _through_branches, "Scan": _through_steps(0), "Loop": _through_steps(2)}


def carries_adjoint(value: ir.Value, node: ir.Node) -> bool:
    """Floats do; so do the integers between QuantizeLinear and DequantizeLinear (straight-through).

    A value of unknown type does as well, and so does a sequence or optional of floats: its node then needs a
    rule, and is refused where it has none.
    """
    if is_container(value):
        return value.dtype is None or value.dtype in FLOATS
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
        collect: Gather obstacles, and whether all is blocked, instead of raising at the first one.

    Returns:
        Adjoints of every value on the way; wanted ones among them unless the gradient never reaches them.

    Raises:
        UnsupportedNodeError: A node on the way has no rule, or its rule cannot serve it.
        BlockedGradientError: No differentiable way leads from any wanted value to a seeded one.
    """
    walk = _sweep(op, nodes, seeds, wanted, lookup, collect)
    result = walk.result
    result.path.blocked += [b for b in dict.fromkeys(walk.zeros) if b not in result.path.blocked]
    if not any(v in result.of for v in wanted):
        result.problem = _no_way(wanted, result.path.blocked, _steps(nodes, wanted, seeds, result.path.active))
        if not collect:
            raise BlockedGradientError(result.problem)
        return result
    for value in [v for v in wanted if v not in result.of]:
        own = find_path(nodes, [value], seeds)
        blocked = own.blocked + (walk.zeros if own.nodes else [])
        result.unreached[value] = _no_way([value], blocked, _steps(nodes, [value], seeds, own.active))
    return result


def _sweep(
    op: Builder,
    nodes: Sequence[ir.Node],
    seeds: Mapping[ir.Value, ir.Value],
    wanted: Sequence[ir.Value],
    lookup: Lookup,
    collect: bool,
) -> _Walk:
    walk = _Walk(op, find_path(nodes, wanted, seeds), seeds, lookup, collect)
    for node in reversed(walk.result.path.nodes):
        walk.visit(node)
    walk.result.nodes.reverse()
    for value in wanted:
        walk.adjoint(value)
    return walk


#: Operators that look at the sizes of their operand, not at its values.
_SIZES = {"Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike", "SequenceLength"}


def _steps(
    nodes: Sequence[ir.Node], wanted: Iterable[ir.Value], seeded: Iterable[ir.Value], active: set[ir.Value]
) -> list[ir.Node]:
    """Nodes by which the target depends on the wanted values, but not differentiably: comparisons, places, ids."""
    reached, needed = set(wanted), set(seeded)
    for node in nodes:
        if node.op_type not in _SIZES and any(x in reached for x in operands(node)):
            reached.update(node.outputs)
    for node in reversed(nodes):
        if any(y in needed for y in node.outputs):
            needed.update(operands(node))
    if not any(value in reached for value in seeded):
        return []
    ends = (n for n in nodes if n.op_type not in _SIZES and any(x in active for x in operands(n)))
    return [n for n in ends if any(y in needed and y not in active for y in n.outputs)]


def _no_way(wanted: Sequence[ir.Value], blocked: Sequence[Blocked], steps: Sequence[ir.Node]) -> str:
    names = ", ".join(f"'{v.name}'" for v in wanted)
    if not blocked and steps:
        ends = ", ".join(dict.fromkeys(f"'{label(n)}' ({describe(n)})" for n in steps[:5]))
        return (
            f"the target changes with {names} in steps only, by {ends}: there is no gradient; shapley_sampling, "
            "kernel_shap and occlusion explain it"
        )
    if not blocked:
        return f"the target does not depend on {names}; choose another output or input"
    ends = "; ".join(f"'{b.node}' ({b.operator}): {b.remedy}" for b in blocked[:5])
    return f"no differentiable path leads from {names} to the target: the gradient is blocked at {ends}"


class _Walk:
    def __init__(
        self, op: Builder, path: Path, seeds: Mapping[ir.Value, ir.Value], lookup: Lookup, collect: bool
    ) -> None:
        self.op = op
        self.lookup = lookup
        self.collect = collect
        self.result = Adjoints({}, path)
        #: Derivatives that rules said to be zero, and at which sensitivity is lost.
        self.zeros: list[Blocked] = []
        self._visiting = False
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
        primal = Primal(node, self.result.path.active, self.inside)
        dy = [self.adjoint(y) if y in self.result.path.active else None for y in node.outputs]
        if all(d is None for d in dy):
            return
        self.result.nodes.append(primal)
        known, self._visiting = len(self.result.obstacles), True
        try:
            self._apply(primal, dy)
        except UnsupportedNodeError as error:
            if not self.collect:
                raise
            self.result.obstacles.append(error)
            self._pretend(primal)
        finally:
            self._visiting = False
        if len(self.result.obstacles) > known:
            self.result.failed.append(primal)

    def inside(
        self, op: Builder, nodes: Sequence[ir.Node], seeds: Mapping[ir.Value, ir.Value], wanted: Sequence[ir.Value]
    ) -> dict[ir.Value, ir.Value]:
        """The same walk over nodes inside one of the visited nodes; a value that it never reaches has no adjoint.

        Bias rules go over the same nodes once more, when there is nothing new to tell of.
        """
        walk = _sweep(op, nodes, seeds, wanted, self.lookup, self.collect and self._visiting)
        if self._visiting:
            self.zeros += walk.zeros
            self.result.obstacles += walk.result.obstacles
        return walk.result.of

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
            if x is None or not node.active(index):
                continue
            if part is None:
                self._check_kind(node, index, x)
                continue
            if isinstance(part, Zero):
                if part.remedy:
                    words = f"the derivative by '{x.name}' is zero: {part.reason}; {part.remedy}"
                    self.zeros.append(Blocked(node.name, describe(node.ir), words))
                continue
            value = part() if callable(part) else part
            if entry.broadcasts:
                value = unbroadcast(self.op, value, x, node.y)
            if value.shape is None and value.producer() is not None:
                value.shape = x.shape
            self._parts.setdefault(x, []).append(value)

    def _check_kind(self, node: Primal, index: int, x: ir.Value) -> None:
        """Nothing may be given for an active operand only where its type is unknown and cannot be a float's.

        Raises:
            UnsupportedNodeError: The operand may well have a derivative, which the rule does not tell.
        """
        if (x.type is None or x.dtype in (None, ir.DataType.UNDEFINED)) and index < len(node.ir.inputs):
            formals = schema_of(node.op_type, self.op.opset).inputs if node.domain == "" else ()
            if formals and not any("float" in t or "double" in t for t in formals[min(index, len(formals) - 1)].types):
                return
        raise node.unsupported(
            f"its rule gives no gradient for operand {index} ('{x.name}')",
            "ask for the gradient of other tensors, or register a rule that gives one (or says that it is zero)",
        )

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
