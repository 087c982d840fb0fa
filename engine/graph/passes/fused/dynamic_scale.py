"""DynamicQuantizeLinear whose levels nobody computes with: the scale that it finds, as what it is.

The scale is the width of the range, a function with a derivative. Where a model computes with the levels as
well, the scale is a parameter of the quantisation instead, and the node stays: straight-through gradients
(:mod:`onnxplain.engine.graph.passes.dequantize`) take it for a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import splits
from onnxplain.engine.rules.node import Primal


@splits("DynamicQuantizeLinear", domain="")
def dynamic_scale(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """scale = (max(x, 0) - min(x, 0)) / 255, and 1 for zeros alone; levels and zero point as they were."""
    if node.outputs[0].uses() or not (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        raise node.unsupported("its levels are computed with", "choose how with quantisation=")
    x = node.x()
    levels, _, zero = op.emit("DynamicQuantizeLinear", [x], outputs=3)
    high, low = op.Max(op.ReduceMax(x, keepdims=0), 0.0), op.Min(op.ReduceMin(x, keepdims=0), 0.0)
    width = op.Sub(high, low)
    return [levels, op.Where(op.Greater(width, 0.0), op.Div(width, 255.0), 1.0), zero]
