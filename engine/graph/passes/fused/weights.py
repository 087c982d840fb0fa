"""Weights stored in a few bits per element, in blocks with a scale each.

Source of the storage format: onnxruntime's ContribOperators.md, MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import refuse_operands, splits
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rules.node import Primal


@splits("MatMulNBits")
def matmul_n_bits(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """A times the dequantised B; the weights are unpacked in the graph, where the runtime folds them."""
    refuse_operands(node, 4, "g_idx")
    bits, block = int(node.attribute("bits", 4)), int(node.attribute("block_size", 0))
    k, n = int(node.attribute("K")), int(node.attribute("N"))
    if bits not in (2, 4, 8) or block <= 0:
        raise node.unsupported(f"bits={bits}, block_size={block}", "quantise to 2, 4 or 8 bits in blocks")
    a = node.x()
    if a.dtype is None:
        raise node.unsupported("the type of its input is not known", "give the model with types for all its values")
    blocks = -(-k // block)
    levels = op.Cast(_unpack(op, op.Reshape(node.x(1), [n, blocks, -1]), bits), to=a.dtype.value)
    zero = _zero_points(op, node, bits, n, blocks, a.dtype)
    scales = op.Reshape(node.x(2), [n, blocks, 1])
    flat = op.Reshape(op.Mul(op.Sub(levels, zero), scales), [n, blocks * block])
    weight = op.Transpose(op.Slice(flat, [0], [k], [1]) if blocks * block != k else flat, perm=[1, 0])
    y = op.MatMul(a, weight)
    return [op.Add(y, node.x(5)) if node.optional(5) is not None else y]


def _unpack(op: Builder, packed: ir.Value, bits: int) -> ir.Value:
    """Bytes ``[n, blocks, bytes]`` -> levels ``[n, blocks, elements]``, the low bits of a byte first."""
    if bits == 8:
        return packed
    parts = []
    mask = op.constant(2**bits - 1, ir.DataType.UINT8)
    for shift in range(0, 8, bits):
        moved = packed if shift == 0 else op.BitShift(packed, op.constant(shift, ir.DataType.UINT8), direction="RIGHT")
        parts.append(op.Unsqueeze(op.BitwiseAnd(moved, mask), [-1]))
    return op.Reshape(op.Concat(*parts, axis=-1), [0, 0, -1])


def _zero_points(op: Builder, node: Primal, bits: int, n: int, blocks: int, dtype: ir.DataType) -> ir.Value:
    """Zero point per block, ``[n, blocks, 1]``; half of the range where none is given."""
    zero = node.optional(3)
    if zero is None:
        return op.constant(float(2 ** (bits - 1)), dtype)
    if is_float(zero):
        return op.Reshape(zero, [n, blocks, 1])
    levels = _unpack(op, op.Reshape(zero, [n, 1, -1]), bits)
    if -(-blocks * bits // 8) * 8 // bits != blocks:
        levels = op.Slice(levels, [0], [blocks], [2])
    return op.Cast(op.Reshape(levels, [n, blocks, 1]), to=dtype.value)
