"""How nodes and operators are called in messages, results and tables: one way everywhere."""

from __future__ import annotations

import onnx_ir as ir

#: Under this key a copy of a node keeps the name of the node that it was copied from.
ORIGIN = "onnxplain.origin"

#: Under this key a node whose operand's first axis is gone through step by step keeps the name and the operator of
#: the recurrent node that does so.
STEPS = "onnxplain.steps"


def label(node: ir.Node) -> str:
    """The node's name (of a copy, the original's), or its first output's where it has none."""
    copied: str | None = node.meta.get(ORIGIN)
    return copied or node.name or next((y.name for y in node.outputs if y.name), "unnamed")


def describe(node: ir.Node) -> str:
    """``Conv`` for the default domain, ``com.microsoft::FusedConv`` for others."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
