"""Convolutions and matrix products with what runtimes fuse into them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import splits
from onnxplain.engine.graph.shapes import rank
from onnxplain.engine.rules.node import Primal

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "storage_order")


def _window(node: Primal) -> dict[str, object]:
    found = {name: node.attribute(name) for name in _WINDOW}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items() if v is not None and v != ()}


def activate(op: Builder, node: Primal, x: ir.Value, parameters: Sequence[float]) -> ir.Value:
    """The activation that the attribute ``activation`` names, with its parameters."""
    kind = node.attribute("activation", "") or ""
    if not kind:
        return x
    if kind in ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"):
        return op.emit(kind, [x])[0]
    if kind == "LeakyRelu":
        return op.LeakyRelu(x, alpha=parameters[0] if parameters else 0.01)
    if kind == "Elu":
        return op.Elu(x, alpha=parameters[0] if parameters else 1.0)
    if kind == "Clip" and len(parameters) >= 2:
        return op.Clip(x, parameters[0], parameters[1])
    if kind == "HardSigmoid" and len(parameters) >= 2:
        return op.HardSigmoid(x, alpha=parameters[0], beta=parameters[1])
    raise node.unsupported(
        f"the fused activation '{kind}' is not known", "give the model as it was before optimisation"
    )


def _named_parameters(node: Primal) -> list[float]:
    found = [node.attribute(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    return [float(p) for p in found if p is not None]


# ----- convolution ------------------------------------------------------------------------------------


@splits("FusedConv")
def fused_conv(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    y = op.Conv(node.x(), node.x(1), node.optional(2), **_window(node))
    if node.optional(3) is not None:
        y = op.Add(y, node.x(3))
    return [activate(op, node, y, [float(p) for p in node.attribute("activation_params", ())])]


@splits("NhwcConv", "NhwcFusedConv")
def nhwc_conv(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Channels last around the standard operator; the weights are in the usual order."""
    count = node.rank()
    y = op.Conv(channels_first(op, node.x(), count), node.x(1), node.optional(2), **_window(node))
    y = channels_last(op, y, count)
    if node.optional(3) is not None:
        y = op.Add(y, node.x(3))
    return [activate(op, node, y, [float(p) for p in node.attribute("activation_params", ())])]


@splits("NhwcMaxPool")
def nhwc_max_pool(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    count = node.rank()
    return [channels_last(op, op.MaxPool(channels_first(op, node.x(), count), **_window(node)), count)]


def channels_first(op: Builder, x: ir.Value, count: int) -> ir.Value:
    """NHWC -> NCHW for ``count`` axes."""
    return op.Transpose(x, perm=[0, count - 1, *range(1, count - 1)])


def channels_last(op: Builder, x: ir.Value, count: int) -> ir.Value:
    """NCHW -> NHWC for ``count`` axes."""
    return op.Transpose(x, perm=[0, *range(2, count), 1])


# ----- products ---------------------------------------------------------------------------------------


@splits("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation")
def fused_matmul(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """alpha A' B', where A' and B' may have their batch axes moved and their last two exchanged."""
    operands = [_transposed(op, node, i, side) for i, side in enumerate("AB")]
    y = op.MatMul(*operands)
    alpha = float(node.attribute("alpha", 1.0))
    if alpha != 1.0:
        y = op.Mul(y, alpha)
    if node.attribute("activation", "") == "Softmax":
        return [op.Softmax(y, axis=int(node.attribute("activation_axis", -1)))]
    return [activate(op, node, y, _named_parameters(node))]


def _transposed(op: Builder, node: Primal, index: int, side: str) -> ir.Value:
    value = node.x(index)
    flip, batch = bool(node.attribute(f"trans{side}", 0)), bool(node.attribute(f"transBatch{side}", 0))
    if not flip and not batch:
        return value
    count = node.rank(index)
    if count < 2:
        return value
    order = list(range(count))
    if batch:  # [rows, batch..., columns] stands for [batch..., rows, columns]
        order = [*order[1:-1], 0, order[-1]]
    if flip:
        order[-2], order[-1] = order[-1], order[-2]
    return op.Transpose(value, perm=order)


@splits("FusedGemm")
def fused_gemm(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    scales = {k: float(node.attribute(k, 1.0)) for k in ("alpha", "beta")}
    flips = {k: int(node.attribute(k, 0)) for k in ("transA", "transB")}
    y = op.Gemm(node.x(), node.x(1), node.optional(2), **scales, **flips)
    return [activate(op, node, y, _named_parameters(node))]


# ----- the standard's operators under another name ------------------------------------------------------


@splits("ExpandDims")
def expand_dims(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    axis = node.x(1)
    return [op.Unsqueeze(node.x(), op.Reshape(op.Cast(axis, to=ir.DataType.INT64.value), [1]))]


@splits("Trilu")
def trilu(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [op.Trilu(node.x(), node.optional(1), upper=int(node.attribute("upper", 1)))]


@splits("GatherND")
def gather_nd(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    return [op.GatherND(node.x(), op.Cast(node.x(1), to=ir.DataType.INT64.value))]


@splits("Pad")
def pad(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    pads = node.x(1)
    if rank(pads) != 1:
        pads = op.Reshape(pads, [-1])
    return [op.Pad(node.x(), pads, node.optional(2), mode=node.attribute("mode", "constant"))]
