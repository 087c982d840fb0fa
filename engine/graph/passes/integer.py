"""How each integer operator reads in floats; used by :mod:`.dequantize`.

Sources: the ONNX operator pages; onnxruntime's ContribOperators.md for those of ``com.microsoft``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from onnxplain.engine.graph.passes.dequantize import Handler, Real, Work, dequantized, scalar
from onnxplain.engine.graph.passes.fused.attention import self_attention
from onnxplain.engine.graph.passes.fused.linear import channels_first, channels_last
from onnxplain.engine.graph.passes.fused.table import CONTRIB
from onnxplain.engine.graph.shapes import rank
from onnxplain.engine.rules.node import Primal

INTEGER: dict[tuple[str, str], Handler] = {}

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad")


def _integer(*op_types: str, domains: tuple[str, ...] = (CONTRIB,)) -> Callable[[Handler], Handler]:
    def register(function: Handler) -> Handler:
        INTEGER.update({(domain, op_type): function for domain in domains for op_type in op_types})
        return function

    return register


def _attributes(node: Primal, *names: str) -> dict[str, Any]:
    found = {name: node.attribute(name) for name in names}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items() if v is not None and v != ()}


# ----- borders ------------------------------------------------------------------------------------------


@_integer("QuantizeLinear", domains=("", CONTRIB))
def _quantize(work: Work, node: Primal) -> None:
    if node.attribute("block_size", 0):
        return  # blocked activations: the rule refuses them, with the reason
    axis = node.attribute("axis", 1)
    zero, y = node.optional(2), node.y
    if node.domain:
        if zero is not None and zero.dtype not in (ir.DataType.UINT8, ir.DataType.INT8, None):
            raise node.unsupported(f"quantisation to {zero.dtype}", "quantise to 8 bits")
        work.quantise(node, node.x(), node.x(1), zero)
        return
    work.op.before = _behind(node.ir)
    if y.dtype is None:
        y.dtype = (zero.dtype if zero is not None else None) or ir.DataType.UINT8
    work.remember(y, node.x(), node.x(1), zero, axis)


@_integer("DequantizeLinear", domains=("", CONTRIB))
def _dequantize(work: Work, node: Primal) -> None:
    if node.domain or node.x() in work.reals:
        work.put(node.y, work.real(node.x(), node.x(1), node.optional(2), node.attribute("axis", 1)))


@_integer("DynamicQuantizeLinear", domains=("",))
def _dynamic(work: Work, node: Primal) -> None:
    op = work.op
    op.before = _behind(node.ir)
    scale, zero = node.outputs[1], node.outputs[2]
    scale.dtype, zero.dtype = scale.dtype or ir.DataType.FLOAT, zero.dtype or ir.DataType.UINT8
    for value in (scale, zero):
        value.shape = ir.Shape([])
    q = op.QuantizeLinear(node.x(), scale, zero)
    q.dtype = ir.DataType.UINT8
    work.put(node.y, q)
    work.reals[q] = _real_of(work, q, node.x(), scale, zero)


def _real_of(work: Work, q: ir.Value, x: ir.Value, scale: ir.Value, zero: ir.Value) -> Real:
    return Real(dequantized(work.op, q, scale, zero) if work.round_values else x, scale, zero)


def _behind(node: ir.Node) -> ir.Node | None:
    """The node in front of which something stands right behind ``node``; None at the graph's end."""
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        return None
    found = False
    for other in graph:
        if found:
            return other
        found = other is node
    return None


# ----- accumulators ---------------------------------------------------------------------------------------


@_integer("ConvInteger", domains=("",))
def _conv_integer(work: Work, node: Primal) -> None:
    x, w = work.real(node.x(), None, node.optional(2)), work.real(node.x(1), None, node.optional(3), 0)
    work.reals[node.y] = Real(work.op.Conv(x, w, **_attributes(node, *_WINDOW)))


@_integer("MatMulInteger", domains=("",))
def _matmul_integer(work: Work, node: Primal) -> None:
    a, b = work.real(node.x(), None, node.optional(2), -2), work.real(node.x(1), None, node.optional(3), -1)
    work.reals[node.y] = Real(work.op.MatMul(a, b))


