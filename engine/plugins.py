"""Rules for operators that are not this package's own: what a plug-in registers with.

The same tables as the package's own rules, with the care that strangers' code needs: the domain is always
named, a rule that would never be asked for or that would take another's place is refused, and whatever a
test registers can be undone. Re-exported as ``onnxplain.rules``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from onnxplain.engine.errors import RuleError
from onnxplain.engine.graph import custom
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.custom import ResultRule, like_operand
from onnxplain.engine.graph.passes.expand_functions import EXPANDED
from onnxplain.engine.graph.passes.fused.table import SPLITTERS
from onnxplain.engine.rules import load_families, table
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import BIAS, FLAT, GRADIENT, Bias, BiasRule, Derivative, GradientRule, Table

_Key = tuple[str, str]
V = TypeVar("V")


def gradient(
    *operators: str, domain: str, since: int = 1, broadcasts: bool = False, replace: bool = False
) -> Callable[[GradientRule], GradientRule]:
    """Decorator: the gradient rule of one or more operators.

    The rule is called as ``rule(op, node, dy)``, with one adjoint per result of the operator (None for a
    result that the target does not depend on), and returns one contribution per operand.

    Args:
        operators: Names of the operators.
        domain: Their domain; ``""`` for a standard operator that has no rule yet.
        since: First version of the domain whose form of the operator the rule serves; a newer one is
            taken from its own version on.
        broadcasts: The operands broadcast to the result as in NumPy, and contributions are given in the
            result's shape; what was broadcast is then summed up again.
        replace: Take the place of the plug-in rule that is there for the same version.

    Raises:
        RuleError: There is a rule already, or the operator is served in another way.
    """

    def register(rule: GradientRule) -> GradientRule:
        keys = _claim(GRADIENT, operators, domain, since, replace)
        for key in keys:
            FLAT.pop(key, None)
        return GRADIENT.add(rule, *operators, domain=_plain(domain), since=since, broadcasts=broadcasts)

    return register


def bias(*operators: str, domain: str, since: int = 1, replace: bool = False) -> Callable[[BiasRule], BiasRule]:
    """Decorator: the node-bias rule ``rule(op, node) -> [Bias, ...]``, which full-gradient methods need.

    The node bias is ``c = h(p) - sum_k J_k p_k`` over the active operands p.

    Args:
        operators, domain, since, replace: As for :func:`gradient`.

    Raises:
        RuleError: As for :func:`gradient`.
    """

    def register(rule: BiasRule) -> BiasRule:
        _claim(BIAS, operators, domain, since, replace)
        return BIAS.add(rule, *operators, domain=_plain(domain), since=since)

    return register


def elementwise(
    *operators: str, domain: str, since: int = 1, replace: bool = False
) -> Callable[[Derivative], Derivative]:
    """Decorator: gradient, node bias and result type of an elementwise operator, from its derivative alone.

    The function is called as ``derivative(op, node)`` and emits h'(x) in the shape of ``node.x()``.

    Args:
        operators, domain, since, replace: As for :func:`gradient`.

    Raises:
        RuleError: As for :func:`gradient`.
    """

    def register(derivative: Derivative) -> Derivative:
        keys = _claim(GRADIENT, operators, domain, since, replace)
        _claim(BIAS, operators, domain, since, replace)
        for key in keys:
            FLAT.pop(key, None)
            custom.RESULTS.setdefault(key, like_operand(0))
        return table.elementwise(*operators, since=since, domain=_plain(domain))(derivative)

    return register


def homogeneous(degree: int, *operators: str, domain: str, since: int = 1, replace: bool = False) -> None:
    """The node bias of operators that are homogeneous of a fixed degree in their active operands: ``(1 - degree) y``.

    Args:
        degree: 1 for whatever is linear in them, which has no bias.
        operators, domain, since, replace: As for :func:`gradient`.

    Raises:
        RuleError: As for :func:`gradient`.
    """

    def rule(op: Builder, node: Primal) -> Sequence[Bias]:
        return table.of_degree(op, node, degree)

    bias(*operators, domain=domain, since=since, replace=replace)(rule)


def no_gradient(*operators: str, domain: str, reported: bool, remedy: str = "") -> None:
    """Operators whose derivative is zero wherever it exists.

    Args:
        operators, domain: As for :func:`gradient`.
        reported: Whether a lost sensitivity is told to the user (a rounding), or none was to be expected
            (a comparison).
        remedy: What the user can do about it.

    Raises:
        RuleError: As for :func:`gradient`, or the operator has a gradient rule.
    """
    for key in _claim(GRADIENT, operators, domain, 0, False):
        if key in GRADIENT.operators():
            raise RuleError(
                f"{_name(*key)} has a gradient rule and cannot be without gradient; register one of the two"
            )
        FLAT[key] = table.Flat(reported, remedy)


def result(*operators: str, domain: str) -> Callable[[ResultRule], ResultRule]:
    """Decorator: type and sizes of an operator's results, for what stands behind it in the graph.

    The function is called with the node and returns one ``(type, sizes)`` per result, either of them None
    where it is not known. Without a declaration the types are those that the file notes for the values,
    else that of the first float operand; sizes are taken at run time where rules can do without.

    Args:
        operators, domain: As for :func:`gradient`.
    """

    def register(rule: ResultRule) -> ResultRule:
        for name in operators:
            custom.RESULTS[_plain(domain), name] = rule
        return rule

    return register


def result_like(*operators: str, domain: str, operand: int = 0) -> None:
    """Results have the type and the sizes of one operand: the common case of :func:`result`."""
    result(*operators, domain=domain)(like_operand(operand))


@contextmanager
def temporary() -> Iterator[None]:
    """Undo on leaving whatever was registered inside; for tests.

    >>> with temporary():
    ...     no_gradient("Mystery", domain="org.example", reported=False)
    """
    load_families()
    gradients, biases, flat = GRADIENT.copy(), BIAS.copy(), dict(FLAT)
    kept, results = set(custom.KEPT), dict(custom.RESULTS)
    try:
        yield
    finally:
        GRADIENT.restore(gradients)
        BIAS.restore(biases)
        _refill(FLAT, flat)
        _refill(custom.RESULTS, results)
        custom.KEPT.clear()
        custom.KEPT.update(kept)


def _refill(mapping: dict[_Key, V], content: dict[_Key, V]) -> None:
    mapping.clear()
    mapping.update(content)


# ----- what may be registered -----------------------------------------------------------------------


def _claim(rules: Table[Any], operators: Sequence[str], domain: str, since: int, replace: bool) -> list[_Key]:
    """The operators' keys, once it is certain that a rule may be registered for them."""
    if not operators:
        raise RuleError("no operator was named; give its name, as in gradient('Relu', domain='org.example')")
    keys = [(_plain(domain), name) for name in operators]
    for key in keys:
        if key in _own():
            raise RuleError(
                f"{_name(*key)} has a rule of this package, whose place no plug-in takes; "
                "for another propagation rule write a method (entry point 'onnxplain.methods')"
            )
        if key in EXPANDED or key in SPLITTERS:
            raise RuleError(
                f"{_name(*key)} is written out in simpler operators before any rule is asked, so one for it "
                "would never run; leave it out"
            )
        found = rules.find(*key, since)
        if found is not None and found.since == since:
            if not replace:
                raise RuleError(
                    f"{_name(*key)} has a {rules.kind} rule from version {since} on already "
                    f"({getattr(found.rule, '__module__', '?')}); give another since=, or replace=True"
                )
            rules.discard(*key, since)
    custom.KEPT.update(keys)
    return keys


@functools.cache
def _own() -> frozenset[_Key]:
    """Operators that this package has rules for. First asked for before any plug-in can have registered one."""
    load_families()
    return frozenset({*GRADIENT.operators(), *BIAS.operators(), *FLAT})


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _name(domain: str, operator: str) -> str:
    return f"{domain or 'ai.onnx'}::{operator}"
