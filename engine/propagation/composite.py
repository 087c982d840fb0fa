"""Which rule serves which node: ordered (predicate, table) pairs in front of the plain gradients.

The first pair whose predicate holds for a node and whose table has a rule for its operator serves it;
a node that no pair serves is left to the fallback. So a method that changes one operator is one pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxplain.engine.backward import Lookup, gradients
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Entry, GradientRule, Table

#: Whether a table applies to a node.
Predicate = Callable[[Primal], bool]


@dataclass(frozen=True)
class Composite:
    """A lookup for the walk made of overrides.

    Attributes:
        overrides: Predicates and the tables that they switch on, the most particular first.
        fallback: Serves every node that no override serves.
    """

    overrides: Sequence[tuple[Predicate, Table[GradientRule]]]
    fallback: Lookup = gradients

    def override(self, node: Primal, opset: int) -> Entry[GradientRule] | None:
        """The rule that takes the gradient's place at ``node``, or None where the fallback serves it."""
        for predicate, table in self.overrides:
            if predicate(node):
                entry = table.find(node.domain, node.op_type, node.version(opset))
                if entry is not None:
                    return entry
        return None

    def __call__(self, node: Primal, opset: int) -> Entry[GradientRule] | None:
        """The rule for ``node``; None where not even the fallback has one."""
        return self.override(node, opset) or self.fallback(node, opset)


def everywhere(node: Primal) -> bool:
    """Holds for every node."""
    return True
