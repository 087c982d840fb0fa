"""Which scalar of the answer is explained: logit, probability, log-probability or margin.

A trailing Softmax, LogSoftmax or Sigmoid is recognised, so that the logit in front of it can be
explained: as a probability goes to 0 or 1 its gradient vanishes, the logit's does not. The same holds for
an answer that is quantised: at the end of the integers' range it has no gradient, the value in front of the
rounding has.
"""

from __future__ import annotations

from typing import Literal, get_args

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.dequantize import UNROUNDED
from onnxplain.engine.graph.shapes import dims

Head = Literal["logit", "probability", "log_probability", "margin"]
HEADS: tuple[str, ...] = get_args(Head)

#: Operators through which a trailing softmax is still recognised; they only rearrange its result.
_TRANSPARENT = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_CLASSICAL = "ai.onnx.ml"
_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid"}


def trailing_activation(output: ir.Value) -> tuple[ir.Node | None, list[ir.Node]]:
    """The Softmax, LogSoftmax or Sigmoid that ends the way to ``output``, and what rearranges its result."""
    end, between, _ = _end(output)
    node = end.producer()
    if node is not None and node.domain == "" and node.op_type in _SQUASHING:
        return node, between
    return None, []


def is_rounded(output: ir.Value) -> bool:
    """Whether the answer, or the logit in front of its activation, is quantised, and explained in front of its rounding."""
    node, _ = trailing_activation(output)
    logit = node.inputs[0] if node is not None else None
    return any(_end(v)[2] is not None for v in (output, logit) if v is not None)


def in_words(output: ir.Value, head: Head) -> tuple[str, str]:
    """How a result calls what was explained.

    Args:
        output: A float output of the model.
        head: What was asked for.

    Returns:
        The head's name, or ``output`` where a logit was asked for and an operator of classical models makes the answer: a
        tree ensemble gives probabilities, sums or votes. And a note, where the output ends in an activation or a rounding.
    """
    node, _ = trailing_activation(output)
    if node is not None:
        front = "; the logit in front of it is explained" if head in ("logit", "margin") else ""
        return head, f"the output ends in {node.op_type}{front}"
    end = _end(output)[0].producer()
    unknown = head == "logit" and end is not None and end.domain == _CLASSICAL
    note = "the answer is quantised; what is rounded to it is explained" if is_rounded(output) else ""
    return "output" if unknown else head, note


def _votes(output: ir.Value) -> bool:
    """Whether trees make the answer, and it is probabilities: squashed, or shares that are summed.

    Leaves of boosted trees, whose sum is a logit, are of both signs.
    See https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html and TreeEnsemble.
    """
    node = _end(output)[0].producer()
    if node is None or node.domain != _CLASSICAL or not node.op_type.startswith("TreeEnsemble"):
        return False
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    if found.get("post_transform", "NONE") not in ("NONE", 0):
        return True
    if "leaf_weights" in found:
        return bool((found["leaf_weights"].numpy() >= 0).all()) and len(set(found.get("leaf_targetids", ()))) > 1
    weights = found.get("class_weights")
    if weights is None:  # of doubles, they are a tensor
        weights = found["class_weights_as_tensor"].numpy() if "class_weights_as_tensor" in found else [-1.0]
    return min(weights, default=0.0) >= 0


def _end(output: ir.Value) -> tuple[ir.Value, list[ir.Node], set[str] | None]:
    """What ``output`` is, neither rounded nor rearranged.

    Returns:
        It; what rearranges it, in order; which limits at zero its rounding had (they may stand for a Relu), None
        where it was not rounded.
    """
    between: list[ir.Node] = []
    value, limits = output, None
    while True:
        found = value.meta.get(UNROUNDED)
        if isinstance(found, tuple):
            value, limit = found
            limits = (limits or set()) | ({limit} if limit else set())
            continue
        node = value.producer()
        if node is None or node.domain or node.op_type not in _TRANSPARENT or node.inputs[0] is None:
            return value, between[::-1], limits
        between.append(node)
        value = node.inputs[0]


def _unrounded(op: Builder, value: ir.Value, after: list[ir.Node]) -> ir.Value:
    """The value in front of its rounding, rearranged as it was and by what comes after; itself where it is not rounded."""
    inner, between, limits = _end(value)
    if limits is None:
        return _replay(op, value, after)
    for limit in sorted(limits):
        shape = inner.shape
        inner = op.emit(limit, [inner, 0.0])[0]
        inner.shape = shape
    return _replay(op, inner, [*between, *after])


def explained_value(op: Builder, output: ir.Value, head: Head) -> ir.Value:
    """The tensor whose elements are explained, in the output's shape.

    Args:
        op: Builder at the end of the graph.
        output: A float output of the model.
        head: ``logit`` and ``margin`` give the value in front of a trailing activation (the output itself
            where there is none), in front of its rounding where it is quantised; ``probability`` and
            ``log_probability`` the (log-)softmax of it over axis 1, or the (log-)sigmoid where there is one
            class only. Trees whose leaves hold shares, or that squash their sum, give probabilities as they are.

    Raises:
        OptionError: Unknown head, or the logarithm of trees' shares.
    """
    if head not in HEADS:
        raise OptionError(f"unknown head '{head}'; choose one of {', '.join(HEADS)}")
    node, between = trailing_activation(output)
    inside = node.inputs[0] if node is not None else None
    logits = _unrounded(op, inside, between) if inside is not None else _unrounded(op, output, [])
    if head in ("logit", "margin"):
        return logits
    kind = node.op_type if node is not None else None
    if head == "probability" and (kind in ("Softmax", "Sigmoid") or _votes(output)):
        return output
    if head == "log_probability" and _votes(output):
        raise OptionError("the trees' shares may be 0, which has no logarithm; use head='probability'")
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
