"""Removes Dropout where it does nothing, at inference, and spells it out where it is in training mode.

1. ``Dropout(x)`` without a true ``training_mode`` -> ``x``; its mask -> all true
2. ``Dropout(x, ratio=0, training_mode=true)`` -> ``x``
3. ``training_mode`` true, or computed at run time -> the Dropout draws the mask alone, on ones, and
   ``y = x / (1 - ratio)`` where the mask says so, 0 elsewhere, or x where training is switched off

:class:`RefuseTrainingPass` is for explanations: an answer that is drawn, or that depends on the other samples of
the batch, has none.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import constant


class RemoveDropoutPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(walk(model.graph)):
            if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx") or node.graph is None:
                continue
            x = node.inputs[0]
            if _trains(node):
                _spell_out(node, x)
                modified = True
            elif x is not None:
                _replace_mask(node, x)
                replace_by_identity(node, x)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


class RefuseTrainingPass(ir.passes.InPlacePass):
    """Raises ``UnsupportedNodeError`` for a Dropout or BatchNormalization in training mode."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in walk(model.graph):
            reason = _TRAINING.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if reason is not None and _trains(node):
                raise UnsupportedNodeError(
                    label(node), describe(node), reason, "export the model in inference (eval) mode"
                )
        return ir.passes.PassResult(model, modified=False)


_TRAINING = {
    "Dropout": "it is left in training mode, so answers are random",
    "BatchNormalization": "it runs in training mode, which mixes the samples of a batch",
}


def _trains(node: ir.Node) -> bool:
    """Whether a node is, or may be, in training mode."""
    if node.op_type == "BatchNormalization":
        mode = node.attributes.get("training_mode")
        return mode is not None and bool(mode.value)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    flag, ratio = constant(node.inputs[2]), constant(node.inputs[1])
    if flag is not None and not flag.any():
        return False
    return ratio is None or bool(ratio.any())


def _spell_out(node: ir.Node, x: ir.Value | None) -> None:
    """Case 3. The mask depends on shape and seed alone, so that it is the one that the node would draw."""
    graph = node.graph
    if x is None or not isinstance(graph, ir.Graph):
        return
    op = Builder(graph, before=node)
    dtype = x.dtype or ir.DataType.FLOAT
    ratio = node.inputs[1] if node.inputs[1] is not None else op.constant(0.5, dtype)
    seed = node.attributes.get("seed")
    ones = op.Expand(op.constant(1, dtype), op.Shape(x))
    drawn = op.emit("Dropout", [ones, ratio, node.inputs[2]], outputs=2, seed=None if seed is None else seed.value)[1]
    kept = op.Where(drawn, op.Div(x, op.Sub(1.0, op.Cast(ratio, to=dtype.value))), 0.0)
    results = [op.Where(node.inputs[2], kept, x), op.Identity(drawn)]
    for old, new in zip(node.outputs, results, strict=False):
        name, new.type, new.shape = old.name, old.type or new.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = op.unique_name(f"{name}/replaced")
        new.name = name
    graph.remove(node, safe=True)


def _replace_mask(node: ir.Node, x: ir.Value) -> None:
    """At inference nothing is dropped: the mask is true everywhere."""
    graph = node.graph
    if len(node.outputs) < 2 or not isinstance(graph, ir.Graph):
        return
    old = node.outputs[1]
    if not (old.uses() or old.is_graph_output()):
        return
    op = Builder(graph, before=node)
    mask = op.ConstantOfShape(op.Shape(x), value=ir.tensor([True], dtype=ir.DataType.BOOL))
    name = old.name
    mask.shape = old.shape
    old.replace_all_uses_with(mask, replace_graph_outputs=True)
    old.name = op.unique_name(f"{name}/replaced")
    mask.name = name


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
