"""Where rules are registered and found: by domain, operator and opset, never by operator name alone.

``GRADIENT`` maps a node and the adjoints of its results to the adjoints of its operands. ``BIAS`` maps
a node to its node bias ``c = h(p) - sum_k J_k p_k`` over its active operands p (methods of FullGrad,
arXiv 1905.00780, extended to any operator). Constructors write both for whole kinds of operators:

======================  ================================  ========================================
constructor             gradient                          node bias
======================  ================================  ========================================
``elementwise(f)``      ``dx = dy * f(x, y)``             implicit: ``y - x * f(x, y)``
``homogeneous(k)``      (a rule of its own)               ``(1 - k) * y``; nothing for k = 1
``multilinear``         (a rule of its own)               degree = number of active operands
``no_gradient``         zero everywhere                   (the result counts as a constant)
======================  ================================  ========================================

A rule gives a contribution for every active operand. Where the derivative by one of them is zero it says
so: :data:`ZERO` where nobody expects another, :func:`zero` with a reason and a remedy where sensitivity is
lost. None stands for operands that cannot be active (indices, conditions, sizes); the walk refuses a node
whose rule gives it for one that is, so that a gradient that is missing is never taken for one that is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.rules.node import Primal


@dataclass(frozen=True)
class Zero:
    """The derivative by an operand, where it is zero wherever it exists.

    Attributes:
        reason: Why it is zero.
        remedy: What the user can do about the sensitivity that is lost; empty where none was to be
            expected, so that nothing is reported.
    """

    reason: str = ""
    remedy: str = ""


#: A derivative of zero that nobody expects to be anything else: not reported.
ZERO = Zero()


def zero(reason: str, remedy: str) -> Zero:
    """A derivative of zero at which sensitivity is lost: reported as a blocked gradient."""
    return Zero(reason, remedy)


#: What a rule gives per operand: a value, a function that emits it if somebody asks, a derivative that is
#: zero, or None where the operand is left out or of a kind that has no derivative.
Contribution = ir.Value | Zero | None | Callable[[], ir.Value]
GradientRule = Callable[..., Sequence[Contribution]]
BiasKind = Literal["explicit", "implicit"]


@dataclass(frozen=True)
class Bias:
    """One part of a node's bias.

    Attributes:
        value: The constant or tensor c; broadcastable against the result it belongs to.
        kind: ``explicit`` where it is a parameter of the model (or another constant that is added),
            ``implicit`` where it comes from the operator not being linear.
        name: What the user knows it by: the parameter's name, or empty.
        output: Which of the node's results it belongs to.
        factor: A number that ``value`` is still to be multiplied by; it costs nothing on a term's total.
    """

    value: ir.Value
    kind: BiasKind
    name: str = ""
    output: int = 0
    factor: float = 1.0

    def full(self, op: Builder) -> ir.Value:
        """The bias c itself, factor included."""
        if self.factor == 1.0:
            return self.value
        result = op.Mul(self.value, self.factor)
        result.shape = self.value.shape
        return result


BiasRule = Callable[[Builder, Primal], Sequence[Bias]]
R = TypeVar("R")


@dataclass(frozen=True)
class Entry(Generic[R]):
    """A registered rule.

    Attributes:
        rule: The function.
        since: The first opset whose form of the operator it serves.
        broadcasts: The operands broadcast to the result as numpy does it; the walk undoes that.
    """

    rule: R
    since: int = 1
    broadcasts: bool = False


class Table(Generic[R]):
    """Rules of one kind; the newest one not newer than the model's opset is taken."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[tuple[str, str], list[Entry[R]]] = {}

    def add(self, rule: R, *op_types: str, domain: str = "", since: int = 1, broadcasts: bool = False) -> R:
        """Register ``rule``; a second one for the same operator and opset is an error naming both."""
        for op_type in op_types:
            entries = self._entries.setdefault((domain, op_type), [])
            for other in entries:
                if other.since == since:
                    raise ValueError(
                        f"two {self.kind} rules for {domain or 'ai.onnx'}::{op_type}: {other.rule!r}, {rule!r}"
                    )
            entries.append(Entry(rule, since, broadcasts))
            entries.sort(key=lambda e: e.since)
        return rule

    def register(self, *op_types: str, domain: str = "", since: int = 1, broadcasts: bool = False) -> Callable[[R], R]:
        """Decorator form of :meth:`add`."""
        return lambda rule: self.add(rule, *op_types, domain=domain, since=since, broadcasts=broadcasts)

    def discard(self, domain: str, op_type: str, since: int) -> None:
        """Take the rule of that operator and version away, if there is one."""
        kept = [e for e in self._entries.get((domain, op_type), ()) if e.since != since]
        self._entries.pop((domain, op_type), None)
        if kept:
            self._entries[domain, op_type] = kept

    def copy(self) -> dict[tuple[str, str], list[Entry[R]]]:
        """All entries, for :meth:`restore`."""
        return {key: list(entries) for key, entries in self._entries.items()}

    def restore(self, entries: dict[tuple[str, str], list[Entry[R]]]) -> None:
        """Bring the table back to what :meth:`copy` gave."""
        self._entries.clear()
        self._entries.update(entries)

    def find(self, domain: str, op_type: str, opset: int) -> Entry[R] | None:
        """The newest rule not newer than ``opset``, or None."""
        entries = self._entries.get((domain, op_type), ())
        return next((e for e in reversed(entries) if e.since <= opset), None)

    def operators(self) -> list[tuple[str, str]]:
        """All (domain, operator) pairs, sorted."""
        return sorted(self._entries)


