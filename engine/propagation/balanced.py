"""Balanced gradients: backward rules under which the explicit biases alone complete the score.

LibraGrad (Mehri et al., arXiv 2411.16760): in the backward pass

- gates are constants: attention probabilities, the gate of GELU and SiLU, of gated units, the denominator of a
  normalisation (see :mod:`onnxplain.engine.propagation.gates`);
- a smooth activation with f(0) = 0 is ``x g(x)`` with the gate ``g = f(x)/x``;
- a product of several activations gives each its share: halves, for two.

So every such node is linear in what the signal goes through, and has no implicit bias. Each rule here stands with its
bias rule; what neither serves keeps its gradient and its own bias (a lone Sigmoid, the bounds of ReLU6, a final
Softmax), so that the whole identity ``f = <a, x> + sum <a_v, c_v>`` holds on every network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.propagation.composite import Composite
from onnxplain.engine.propagation.gates import live_factors
from onnxplain.engine.propagation.normalized import NORMALIZATIONS, NORMALIZED, NORMALIZED_BIASES
from onnxplain.engine.rules.convolution import affine_bias
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import (
    BIAS,
    GRADIENT,
    ZERO,
    Bias,
    BiasRule,
    Contribution,
    Entry,
    GradientRule,
    Table,
    only,
)
from onnxplain.engine.rules.windows import channelwise

BALANCED: Table[GradientRule] = Table("balanced gradient")
BALANCED_BIASES: Table[BiasRule] = Table("balanced bias")

#: Positions of the operands that are multiplied with each other; of an Einsum, all.
_FACTORS = {"Mul": (0, 1), "MatMul": (0, 1), "Gemm": (0, 1), "Conv": (0, 1), "ConvTranspose": (0, 1)}


def balanced() -> Composite:
    """The lookup for the walk."""
    return Composite([(_is_balanced, BALANCED), (_is_normalization, NORMALIZED)])


def balanced_biases(node: Primal, opset: int) -> Entry[BiasRule] | None:
    """The bias rule that belongs to the rule which :func:`balanced` has for ``node``."""
    version = node.version(opset)
    for predicate, table in ((_is_balanced, BALANCED_BIASES), (_is_normalization, NORMALIZED_BIASES)):
        found = table.find(node.domain, node.op_type, version) if predicate(node) else None
        if found is not None:
            return found
    return BIAS.find(node.domain, node.op_type, version)


def _is_balanced(node: Primal) -> bool:
    """Products of several activations, quotients of two, smooth activations of one."""
    if node.op_type == "Pow":
        exponent = node.constant(1)
        return exponent is not None and bool(np.all(exponent > 0))
    if node.op_type == "Div":
        return node.active(0) and node.active(1)
    factors = _factors(node)
    return not factors or sum(node.active(i) for i in factors) > 1


def _is_normalization(node: Primal) -> bool:
    """Normalisations by parameters that are no activations, of which the normalised result alone is read."""
    if node.op_type not in NORMALIZATIONS:
        return False
    parameters = range(1, len(node.inputs))
    return not any(node.active(i) for i in parameters) and not any(y.uses() for y in node.outputs[1:])


def _factors(node: Primal) -> Sequence[int]:
    return range(len(node.inputs)) if node.op_type == "Einsum" else _FACTORS.get(node.op_type, ())


# ----- products ---------------------------------------------------------------------------------------


def shared(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """Each live factor's gradient divided by their number; nothing for gates; what is added gets all."""
    entry = GRADIENT.find(node.domain, node.op_type, node.version(op.opset))
    assert entry is not None, "a product has a gradient rule"
    factors = _factors(node)
    live = live_factors(node, factors)
    scaled = dy if len(live) == 1 else op.Mul(dy, 1 / len(live))
    scaled.shape = dy.shape
    parts = list(entry.rule(op, node, scaled))
    whole = parts if scaled is dy or len(parts) == len(factors) else list(entry.rule(op, node, dy))
    return [
        (part if i in live else ZERO if node.active(i) else None) if i in factors else whole[i]
        for i, part in enumerate(parts)
    ]  # fmt: skip


BALANCED.add(shared, "Mul", broadcasts=True)
BALANCED.add(shared, "MatMul", "Einsum", "Gemm", "Conv", "ConvTranspose")


def no_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """None: the node is linear in what the signal goes through."""
    return []


def added_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """What is added to the product, where it is a constant."""
    scale = float(node.attribute("beta", 1.0)) if node.op_type == "Gemm" else 1.0
    b = node.optional(2)
    if b is None:
        return []
    if node.op_type != "Gemm":
        b = channelwise(op, b, node.rank() - 2)
    return affine_bias(op, node, b if scale == 1 else op.Mul(b, scale), 1)


BALANCED_BIASES.add(no_bias, "Mul", "MatMul", "Einsum", "Div")
BALANCED_BIASES.add(added_bias, "Gemm", "Conv", "ConvTranspose")


@BALANCED.register("Div", broadcasts=True)
def quotient(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy / b, with the denominator constant."""
    return [lambda: op.Div(dy, node.x(1)), ZERO]


@BALANCED.register("ReduceSumSquare")
def sum_of_squares(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """A square is a product of two: half of the gradient for both together."""
    entry = GRADIENT.find(node.domain, node.op_type, node.version(op.opset))
    assert entry is not None
    scaled = op.Mul(dy, 0.5)
    scaled.shape = dy.shape
    return entry.rule(op, node, scaled)


# ----- activations ------------------------------------------------------------------------------------


@BALANCED.register("Tanh", "Softsign", "Erf", "Elu", "Selu", "Celu", "Gelu", "Swish", "Mish", "HardSwish")
def gated(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · y/x, and the slope at 0 there."""
    x = node.x()
    zero = op.Equal(x, 0.0)
    gate = op.Div(node.y, op.Where(zero, 1.0, x))
    return only(node, op.Mul(dy, op.Where(zero, op.constant(_slope_at_zero(node), x.dtype), gate)))


def _slope_at_zero(node: Primal) -> float:
    alpha = float(node.attribute("alpha", 1.0))
    slopes = {
        "Tanh": 1.0,
        "Softsign": 1.0,
        "Erf": 2 / math.sqrt(math.pi),
        "Elu": alpha,
        "Selu": alpha * float(node.attribute("gamma", 1.0)),
        "Celu": 1.0,
        "Gelu": 0.5,
        "Swish": 0.5,
        "Mish": math.tanh(math.log(2)),
        "HardSwish": 0.5,
    }
    return slopes[node.op_type]


@BALANCED.register("Pow", broadcasts=True)
def power(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · x^(e - 1) for a constant exponent e > 0."""
    exponent = node.constant(1)
    assert exponent is not None
    if np.all(exponent == 2):
        return only(node, op.Mul(dy, node.x()))
    lowered = op.constant(exponent - 1, node.x().dtype)
    return only(node, op.Mul(dy, op.Pow(node.x(), lowered)))


BALANCED_BIASES.add(no_bias, "Tanh", "Softsign", "Erf", "Elu", "Selu", "Celu", "Gelu", "Swish", "Mish", "HardSwish")
BALANCED_BIASES.add(no_bias, "Pow", "ReduceSumSquare")
