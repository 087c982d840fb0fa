"""How nodes and operators are called in messages, results and tables: one way everywhere."""

from __future__ import annotations

import onnx_ir as ir


def label(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((y.name for y in node.outputs if y.name), "unnamed")


def describe(node: ir.Node) -> str:
    """``Conv`` for the default domain, ``com.microsoft::FusedConv`` for others."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
