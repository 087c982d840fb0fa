"""QuantizeLinear and DequantizeLinear: the straight-through gradient.

The derivative of rounding is zero wherever it exists, so a plain gradient of an int8 model is zero
everywhere. Here rounding passes the gradient on and saturation blocks it: the integers in between carry
the adjoint of the real number that they stand for, ``q ~ x / scale + zero_point``. Results that went
through here are labelled ``straight_through``. The full-gradient identity stays exact, because what
rounding adds is that node's bias.

DequantizeLinear itself is a product of levels and scale, with a derivative by the scale like any product.
Levels and scales are spread by DequantizeLinear nodes of the same form, so that every integer type, axis and
block is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.forms import indicator
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import FLOATS, dims, rank
from onnxplain.engine.layout import cast_like, shape_of, size_of, zeros_like
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
        raise node.unsupported("blocked scales in QuantizeLinear", "quantise activations per tensor or per axis")
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


def _form(node: Primal) -> dict[str, int]:
    """How scales lie over the data, as attributes of another DequantizeLinear."""
    block = int(node.attribute("block_size", 0))
    return {"axis": int(node.attribute("axis", 1)), **({"block_size": block} if block else {})}


def _spread_scale(op: Builder, node: Primal, like: ir.Value) -> ir.Value:
    """The scale of every element: per tensor and per axis by broadcasting, by block in the data's shape."""
    if not node.attribute("block_size", 0):
        result = _against(op, node, 1, like)
        assert result is not None
        return result
    ones = op.ConstantOfShape(shape_of(op, node.x()), value=ir.tensor(np.asarray([1], np.int8)))
    return cast_like(op, op.DequantizeLinear(ones, node.x(1), None, **_form(node)), like)


def _levels(op: Builder, node: Primal, like: ir.Value) -> ir.Value:
    """``q - zero_point`` of every element."""
    ones = zeros_like(op, node.x(1), fill=1.0)
    return cast_like(op, op.DequantizeLinear(node.x(), ones, node.optional(2), **_form(node)), like)


def _per_scale(op: Builder, node: Primal, products: ir.Value) -> ir.Value:
    """The sum over all elements that one scale stands for, in the scale's shape."""
    scale, known = node.x(1), dims(node.x(1))
    block = int(node.attribute("block_size", 0))
    if known is None or (len(known) == 1 and not block and dims(node.x()) is None):
        raise node.unsupported("the rank of its data or scale is known only at run time", "give them fixed ranks")
    if block:
        axis = node.axis(1)
        wanted = op.Mul(size_of(op, scale, axis), [block])
        whole = op.Pad(products, op.Concat([0], op.Sub(wanted, size_of(op, node.x(), axis)), axis=0), None, [axis])
        shape = op.Shape(whole)
        parts = [op.Slice(shape, [0], [axis], [0]), [-1, block], op.Slice(shape, [axis + 1], [len(known)], [0])]
        sums = op.ReduceSum(op.Reshape(whole, op.Concat(*parts, axis=0)), [axis + 1], keepdims=0)
    elif known in ((), (1,)):
        sums = op.Reshape(op.ReduceSum(products, keepdims=0), list(known))
    else:
        sums = op.ReduceSum(products, [a for a in range(node.rank()) if a != node.axis(1)], keepdims=0)
    return cast_like(op, sums, scale)


@gradient("DequantizeLinear")
def dequantize(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dq = dy · scale; dscale = sum of dy · (q - zero_point) over the elements that it stands for."""
    parts: list[Contribution] = [None] * len(node.inputs)
    parts[0] = lambda: op.Mul(dy, _spread_scale(op, node, node.y))
    parts[1] = lambda: _per_scale(op, node, op.Mul(dy, _levels(op, node, dy)))
    return parts


@bias("DequantizeLinear")
def dequantize_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y = (q - z) s: -z s for active data, nothing for an active scale, -q s for both."""
    if not node.active(0):
        return []
    zero = node.constant(2)
    no_zero = node.optional(2) is None or (zero is not None and not np.any(zero))
    if node.active(1):
        scale = _spread_scale(op, node, node.y)
        data = node.y if no_zero else op.Mul(op.Cast(node.x(), to=(node.y.dtype or ir.DataType.FLOAT).value), scale)
        return [Bias(op.Neg(data), "implicit")]
    if no_zero:
        return []
    shift = op.Mul(_against(op, node, 2, node.y), _against(op, node, 1, node.y))
    return [Bias(op.Neg(shift), "implicit")]


def is_quantised(value: ir.Value) -> bool:
    """Whether a value is the integer side of a quantisation."""
    producer = value.producer()
    return producer is not None and producer.op_type == "QuantizeLinear" and value.dtype not in FLOATS