@_integer("MatMulIntegerToFloat")
def _matmul_to_float(work: Work, node: Primal) -> None:
    op = work.op
    a = work.real(node.x(), node.x(2), node.optional(4), -2)
    b = work.real(node.x(1), node.x(3), node.optional(5), -1)
    y = op.MatMul(a, b)
    work.put(node.y, op.Add(y, node.x(6)) if node.optional(6) is not None else y)


@_integer("DynamicQuantizeMatMul")
def _dynamic_matmul(work: Work, node: Primal) -> None:
    op, a = work.op, _rounded(work, node.x())
    y = op.MatMul(a, work.real(node.x(1), node.x(2), node.optional(3), -1))
    work.put(node.y, op.Add(y, node.x(4)) if node.optional(4) is not None else y)


@_integer("QAttention")
def _attention(work: Work, node: Primal) -> None:
    op = work.op
    x, w = work.real(node.x(), node.x(3), node.optional(6)), work.real(node.x(1), node.x(4), node.optional(7), -1)
    projected = op.Add(op.MatMul(x, w), node.x(2))
    results = self_attention(op, node, projected, mask=5, past=8)
    for old, new in zip(node.outputs, results, strict=False):
        if new is not None:
            work.put(old, new)


@_integer("DynamicQuantizeLSTM")
def _lstm(work: Work, node: Primal) -> None:
    """LSTM with dequantised weights; its inputs are rounded as the model does, its states are not."""
    op, weights = work.op, []
    for index, scale, zero in ((1, 8, 9), (2, 10, 11)):
        scales, points = node.x(scale), node.optional(zero)
        levels = op.Cast(node.x(index), to=ir.DataType.FLOAT.value)
        axes = [1, 2] if rank(scales) == 1 else [1]  # one number per direction, or one per direction and gate
        if rank(scales) not in (1, 2):
            raise node.unsupported("the rank of its scales is not known", "export it with constant scales")
        if points is not None:
            levels = op.Sub(levels, op.Unsqueeze(op.Cast(points, to=ir.DataType.FLOAT.value), axes))
        weights.append(op.Transpose(op.Mul(levels, op.Unsqueeze(scales, axes)), perm=[0, 2, 1]))
    names = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
    operands = [_rounded(work, node.x()), *weights, *(node.optional(i) for i in range(3, 8))]
    results = op.emit("LSTM", operands, len(node.outputs), **_attributes(node, *names))
    for old, new in zip(node.outputs, results, strict=True):
        work.put(old, new)


def _rounded(work: Work, x: ir.Value) -> ir.Value:
    """What DynamicQuantizeLinear and DequantizeLinear make of x, where the model's rounding is kept."""
    if not work.round_values:
        return x
    op = work.op
    _, scale, zero = op.emit("DynamicQuantizeLinear", [x], outputs=3)
    for value, dtype in ((scale, ir.DataType.FLOAT), (zero, ir.DataType.UINT8)):
        value.dtype, value.shape = dtype, ir.Shape([])
    q = op.QuantizeLinear(x, scale, zero)
    q.dtype = ir.DataType.UINT8
    return dequantized(op, q, scale, zero)


# ----- results that are quantised again ---------------------------------------------------------------------


@_integer("QLinearConv", domains=("", CONTRIB))
def _conv(work: Work, node: Primal) -> None:
    op, last = work.op, bool(node.attribute("channels_last", 0))
    x, w = work.real(node.x(), node.x(1), node.optional(2)), work.real(node.x(3), node.x(4), node.optional(5), 0)
    count = node.rank(3)
    b = None
    if node.optional(8) is not None:
        scale = op.Mul(scalar(op, node.x(1)), scalar(op, node.x(4)))
        b = op.Mul(op.CastLike(node.x(8), scale), scale)
    y = op.Conv(channels_first(op, x, count) if last else x, w, b, **_attributes(node, *_WINDOW[:6]))
    work.quantise(node, channels_last(op, y, count) if last else y, node.x(6), node.optional(7))


