"""Operators of other domains that a plug-in has a rule for: what the graph's passes need to know of them.

Guarantee: such an operator stays in the graph as it is, a call of a model-local function included, because
its rule is what is to be asked. What type and shape its results have is what the plug-in declared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxplain.engine.discover import RULE_PLUGINS, load_plugins
from onnxplain.engine.graph.shapes import Dims
from onnxplain.engine.rules.node import Primal

#: Type and sizes of one result; None where the one or the other is not known.
ResultInfo = tuple[ir.DataType | None, Dims | None]
ResultRule = Callable[[Primal], Sequence[ResultInfo]]

#: Operators with a rule of a plug-in, by (domain, operator).
KEPT: set[tuple[str, str]] = set()

#: What is declared of their results.
RESULTS: dict[tuple[str, str], ResultRule] = {}


def is_kept(domain: str, op_type: str) -> bool:
    """Whether a plug-in has a rule for the operator, at whatever version."""
    load_plugins(RULE_PLUGINS)
    return (domain, op_type) in KEPT


def like_operand(index: int) -> ResultRule:
    """Every result has the type and the sizes of one operand."""

    def rule(node: Primal) -> Sequence[ResultInfo]:
        x = node.x(index)
        return [(x.dtype, node.dims(index))] * len(node.outputs)

    return rule
