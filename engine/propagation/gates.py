"""Which factor of a product is a gate: a weight made from the activations rather than an activation itself.

Gradient balancing and relevance rules treat gates as constants. A factor counts as one where it is

- the result of a Softmax, Sigmoid or HardSigmoid (attention probabilities, gated units, squeeze-and-excitation),
  or of a reciprocal (a normalisation's denominator), as it is or rearranged, scaled or shifted by constants;
- an elementwise function g(z) of the very tensor z that it multiplies (GELU and SiLU written out).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.shapes import constant
from onnxplain.engine.rules.node import Primal

#: Operators whose result is a weight between 0 and 1, or one over a size.
SQUASHING = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Reciprocal"})
#: What only moves elements about, or picks some of them.
_MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Cast", "Slice", "Split", "Gather"}
#: What scales or shifts by a constant, given that one operand alone is active.
_SCALING = {"Mul", "Div", "Neg"}
_SHIFTING = {"Add", "Sub", "Where"}
_ELEMENTWISE = _SCALING | _SHIFTING | {"Pow", "Min", "Max", "Sum", "Cast", "Clip", "Exp", "Log", "Sqrt", "Abs", "Sign"}
_ELEMENTWISE |= {"Sigmoid", "HardSigmoid", "Reciprocal", "Tanh", "Erf", "Softplus", "Softsign", "Relu", "LeakyRelu"}
_ELEMENTWISE |= {"Elu", "Selu", "Celu", "Gelu", "Mish", "Swish", "HardSwish"}
#: Longest chain of nodes that is followed back from a factor.
_REACH = 64


def live_factors(node: Primal, factors: Sequence[int], squashing: AbstractSet[str] = SQUASHING) -> list[int]:
    """Positions of the operands between which a product is shared: the active ones without the gates.

    Args:
        node: A product.
        factors: Positions of its operands that are multiplied with each other.
        squashing: Operators whose results count as gates.
    """
    active = [i for i in factors if node.active(i)]
    if len(active) < 2:
        return active
    live = [i for i in active if not _is_gate(node, i, [k for k in active if k != i], squashing)]
    return live or active


def _is_gate(node: Primal, index: int, others: Iterable[int], squashing: AbstractSet[str]) -> bool:
    value = node.x(index)
    return _is_squashed(node, value, squashing) or any(_is_function_of(node, value, node.x(k)) for k in others)


def _active_inputs(node: Primal, producer: ir.Node) -> list[ir.Value]:
    return [x for x in producer.inputs if x is not None and node.is_active(x)]


def _is_squashed(node: Primal, value: ir.Value, squashing: AbstractSet[str]) -> bool:
    for _ in range(_REACH):
        producer = value.producer()
        if producer is None or producer.domain not in ("", "ai.onnx"):
            return False
        inputs = _active_inputs(node, producer)
        if producer.op_type in squashing or _is_reciprocal(producer, inputs):
            return True
        if "Softmax" in squashing and _is_written_out_softmax(producer):
            return True
        if producer.op_type not in _MOVING | _SCALING | _SHIFTING or len(inputs) != 1:
            return False
        value = inputs[0]
    return False


def _is_reciprocal(producer: ir.Node, inputs: Sequence[ir.Value]) -> bool:
    if producer.op_type == "Div":
        return list(inputs) == [producer.inputs[1]]
    exponent = constant(producer.inputs[1]) if producer.op_type == "Pow" else None
    return exponent is not None and bool(np.all(exponent < 0))


def _is_written_out_softmax(producer: ir.Node) -> bool:
    """exp(z) divided by its sum."""
    if producer.op_type != "Div" or producer.inputs[0] is None or producer.inputs[1] is None:
        return False
    above, below = producer.inputs[0].producer(), producer.inputs[1].producer()
    return (
        above is not None
        and below is not None
        and above.op_type == "Exp"
        and below.op_type == "ReduceSum"
        and below.inputs[0] is producer.inputs[0]
    )


def _is_function_of(node: Primal, value: ir.Value, other: ir.Value) -> bool:
    """Whether ``value`` is elementwise made of ``other`` (or of what that is a multiple of) and of nothing else."""
    ends = _multiples(node, other)
    queue, seen = [value], {value}
    if value in ends:
        return False
    while queue:
        producer = queue.pop().producer()
        if producer is None or producer.op_type not in _ELEMENTWISE or len(seen) > _REACH:
            return False
        for x in _active_inputs(node, producer):
            if x not in ends and x not in seen:
                seen.add(x)
                queue.append(x)
    return True


def _multiples(node: Primal, value: ir.Value) -> set[ir.Value]:
    """A value, and the values that it is a constant multiple of."""
    found = {value}
    producer = value.producer()
    while producer is not None and producer.op_type in _SCALING | {"Cast"}:
        inputs = _active_inputs(node, producer)
        if len(inputs) != 1 or (inputs[0] is not producer.inputs[0] and producer.op_type == "Div"):
            break
        found.add(inputs[0])
        producer = inputs[0].producer()
    return found
