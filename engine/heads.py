"""Which scalar of the answer is explained: logit, probability, log-probability or margin.

A trailing Softmax, LogSoftmax or Sigmoid is recognised, so that the logit in front of it can be
explained: as a probability goes to 0 or 1 its gradient vanishes, the logit's does not.
"""

from __future__ import annotations

from typing import Literal, get_args

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims

Head = Literal["logit", "probability", "log_probability", "margin"]
HEADS: tuple[str, ...] = get_args(Head)

#: Operators through which a trailing softmax is still recognised; they only rearrange its result.
_TRANSPARENT = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid"}


def trailing_activation(output: ir.Value) -> tuple[ir.Node | None, list[ir.Node]]:
    """The Softmax, LogSoftmax or Sigmoid that ends the way to ``output``, and what rearranges its result."""
    between: list[ir.Node] = []
    node = output.producer()
    while node is not None and node.domain == "" and node.op_type in _TRANSPARENT and node.inputs[0] is not None:
        between.append(node)
        node = node.inputs[0].producer()
    if node is not None and node.domain == "" and node.op_type in _SQUASHING:
        return node, between[::-1]
    return None, []


def explained_value(op: Builder, output: ir.Value, head: Head) -> ir.Value:
    """The tensor whose elements are explained, in the output's shape.

    Args:
        op: Builder at the end of the graph.
        output: A float output of the model.
        head: ``logit`` and ``margin`` give the value in front of a trailing activation (the output itself
            where there is none); ``probability`` and ``log_probability`` the (log-)softmax of it over axis
            1, or the (log-)sigmoid where there is one class only.

    Raises:
        OptionError: Unknown head.
    """
    if head not in HEADS:
        raise OptionError(f"unknown head '{head}'; choose one of {', '.join(HEADS)}")
    node, between = trailing_activation(output)
    logits = output
    if node is not None and node.inputs[0] is not None:
        logits = _replay(op, node.inputs[0], between)
    if head in ("logit", "margin"):
        return logits
    kind = node.op_type if node is not None else None
    if head == "probability" and kind in ("Softmax", "Sigmoid"):
        return output
    if head == "log_probability" and kind == "LogSoftmax":
        return output
    if kind in ("Softmax", "LogSoftmax") and node is not None and node.inputs[0] is not None:
        other = op.Softmax if head == "probability" else op.LogSoftmax
        axis = node.attributes["axis"].value if "axis" in node.attributes else -1
        return _replay(op, other(node.inputs[0], axis=axis), between)
    return _squash(op, logits, head, kind)


def _squash(op: Builder, logits: ir.Value, head: Head, kind: str | None) -> ir.Value:
    known = dims(logits)
    single = known is not None and (len(known) == 1 or known[1] == 1)
    if kind == "Sigmoid" or single:
        value = _binary(op, logits, head)
    else:
        value = (op.Softmax if head == "probability" else op.LogSoftmax)(logits, axis=1)
        if known is None or not isinstance(known[1], int):
            one = op.Equal(op.Gather(op.Shape(logits), 1), 1)  # over one class a softmax is 1, whatever the model says
            value = op.Where(one, _binary(op, logits, head), value)
    value.shape = logits.shape
    return value


def _binary(op: Builder, logits: ir.Value, head: Head) -> ir.Value:
    return op.Sigmoid(logits) if head == "probability" else op.Neg(op.Softplus(op.Neg(logits)))


def _replay(op: Builder, value: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    for node in nodes:
        shape = node.outputs[0].shape
        attributes = {k: a.value for k, a in node.attributes.items()}
        value = op.emit(node.op_type, [value, *node.inputs[1:]], **attributes)[0]
        value.shape = shape
    return value
