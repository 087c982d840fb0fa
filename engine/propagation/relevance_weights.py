"""Rules of relevance that change the weights of a layer: gamma, z+, alpha-beta, zB, w-square, flat.

Each is ``R_in = sum over parts of a' * VJP_{w'}(R / stab(z'))`` with z' the layer computed again from other
operands a', w'. The layer is copied inside the graph and its copy's gradient rule pulls back, so one
implementation serves Conv and ConvTranspose of any rank, Gemm, MatMul and two-operand Einsum.

Sources: Montavon et al. 2019 (doi 10.1007/978-3-030-28954-6_10, gamma and the list), Bach et al. 2015
(alpha-beta, flat), Montavon et al. 2017 (arXiv 1512.02479: z+, zB, w-square). ``u+`` is max(u, 0), ``u-`` min(u, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import replay_node
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.propagation.layers import factors
from onnxplain.engine.propagation.ledger import Entry as Absorbed
from onnxplain.engine.propagation.ledger import enter
from onnxplain.engine.propagation.relevance import (
    RelevanceRule,
    explicit_biases,
    given,
    pulled,
    quotient,
    total,
    whole,
)
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution


class Layer:
    """A linear layer whose operands may be replaced.

    Attributes:
        a: Its active operand; ``at`` is the position.
        w: Its weights.
    """

    def __init__(self, op: Builder, node: Primal, bias: str) -> None:
        self.op, self.node, self.bias = op, node, bias
        active = [i for i in factors(node) if node.active(i)]
        if len(active) != 1 or len(factors(node)) != 2:
            raise node.unsupported(
                "this rule needs one operand and its weights, not a product of two activations", "use the epsilon rule"
            )
        if node.op_type == "Gemm" and float(node.attribute("alpha", 1.0)) < 0:
            raise node.unsupported("its alpha is negative", "put the sign into the weights")
        self.at = active[0]
        self.a, self.w = node.x(self.at), node.x(1 - self.at)

    def _again(self, a: ir.Value, w: ir.Value) -> Primal:
        inputs: list[ir.Value | None] = list(self.node.ir.inputs)
        for value, like in ((a, self.a), (w, self.w)):
            if value.shape is None:
                known = dims(like)
                value.shape = None if known is None else ir.Shape(list(known))
        inputs[self.at], inputs[1 - self.at] = a, w
        if self.node.op_type != "Einsum":
            inputs[2:] = [None] * len(inputs[2:])
        copy = replay_node(self.op, self.node.ir, inputs)
        while len(copy.inputs) > 2 and copy.inputs[-1] is None:
            copy.resize_inputs(len(copy.inputs) - 1)
        return Primal(copy, {a})

    def forward(self, a: ir.Value, w: ir.Value) -> ir.Value:
        """The layer without its bias, from other operands."""
        return self._again(a, w).y

    def pull(self, a: ir.Value, w: ir.Value, share: ir.Value) -> ir.Value:
        """``a * VJP_w(share)``."""
        back = pulled(self.op, self._again(a, w), [self.at], share)[self.at]
        return self.op.Mul(a, back)

    def biases(self) -> list[tuple[str, ir.Value]]:
        """Name and value of what the layer adds; nothing where biases are to be ignored."""
        return explicit_biases(self.op, self.node) if self.bias == "absorb" else []

    def share(
        self, relevance: ir.Value, parts: Sequence[ir.Value], biases: Sequence[tuple[str, ir.Value]], sign: float = 1.0
    ) -> ir.Value:
        """``R / stab(sum of parts and biases)``; what biases take is entered, ``sign`` times."""
        z = total(self.op, [*parts, *(b for _, b in biases)])
        share = quotient(self.op, self.node, relevance, z, self.epsilon, sign)
        for name, value in biases:
            enter(self.node, Absorbed(self.node.y, share, value, "explicit", name, sign))
        return share

    #: Of the stabiliser.
    epsilon = 1e-6

    def split(self, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """u+ and u-."""
        above = self.op.Relu(value)
        below = self.op.Sub(value, above)
        known = dims(value)
        for part in (above, below):
            part.shape = None if known is None else ir.Shape(list(known))
        return above, below

    def result(self, parts: Sequence[ir.Value]) -> Sequence[Contribution]:
        """The contributions of the layer from the parts that its operand gets."""
        return given(self.node, {self.at: total(self.op, parts)})


#: Operators whose result is never negative whatever they read, and those that keep what they read so.
_POSITIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Softplus", "ReduceL1", "ReduceL2"}
_KEEPS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze"}
_KEEPS |= {"Unsqueeze", "ReduceMean", "ReduceSum", "Slice", "Split", "Add", "Sum", "Concat", "Identity", "Expand"}


def is_non_negative(value: ir.Value, reach: int = 24) -> bool:
    """Whether a tensor is known to have no negative element, from the operators that made it."""
    producer = value.producer()
    if producer is None:
        known = value.const_value
        return known is not None and not value.is_graph_input() and bool((known.numpy() >= 0).all())
    if producer.domain != "" or not reach:
        return False
    if producer.op_type in _POSITIVE:
        return True
    if producer.op_type == "Clip":
        low = producer.inputs[1] if len(producer.inputs) > 1 else None
        return low is not None and low.const_value is not None and bool((low.const_value.numpy() >= 0).all())
    several = producer.op_type in ("Add", "Sum", "Concat")
    sources = [x for x in producer.inputs if x is not None][: None if several else 1]
    return producer.op_type in _KEEPS and all(is_non_negative(x, reach - 1) for x in sources)


def alpha_beta_rule(alpha: float, beta: float, epsilon: float, bias: str) -> RelevanceRule:
    """Positive and negative contributions by themselves, weighted alpha and -beta; z+ is (1, 0)."""

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        layer = Layer(op, node, bias)
        layer.epsilon = epsilon
        w_up, w_down = layer.split(layer.w)
        pairs = [(layer.a, w_up, w_down)]
        if not is_non_negative(layer.a):
            a_up, a_down = layer.split(layer.a)
            pairs = [(a_up, w_up, w_down), (a_down, w_down, w_up)]
        halves = [(name, *layer.split(value)) for name, value in layer.biases()]
        parts: list[ir.Value] = []
        for weight, sign in ((alpha, 0), (-beta, 1)):
            if weight == 0:
                continue
            operands = [(a, w[sign]) for a, *w in pairs]
            seed = op.Mul(relevance, abs(weight))
            biases = [(name, b[sign]) for name, *b in halves]
            factor = 1.0 if weight > 0 else -1.0
            share = layer.share(seed, [layer.forward(a, w) for a, w in operands], biases, factor)
            found = [layer.pull(a, w, share) for a, w in operands]
            parts += found if weight > 0 else [op.Neg(part) for part in found]
        return layer.result(parts)

    return rule


def gamma_rule(gamma: float, signed: bool, epsilon: float, bias: str) -> RelevanceRule:
    """Weights ``w + gamma w+``, which favours what adds up; ``signed``: the form for operands of any sign."""

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        layer = Layer(op, node, bias)
        layer.epsilon = epsilon
        raised = [_raised(op, layer, layer.w, gamma, side) for side in (0, 1)]
        if not signed:
            biases = [(n, _raised(op, layer, b, gamma, 0)) for n, b in layer.biases()]
            share = layer.share(relevance, [layer.forward(layer.a, raised[0])], biases)
            return layer.result([layer.pull(layer.a, raised[0], share)])
        parts_of_a = [layer.a] if is_non_negative(layer.a) else list(layer.split(layer.a))
        z = whole(node)
        parts: list[ir.Value] = []
        for side in (0, 1):
            # Where z > 0 what is positive is favoured, where z < 0 what is negative.
            gate = op.Cast(op.Greater(z, 0.0) if side == 0 else op.Less(z, 0.0), to=_type(z))
            operands = [(a, raised[side if i == 0 else 1 - side]) for i, a in enumerate(parts_of_a)]
            biases = [(n, _raised(op, layer, b, gamma, side)) for n, b in layer.biases()]
            share = layer.share(op.Mul(relevance, gate), [layer.forward(a, w) for a, w in operands], biases)
            parts += [layer.pull(a, w, share) for a, w in operands]
        lost = op.Cast(op.Equal(z, 0.0), to=_type(z))
        enter(node, Absorbed(node.y, relevance, lost, "implicit", "stabiliser"))
        return layer.result(parts)

    return rule


def _type(value: ir.Value) -> int:
    return (value.dtype or ir.DataType.FLOAT).value


def _raised(op: Builder, layer: Layer, value: ir.Value, gamma: float, side: int) -> ir.Value:
    result = op.Add(value, op.Mul(layer.split(value)[side], gamma))
    known = dims(value)
    result.shape = None if known is None else ir.Shape(list(known))
    return result


def box_rule(low: Any, high: Any, epsilon: float) -> RelevanceRule:
    """zB, for pixels in a box: ``a w - l w+ - h w-`` over its sum.

    Args:
        low, high: The box: a number, one per channel (axis 1), or None for each sample's own extremes.
        epsilon: Of the stabiliser.
    """
    for name, value in (("low", low), ("high", high)):
        if value is not None and not np.isfinite(np.asarray(value, dtype=np.float64)).all():
            raise OptionError(
                f"{name}={value!r} is not possible; give a finite number, one per channel, or leave it out"
            )

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        layer = Layer(op, node, "ignore")
        layer.epsilon = epsilon
        w_up, w_down = layer.split(layer.w)
        bounds = [_bound(op, node, layer.a, low, op.ReduceMin), _bound(op, node, layer.a, high, op.ReduceMax)]
        operands = [(layer.a, layer.w), (bounds[0], op.Neg(w_up)), (bounds[1], op.Neg(w_down))]
        share = layer.share(relevance, [layer.forward(a, w) for a, w in operands], [])
        return layer.result([layer.pull(a, w, share) for a, w in operands])

    return rule


def _bound(op: Builder, node: Primal, a: ir.Value, given_bound: Any, extreme: Any) -> ir.Value:
    rank = len(dims(a) or ())
    if given_bound is None:
        bound = extreme(a, list(range(1, rank)), keepdims=1)
    else:
        numbers = np.asarray(given_bound, dtype=np.float64)
        count = (dims(a) or (None, None))[1] if rank > 1 else None
        if numbers.ndim > 1 or (numbers.ndim == 1 and isinstance(count, int) and numbers.size not in (1, count)):
            raise node.unsupported(
                f"the box has {numbers.size} bounds for {count} channels", "give one, or one per channel"
            )
        shape = [1, -1, *[1] * (rank - 2)] if numbers.ndim else []
        bound = op.constant(numbers.reshape(shape), a.dtype)
    filled = op.Add(zeros_like(op, a), bound)
    filled.shape = a.shape
    return filled


def weights_rule(flat: bool, epsilon: float) -> RelevanceRule:
    """w-square, or flat: by the squares of the weights, or evenly over what a unit reads."""

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        layer = Layer(op, node, "ignore")
        layer.epsilon = epsilon
        ones = zeros_like(op, layer.a, fill=1.0)
        w = zeros_like(op, layer.w, fill=1.0) if flat else op.Mul(layer.w, layer.w)
        share = layer.share(relevance, [layer.forward(ones, w)], [])
        return layer.result([layer.pull(ones, w, share)])

    return rule
