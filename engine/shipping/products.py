"""Products with a matrix along one axis: blurs and enlargements as runtimes compute them fastest."""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder


def along(op: Builder, value: ir.Value, axis: int, rank: int, matrix: ir.Value) -> ir.Value:
    """Product with a matrix ``[out, size]`` along one axis."""
    if axis == rank - 2:
        return op.MatMul(matrix, value)
    order = [i for i in range(rank) if i != axis] + [axis]
    moved = value if axis == rank - 1 else op.Transpose(value, perm=order)
    made = op.MatMul(moved, op.Transpose(matrix, perm=[1, 0]))
    return made if axis == rank - 1 else op.Transpose(made, perm=[order.index(i) for i in range(rank)])
