"""BatchNormalization in training mode, which normalises by the batch's own statistics, in simpler operators.

``BatchNormalization(x, s, b, mean, var, training_mode=1)`` ->

1. ``y = (x - m) / sqrt(v + epsilon) s + b`` with m and v the mean and the variance of x per channel
2. ``running_mean = mean momentum + m (1 - momentum)``, ``running_var`` alike
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import rank


class ExpandTrainingPass(ir.passes.InPlacePass):
    """See the module's text. Requires default attributes and the working opset."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            mode = node.attributes.get("training_mode")
            if node.op_type == "BatchNormalization" and node.domain == "" and mode is not None and mode.value:
                _expand(node, Builder(model.graph, before=node))
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _expand(node: ir.Node, op: Builder) -> None:
    x, scale, bias, mean, var = node.inputs
    total = None if x is None else rank(x)
    if x is None or total is None:
        raise UnsupportedNodeError(
            label(node),
            describe(node),
            "the rank of its operand is known only at run time",
            "give the model's inputs fixed ranks",
        )
    axes = [i for i in range(total) if i != 1]
    shape = [1, -1, *[1] * (total - 2)]
    own_mean = op.ReduceMean(x, axes, keepdims=1)
    centred = op.Sub(x, own_mean)
    own_var = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    deviation = op.Sqrt(op.Add(own_var, float(node.attributes["epsilon"].value)))
    factor = op.Div(op.Reshape(scale, shape), deviation)
    results = [op.Add(op.Mul(centred, factor), op.Reshape(bias, shape))]
    momentum = float(node.attributes["momentum"].value)
    for kept, own in ((mean, own_mean), (var, own_var)):
        fresh = op.Mul(op.Reshape(own, [-1]), 1.0 - momentum)
        results.append(op.Add(op.Mul(kept, momentum), fresh))
    _take_places(node, results)


def _take_places(node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Put ``values`` where the node's outputs were, names and all, and drop the node."""
    names = []
    for old, value in zip(node.outputs, values, strict=False):
        names.append(old.name)
        value.type, value.shape = old.type or value.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)
    if node.graph is not None:
        node.graph.remove(node, safe=True)
    for value, name in zip(values, names, strict=False):
        if name:
            value.name = name
