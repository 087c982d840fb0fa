"""A softmax written out at the end of a model -> Softmax, so that the logits in front of it are found.

``exp(z - m) / sum(exp(z - m))`` with one sum along one axis that is not the batch, and any ``m`` that is the
same along it (the maximum, or nothing at all): that is what jax and tf2onnx write. Only what an output returns,
or rearranges, is replaced; inner ones keep their tensors and names.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dims, constant, dims

#: Operators that only rearrange what they are given.
_REARRANGING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
#: Operators through which a tensor that is the same along an axis is spread along it.
_SPREADING = {"Reshape", "Unsqueeze", "Expand", "Identity"}


class SpeltSoftmaxPass(ir.passes.InPlacePass):
    """See the module's text. Requires inferred shapes and the working opset."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = 0
        for output in model.graph.outputs:
            node = output.producer()
            while (
                node is not None and node.domain == "" and node.op_type in _REARRANGING and node.inputs[0] is not None
            ):
                node = node.inputs[0].producer()
            if node is not None and (match := _matched(node)) is not None:
                _replace(model.graph, node, *match)
                found += 1
        if found:
            common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(found))


def _replace(graph: ir.Graph, node: ir.Node, logits: ir.Value, axis: int) -> None:
    old = node.outputs[0]
    new = Builder(graph, before=node).Softmax(logits, axis=axis)
    new.type, new.shape, name = logits.type, logits.shape, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    old.name, new.name = None, name


def _matched(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Logits and axis of a division that ends a softmax."""
    if node.op_type != "Div" or node.domain or None in node.inputs:
        return None
    exponential, total = node.inputs[0].producer(), _source(node.inputs[1])  # type: ignore[union-attr, arg-type]
    if exponential is None or exponential.op_type != "Exp" or exponential.domain:
        return None
    sizes = dims(exponential.outputs[0])
    if total is None or total.op_type != "ReduceSum" or total.domain or total.inputs[0] is not exponential.outputs[0]:
        return None
    axes = constant(total.inputs[1]) if len(total.inputs) > 1 else None
    if axes is None or axes.size != 1 or sizes is None:
        return None
    axis = int(axes.reshape(-1)[0]) % len(sizes)
    if axis == 0 or not _flat(node.inputs[1], axis, sizes):  # type: ignore[arg-type]
        return None
    logits = _without_shift(exponential.inputs[0], axis, sizes)  # type: ignore[arg-type]
    return (logits, axis) if len(dims(logits) or ()) == len(sizes) else None


def _without_shift(value: ir.Value, axis: int, sizes: Dims) -> ir.Value:
    """The logits, without what is taken off them along the axis."""
    node = value.producer()
    if node is None or node.op_type != "Sub" or node.domain or node.inputs[0] is None or node.inputs[1] is None:
        return value
    return node.inputs[0] if _flat(node.inputs[1], axis, sizes) else value


def _source(value: ir.Value) -> ir.Node | None:
    """What computes a tensor before it is spread."""
    node = value.producer()
    while node is not None and node.op_type in _SPREADING and not node.domain and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _flat(value: ir.Value, axis: int, sizes: Dims) -> bool:
    """Whether a tensor that broadcasts against ``sizes`` is the same along the axis, and has all the others."""
    node = value.producer()
    while (
        node is not None and node.op_type in ("Expand", "Identity") and not node.domain and node.inputs[0] is not None
    ):
        if len(dims(node.inputs[0]) or ()) != len(sizes):
            break
        value = node.inputs[0]
        node = value.producer()
    known = dims(value)
    return known is not None and len(known) == len(sizes) and known[axis] == 1