def only(node: Primal, part: Contribution, index: int = 0) -> list[Contribution]:
    """The contributions of a node whose operand at ``index`` alone has a gradient."""
    parts: list[Contribution] = [None] * len(node.inputs)
    parts[index] = part
    return parts


GRADIENT: Table[GradientRule] = Table("gradient")
BIAS: Table[BiasRule] = Table("bias")
gradient = GRADIENT.register
bias = BIAS.register


@dataclass(frozen=True)
class Flat:
    """An operator whose derivative is zero wherever it exists.

    Attributes:
        reported: Whether a blocked gradient is worth telling the user: true where a sensible sensitivity
            was lost (Round, ArgMax), false where none was to be expected (Shape, Equal).
        remedy: What the user can do.
    """

    reported: bool
    remedy: str = ""


FLAT: dict[tuple[str, str], Flat] = {}


def no_gradient(*op_types: str, reported: bool, remedy: str = "", domain: str = "") -> None:
    """Register operators whose derivative is zero everywhere it exists."""
    for op_type in op_types:
        if (domain, op_type) in FLAT:
            raise ValueError(f"{op_type} is registered twice as without gradient")
        FLAT[domain, op_type] = Flat(reported, remedy)


Derivative = Callable[[Builder, Primal], ir.Value]


def elementwise(*op_types: str, since: int = 1, domain: str = "") -> Callable[[Derivative], Derivative]:
    """Register a one-operand elementwise operator by its derivative alone.

    The decorated function returns ``h'(x)``, in the shape of x, from the node's operand and result.
    """

    def register(derivative: Derivative) -> Derivative:
        def rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
            return [op.Mul(dy, derivative(op, node)), *([None] * (len(node.inputs) - 1))]

        def node_bias(op: Builder, node: Primal) -> Sequence[Bias]:
            value = op.Sub(node.y, op.Mul(node.x(), derivative(op, node)))
            value.shape = node.y.shape
            return [Bias(value, "implicit")]

        GRADIENT.add(rule, *op_types, since=since, domain=domain)
        BIAS.add(node_bias, *op_types, since=since, domain=domain)
        return derivative

    return register


def of_degree(op: Builder, node: Primal, degree: int, output: int = 0) -> list[Bias]:
    """Bias of a result that is homogeneous of that degree in its active operands (Euler): (1 - k) y."""
    if degree == 1:
        return []
    y = node.outputs[output]
    value = y if degree == 0 else op.Neg(y) if degree == 2 else op.Mul(y, 1 - degree)
    value.shape = y.shape
    return [Bias(value, "implicit", output=output)]


def homogeneous(degree: int, *op_types: str, domain: str = "", since: int = 1) -> None:
    """Register the bias of operators that are homogeneous of a fixed degree in all active operands."""

    def rule(op: Builder, node: Primal) -> Sequence[Bias]:
        return of_degree(op, node, degree)

    BIAS.add(rule, *op_types, domain=domain, since=since)


def linear(*op_types: str, domain: str = "", since: int = 1) -> None:
    """Register the bias of operators that are linear in their active operands jointly: none."""
    homogeneous(1, *op_types, domain=domain, since=since)


def multilinear(*op_types: str, domain: str = "", since: int = 1) -> None:
    """Register the bias of products: linear in each operand, so of degree = number of active ones."""

    def rule(op: Builder, node: Primal) -> Sequence[Bias]:
        return of_degree(op, node, node.active_count())

    BIAS.add(rule, *op_types, domain=domain, since=since)
