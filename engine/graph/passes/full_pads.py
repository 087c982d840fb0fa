"""Pad of some axes -> Pad of all axes, with zeros for the others.

onnxruntime's optimiser moves a Transpose across a Pad and reorders the amounts as though they were those of all
axes; with the operand ``axes`` the run then fails, or pads another axis. Amounts known now stay constants, the
others are put in their places by a ScatterElements.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.shapes import constant, rank


class FullPadsPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [n for n in walk(model.graph) if _has_axes(n)]
        taken = names_of(model.graph) if nodes else set()
        for node in nodes:
            assert isinstance(node.graph, ir.Graph)
            op = Builder(node.graph, before=node, taken=taken)
            node.replace_input_with(1, _amounts(op, node))
            node.replace_input_with(3, None)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _has_axes(node: ir.Node) -> bool:
    return node.op_type == "Pad" and node.domain == "" and len(node.inputs) > 3 and node.inputs[3] is not None


def _amounts(op: Builder, node: ir.Node) -> ir.Value:
    """Begins of all axes, then ends of all axes."""
    x, pads, _, axes = node.inputs[:4]
    assert x is not None
    assert pads is not None
    assert axes is not None
    count, given, chosen = rank(x), constant(pads), constant(axes)
    if count is None or chosen is None:
        size = op.Shape(op.Shape(x)) if count is None else op.constant([count], ir.DataType.INT64)
        places = op.Mod(op.Cast(axes, to=ir.DataType.INT64.value), size)
        zeros = op.ConstantOfShape(op.Mul(size, 2), value=ir.tensor(np.zeros(1, np.int64)))
        return op.ScatterElements(zeros, op.Concat(places, op.Add(places, size), axis=0), pads, axis=0)
    begins = np.asarray(chosen, np.int64).reshape(-1) % count
    indices, full = np.concatenate([begins, begins + count]), np.zeros(2 * count, np.int64)
    if given is None:
        return op.ScatterElements(op.constant(full), op.constant(indices), pads, axis=0)
    full[indices] = given
    return op.constant(full)