@_integer("QLinearMatMul", domains=("", CONTRIB))
def _matmul(work: Work, node: Primal) -> None:
    a = work.real(node.x(), node.x(1), node.optional(2), -2)
    b = work.real(node.x(3), node.x(4), node.optional(5), -1)
    work.quantise(node, work.op.MatMul(a, b), node.x(6), node.optional(7))


@_integer("QGemm")
def _gemm(work: Work, node: Primal) -> None:
    op, flip = work.op, int(node.attribute("transB", 0))
    a = work.real(node.x(), node.x(1), node.optional(2))
    b = work.real(node.x(3), node.x(4), node.optional(5), 0 if flip else 1)
    alpha, c = float(node.attribute("alpha", 1.0)), None
    if node.optional(6) is not None:
        scale = op.Mul(scalar(op, node.x(1)), scalar(op, node.x(4)))
        c = op.Mul(op.CastLike(node.x(6), scale), scale)
    flips = {"transA": int(node.attribute("transA", 0)), "transB": flip}
    y = op.Gemm(a, b, c, alpha=alpha, beta=alpha, **flips)
    if node.optional(7) is None:
        work.put(node.y, y)
    else:
        work.quantise(node, y, node.x(7), node.optional(8))


@_integer("QLinearAdd", "QLinearMul")
def _arithmetic(work: Work, node: Primal) -> None:
    a = work.real(node.x(), node.x(1), node.optional(2))
    b = work.real(node.x(3), node.x(4), node.optional(5))
    work.quantise(node, work.op.emit(node.op_type.removeprefix("QLinear"), [a, b])[0], node.x(6), node.optional(7))


@_integer("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax")
def _unary(work: Work, node: Primal) -> None:
    op, x = work.op, work.real(node.x(), node.x(1), node.optional(2))
    if node.op_type == "QLinearSigmoid":
        y = op.Sigmoid(x)
    elif node.op_type == "QLinearLeakyRelu":
        y = op.LeakyRelu(x, **_attributes(node, "alpha"))
    elif int(node.attribute("opset", 13)) >= 13:
        y = op.Softmax(x, axis=int(node.attribute("axis", -1)))
    else:
        y = op.Reshape(op.Softmax(op.Flatten(x, axis=int(node.attribute("axis", 1))), axis=-1), op.Shape(x))
    work.quantise(node, y, node.x(3), node.optional(4))


@_integer("QLinearGlobalAveragePool", "QLinearAveragePool")
def _pool(work: Work, node: Primal) -> None:
    op, last = work.op, bool(node.attribute("channels_last", 0))
    x, count = work.real(node.x(), node.x(1), node.optional(2)), node.rank()
    x = channels_first(op, x, count) if last else x
    names = () if node.op_type == "QLinearGlobalAveragePool" else _WINDOW
    y = op.emit(node.op_type.removeprefix("QLinear"), [x], **_attributes(node, *names))[0]
    work.quantise(node, channels_last(op, y, count) if last else y, node.x(3), node.optional(4))


@_integer("QLinearReduceMean")
def _mean(work: Work, node: Primal) -> None:
    op, axes = work.op, node.attribute("axes")
    x = work.real(node.x(), node.x(1), node.optional(2))
    y = op.ReduceMean(x, None if not axes else list(axes), keepdims=int(node.attribute("keepdims", 1)))
    work.quantise(node, y, node.x(3), node.optional(4))


@_integer("QLinearConcat")
def _concat(work: Work, node: Primal) -> None:
    parts = [work.real(node.x(i), node.x(i + 1), node.optional(i + 2)) for i in range(2, len(node.inputs), 3)]
    work.quantise(node, work.op.Concat(*parts, axis=int(node.attribute("axis"))), node.x(0), node.optional(1))


@_integer("QLinearWhere")
def _where(work: Work, node: Primal) -> None:
    a, b = (work.real(node.x(i), node.x(i + 1), node.optional(i + 2)) for i in (1, 4))
    work.quantise(node, work.op.Where(node.x(0), a, b), node.x(7), node.optional(8))
