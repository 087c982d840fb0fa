"""QuantizeLinear and DequantizeLinear: the straight-through gradient.

The derivative of rounding is zero wherever it exists, so a plain gradient of an int8 model is zero
everywhere. Here rounding passes the gradient on and saturation blocks it: the integers in between carry
the adjoint of the real number that they stand for, ``q ~ x / scale + zero_point``. Results that went
through here are labelled ``straight_through``. The full-gradient identity stays exact, because what
rounding adds is that node's bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.forms import indicator
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import FLOATS, rank
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, no_gradient

STRAIGHT_THROUGH = frozenset({"QuantizeLinear"})

# Its integers are differentiated as QuantizeLinear's; the scale that it finds counts as a constant.
no_gradient("DynamicQuantizeLinear", reported=False)


def _against(op: Builder, node: Primal, index: int, like: ir.Value) -> ir.Value | None:
    """Scale or zero point as a float that broadcasts against the data: per tensor or per axis."""
    value = node.optional(index)
    if value is None:
        return None
    if node.attribute("block_size", 0):
        raise node.unsupported("blocked scales on an activation", "quantise activations per tensor or per axis")
    dtype = like.dtype or ir.DataType.FLOAT
    result = op.Cast(value, to=dtype.value) if value.dtype != dtype else value
    size = rank(value)
    if size == 1:
        axis = node.axis(1)
        result = op.Reshape(result, [-1] + [1] * (node.rank() - 1 - axis))
    elif size is None:
        raise node.unsupported("the rank of its scale is known only at run time", "export it with constant scales")
    return result


def _no_parameters(node: Primal) -> list[Contribution]:
    """Scale and zero point: refused when somebody asks, so that no zero is ever returned for them."""

    def refuse() -> ir.Value:
        raise node.unsupported(
            "the gradient of a quantisation parameter is not defined straight-through",
            "ask for the gradient of the dequantised tensor instead",
        )

    return [refuse] * (len(node.inputs) - 1)


def _integer_range(node: Primal) -> tuple[float, float]:
    dtype = node.y.dtype
    if dtype is None or dtype.name not in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4"):
        raise node.unsupported(f"quantisation to {dtype}", "quantise to 4, 8 or 16 bit integers")
    bits = dtype.bitwidth
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dtype.name.startswith("INT") else (0.0, 2.0**bits - 1)


def _slope(op: Builder, node: Primal) -> ir.Value:
    """1 / scale where the value is inside the integer range, 0 where it saturates."""
    x = node.x()
    scale, zero = _against(op, node, 1, x), _against(op, node, 2, x)
    low, high = _integer_range(node)
    level = op.Div(x, scale)
    if zero is not None:
        level = op.Add(level, zero)
    inside = op.And(op.GreaterOrEqual(level, low - 0.5), op.LessOrEqual(level, high + 0.5))
    return op.Div(indicator(op, inside, x), scale)


@gradient("QuantizeLinear")
def quantize(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dq / scale inside the integer range, 0 where it saturates (straight-through)."""
    return [lambda: op.Mul(dy, _slope(op, node)), *_no_parameters(node)]


@bias("QuantizeLinear")
def quantize_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    x = node.x()
    levels = op.Cast(node.y, to=(x.dtype or ir.DataType.FLOAT).value)
    return [Bias(op.Sub(levels, op.Mul(x, _slope(op, node))), "implicit")]


@gradient("DequantizeLinear")
def dequantize(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dq = dy · scale."""

    def data() -> ir.Value:
        return op.Mul(dy, _against(op, node, 1, node.y))

    return [data, *_no_parameters(node)]


@bias("DequantizeLinear")
def dequantize_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    zero = node.constant(2)
    if node.optional(2) is None or (zero is not None and not np.any(zero)):
        return []
    shift = op.Mul(_against(op, node, 2, node.y), _against(op, node, 1, node.y))
    return [Bias(op.Neg(shift), "implicit")]


def is_quantised(value: ir.Value) -> bool:
    """Whether a value is the integer side of a quantisation."""
    producer = value.producer()
    return producer is not None and producer.op_type == "QuantizeLinear" and value.dtype not in FLOATS
