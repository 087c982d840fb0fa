"""Folds inference BatchNormalization into the convolution in front of it, for block-wise biases.

``BatchNormalization(Conv(x, W, b))`` -> ``Conv(x, W g, (b - mean) g + beta)`` with
``g = scale / sqrt(var + epsilon)``, where the convolution's result is used nowhere else and all
parameters are constants. The adjoint at the block's output stays what it was; its bias becomes that of
the whole block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.shapes import constant

Array = np.ndarray[Any, Any]


class FoldBatchNormalizationPass(ir.passes.InPlacePass):
    """See the module's text. Requires canonical form."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "BatchNormalization" and node.domain == "" and self._fold(model.graph, node):
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _fold(self, graph: ir.Graph, node: ir.Node) -> bool:
        source = node.inputs[0]
        conv = source.producer() if source is not None else None
        if source is None or conv is None or conv.op_type not in ("Conv", "ConvTranspose") or conv.domain != "":
            return False
        if len(source.uses()) != 1 or source.is_graph_output():
            return False
        parts = [constant(v) for v in node.inputs[1:5]]
        weights = constant(conv.inputs[1])
        shift = constant(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else None
        has_shift = len(conv.inputs) > 2 and conv.inputs[2] is not None
        if weights is None or any(p is None for p in parts) or (has_shift and shift is None):
            return False
        scale, beta, mean, var = (np.asarray(p, dtype=np.float64) for p in parts)
        gain = scale / np.sqrt(var + float(node.attributes["epsilon"].value))
        old = np.zeros_like(mean) if shift is None else shift.astype(np.float64)
        folded = _scaled(conv, weights, gain)
        if folded is None:
            return False
        w = _initializer(graph, conv.inputs[1], folded.astype(weights.dtype), node)
        b = _initializer(graph, node.inputs[2], ((old - mean) * gain + beta).astype(weights.dtype), node)
        conv.resize_inputs(3)
        conv.replace_input_with(1, w)
        conv.replace_input_with(2, b)
        name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        source.name = name
        return True


def _scaled(conv: ir.Node, weights: Array, gain: Array) -> Array | None:
    if conv.op_type == "Conv":
        return np.asarray(weights * gain.reshape(-1, *[1] * (weights.ndim - 1)))
    group = int(conv.attributes["group"].value) if "group" in conv.attributes else 1
    if group != 1:
        return None
    return np.asarray(weights * gain.reshape(1, -1, *[1] * (weights.ndim - 2)))


def _initializer(graph: ir.Graph, like: ir.Value | None, array: Array, node: ir.Node) -> ir.Value:
    stem = f"{like.name if like is not None else 'folded'}/folded"
    name, count = stem, 1
    while name in graph.initializers:
        count += 1
        name = f"{stem}_{count}"
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
