"""Removes Dropout, which does nothing at inference, and refuses it where it is left in training mode.

1. ``Dropout(x)`` without a true ``training_mode`` -> ``x``
2. ``Dropout(x, ratio=0, training_mode=true)`` -> ``x``
3. ``training_mode`` true, or computed at run time -> refused
4. the mask output is used -> refused
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import constant


class RemoveDropoutPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if node.op_type == "Dropout" and node.domain == "" and node.graph is not None:
                self._check(node)
                x = node.inputs[0]
                if x is not None:
                    replace_by_identity(node, x)
                    modified = True
        return ir.passes.PassResult(model, modified=modified)

    @staticmethod
    def _check(node: ir.Node) -> None:
        hint = "export the model in inference (eval) mode"
        if len(node.outputs) > 1 and (len(node.outputs[1].uses()) or node.outputs[1].is_graph_output()):
            raise UnsupportedNodeError(label(node), describe(node), "its mask output is used", hint)
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return
        mode, ratio = constant(node.inputs[2]), constant(node.inputs[1])
        if mode is None:
            raise UnsupportedNodeError(label(node), describe(node), "its training_mode is computed at run time", hint)
        if mode.any() and (ratio is None or ratio.any()):
            raise UnsupportedNodeError(
                label(node), describe(node), "it is left in training mode, so answers are random", hint
            )


def replace_by_identity(node: ir.Node, x: ir.Value) -> None:
    """Put an Identity in the node's place; the identity pass that follows decides whether it can go."""
    identity = ir.node("Identity", [x])
    old = node.outputs[0]
    new = identity.outputs[0]
    new.type, new.shape, name = old.type, old.shape, old.name
    graph = node.graph
    if isinstance(graph, ir.Graph):
        graph.insert_before(node, identity)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        new.name = name
