"""A softmax or sigmoid written out at the end of a model -> the operator, so that the logits in front of it are found.

1. ``exp(z - m) / sum(exp(z - m))`` with one sum along one axis that is not the batch, and any ``m`` that is the
   same along it (the maximum, or nothing at all), as jax and tf2onnx write it -> ``Softmax``.
2. ``exp(z - logsumexp(z))``, as skl2onnx writes it -> ``Softmax``.
3. ``[1 - p, p]`` with ``p = sigmoid(z)``, the two probabilities of one score -> ``Sigmoid([-z, z])``.

Only what an output returns, or rearranges, is replaced; inner ones keep their tensors and names.
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
            if node is None or node.domain or None in node.inputs:
                continue
            new = next((made for form in _FORMS if (made := form(model.graph, node)) is not None), None)
            if new is not None:
                _replace(model.graph, node, new)
                found += 1
        if found:
            common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(found))


def _replace(graph: ir.Graph, node: ir.Node, new: ir.Value) -> None:
    old = node.outputs[0]
    new.type, new.shape, name = old.type, old.shape, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    old.name, new.name = None, name


def _divided(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Form 1."""
    if node.op_type != "Div":
        return None
    exponential, total = node.inputs[0].producer(), _source(node.inputs[1])  # type: ignore[union-attr, arg-type]
    if exponential is None or exponential.op_type != "Exp" or exponential.domain:
        return None
    sizes = dims(exponential.outputs[0])
    if total is None or total.inputs[0] is not exponential.outputs[0] or sizes is None:
        return None
    axis = _summed(total, "ReduceSum", sizes)
    if axis is None or not _flat(node.inputs[1], axis, sizes):  # type: ignore[arg-type]
        return None
    logits = _without_shift(exponential.inputs[0], axis, sizes)  # type: ignore[arg-type]
    return _softmax(graph, node, logits, axis, sizes)


def _subtracted(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Form 2."""
    difference = node.inputs[0].producer() if node.op_type == "Exp" else None  # type: ignore[union-attr]
    if difference is None or difference.op_type != "Sub" or difference.domain or None in difference.inputs:
        return None
    logits, shift = difference.inputs
    sizes, total = dims(logits), _source(shift)  # type: ignore[arg-type]
    if total is None or total.inputs[0] is not logits or sizes is None or logits is None or shift is None:
        return None
    axis = _summed(total, "ReduceLogSumExp", sizes)
    return None if axis is None or not _flat(shift, axis, sizes) else _softmax(graph, node, logits, axis, sizes)


def _paired(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Form 3."""
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    rest, p = node.inputs[0].producer(), node.inputs[1]  # type: ignore[union-attr]
    if rest is None or rest.op_type != "Sub" or rest.domain or rest.inputs[1] is not p or p is None:
        return None
    one, sigmoid = constant(rest.inputs[0]), p.producer()
    if one is None or one.size != 1 or one.reshape(-1)[0] != 1.0 or sigmoid is None:
        return None
    score, sizes = sigmoid.inputs[0], dims(p)
    axis = int(node.attributes["axis"].value)
    if sigmoid.op_type != "Sigmoid" or sigmoid.domain or score is None or sizes is None or axis % len(sizes) == 0:
        return None
    op = Builder(graph, before=node)
    other = op.Neg(score)
    logits = op.Concat(other, score, axis=axis)
    other.type, other.shape = score.type, score.shape
    logits.type, logits.shape = node.outputs[0].type, node.outputs[0].shape
    return op.Sigmoid(logits)


_FORMS = (_divided, _subtracted, _paired)


def _summed(total: ir.Node, op_type: str, sizes: Dims) -> int | None:
    """The one axis, not the batch, that a reduction sums over."""
    if total.op_type != op_type or total.domain:
        return None
    axes = constant(total.inputs[1]) if len(total.inputs) > 1 else None
    if axes is None or axes.size != 1:
        return None
    return int(axes.reshape(-1)[0]) % len(sizes) or None


def _softmax(graph: ir.Graph, node: ir.Node, logits: ir.Value, axis: int, sizes: Dims) -> ir.Value | None:
    return Builder(graph, before=node).Softmax(logits, axis=axis) if len(dims(logits) or ()) == len(sizes) else None


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
