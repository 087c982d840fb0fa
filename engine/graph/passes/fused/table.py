"""Which fused operators are known, and what their splitters share.

A splitter emits standard operators in front of the fused node and returns one value per result, None
for a result that it does not give. What it cannot serve it refuses with ``node.unsupported``: the node
then stays as it is, and the reason is told if a gradient has to pass it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.rules.node import Primal

#: The domain of onnxruntime's own operators.
CONTRIB = "com.microsoft"

#: Key in a node's ``meta`` under which the reason lies why a known fused operator was left as it is.
REASON = "onnxplain.not_split"

Splitter = Callable[[Builder, Primal], Sequence[ir.Value | None]]
SPLITTERS: dict[tuple[str, str], Splitter] = {}


def splits(*op_types: str, domain: str = CONTRIB) -> Callable[[Splitter], Splitter]:
    """Register a splitter."""

    def register(function: Splitter) -> Splitter:
        for op_type in op_types:
            if (domain, op_type) in SPLITTERS:
                raise ValueError(f"two splitters for {domain or 'ai.onnx'}::{op_type}")
            SPLITTERS[domain, op_type] = function
        return function

    return register


def known_operators() -> list[str]:
    """Names of the contrib operators that are split, sorted."""
    return sorted(name for domain, name in SPLITTERS if domain == CONTRIB)


def add_all(op: Builder, *values: ir.Value | None) -> ir.Value:
    """Sum of those that are there."""
    present = [v for v in values if v is not None]
    total = present[0]
    for value in present[1:]:
        total = op.Add(total, value)
    return total


def refuse_operands(node: Primal, first: int, *names: str) -> None:
    """Refuse operands from position ``first`` on that are given although no split exists with them."""
    for offset, name in enumerate(names):
        if name and node.optional(first + offset) is not None:
            raise node.unsupported(f"its input '{name}' is used", "export the model without it, or before this fusion")


def refuse_attributes(node: Primal, **neutral: object) -> None:
    """Refuse attributes whose value is not the neutral one."""
    for name, value in neutral.items():
        found = node.attribute(name, value)
        if found != value:
            raise node.unsupported(f"{name}={found}", "export the model without it, or before this fusion")
