"""MatMul and Gemm, products that are linear in each operand; Det, linear in each row."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.broadcast import reduce_to, unbroadcast
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dim, Dims, dims
from onnxplain.engine.layout import cast_like, size_of
from onnxplain.engine.rules.convolution import affine_bias
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, multilinear, of_degree


@gradient("MatMul")
def matmul(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dA = dY B^T, dB = A^T dY, summed over broadcast batch axes; vectors count as one row or column."""
    ranks = (node.rank(0), node.rank(1))

    def left() -> ir.Value:
        a, b, g = _as_matrices(op, node, dy, ranks)
        return _restore(op, op.MatMul(g, _swap(op, b, max(ranks[1], 2))), a, node, 0, ranks)

    def right() -> ir.Value:
        a, b, g = _as_matrices(op, node, dy, ranks)
        if ranks[1] == 2 and ranks[0] > 2:
            # Weights shared by a batch of rows: one flat product instead of a product and a sum.
            rows = [op.Reshape(v, op.Concat([-1], op.Slice(op.Shape(v), [-1], [2**31 - 1]), axis=0)) for v in (a, g)]
            return op.MatMul(_swap(op, rows[0], 2), rows[1])
        return _restore(op, op.MatMul(_swap(op, a, max(ranks[0], 2)), g), b, node, 1, ranks)

    return [left, right]


def _as_matrices(
    op: Builder, node: Primal, dy: ir.Value, ranks: tuple[int, int]
) -> tuple[ir.Value, ir.Value, ir.Value]:
    a = op.Unsqueeze(node.x(0), [0]) if ranks[0] == 1 else node.x(0)
    b = op.Unsqueeze(node.x(1), [1]) if ranks[1] == 1 else node.x(1)
    if ranks[1] == 1:
        dy = op.Unsqueeze(dy, [-1])
    if ranks[0] == 1:
        dy = op.Unsqueeze(dy, [-2])
    return a, b, dy


def _swap(op: Builder, x: ir.Value, rank: int) -> ir.Value:
    return op.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _restore(
    op: Builder, gradient: ir.Value, matrix: ir.Value, node: Primal, index: int, ranks: tuple[int, int]
) -> ir.Value:
    """Sum over the batch axes that the operand does not have, and drop the axis that a vector was given."""
    rank, other = max(ranks[index], 2), max(ranks[1 - index], 2)
    if other > 2:
        gradient = _sum_batch(op, gradient, matrix, node, index, rank, max(rank, other))
    if ranks[index] == 1:
        gradient = op.Squeeze(gradient, [0 if index == 0 else 1])
    return gradient


def _sum_batch(
    op: Builder, gradient: ir.Value, matrix: ir.Value, node: Primal, index: int, rank: int, full_rank: int
) -> ir.Value:
    own, other = dims(node.x(index)), dims(node.x(1 - index))
    if (
        own is not None
        and other is not None
        and len(own) == len(other)
        and own[:-2] == other[:-2]
        and None not in own[:-2]
    ):
        return gradient
    if own is None or other is None:
        return reduce_to(op, gradient, matrix, None, None)
    mine, theirs = _batch(own, full_rank), _batch(other, full_rank)
    batch = [e if d == 1 or (isinstance(e, int) and e != 1) else d for d, e in zip(mine, theirs, strict=True)]
    core = _core(own, index)
    return reduce_to(op, gradient, matrix, (*own[:-2], *core) if len(own) > 1 else tuple(core), (*batch, *core))


def _batch(known: Dims, full_rank: int) -> list[Dim]:
    batch = list(known[:-2])
    return [1] * (full_rank - 2 - len(batch)) + batch


def _core(own: Dims, index: int) -> list[Dim]:
    if len(own) == 1:
        return [1, own[0]] if index == 0 else [own[0], 1]
    return list(own[-2:])


multilinear("MatMul")


@gradient("Gemm")
def gemm(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """Y = alpha A' B' + beta C: dA' = alpha dY B'^T, dB' = alpha A'^T dY, dC = beta dY."""
    a, b = node.x(0), node.x(1)
    trans_a, trans_b = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))

    def left() -> ir.Value:
        if trans_a:
            return op.Gemm(b, dy, alpha=alpha, transA=int(trans_b), transB=1)
        return op.Gemm(dy, b, alpha=alpha, transB=int(not trans_b))

    def right() -> ir.Value:
        if trans_b:
            return op.Gemm(dy, a, alpha=alpha, transA=1, transB=int(trans_a))
        return op.Gemm(a, dy, alpha=alpha, transA=int(not trans_a))

    def shift() -> ir.Value:
        scaled = dy if beta == 1.0 else op.Mul(dy, beta)
        return unbroadcast(op, scaled, node.x(2), node.y)

    return [left, right, shift][: len(node.inputs)]


@bias("Gemm")
def gemm_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    beta = float(node.attribute("beta", 1.0))
    c = node.optional(2)
    if c is not None and beta != 1.0:
        c = op.Mul(c, beta)
    return affine_bias(op, node, c, node.active(0) + node.active(1))


#: Largest matrix whose minors are formed: their number of elements grows with the fourth power.
_LARGEST = 48


def _order(node: Primal) -> int | None:
    """The number of rows of the matrices, where it is known."""
    known = node.dims()
    size = next((d for d in known[-2:] if isinstance(d, int)), None) if known is not None else None
    if size is not None and size > _LARGEST:
        raise node.unsupported(f"its matrices are larger than {_LARGEST} x {_LARGEST}", "explain a tensor behind it")
    return size


@gradient("Det")
def det(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy · cofactors: the determinants of all minors, signs alternating; right at singular matrices too."""
    x, n, rank = node.x(), _order(node), node.rank()
    share = op.Unsqueeze(dy, [rank - 2, rank - 1])
    if n == 1:
        return [share]
    size = op.Squeeze(size_of(op, x, rank - 1), [0])
    row = op.Range(0, op.Sub(size, 1), 1)
    column = op.Unsqueeze(op.Range(0, size, 1), [1])
    # Row i of this lists all numbers but i.
    others = op.Add(row, op.Cast(op.GreaterOrEqual(row, column), to=ir.DataType.INT64.value))
    minors = op.Gather(op.Gather(x, others, axis=rank - 2), others, axis=rank)
    order = [*range(rank - 2), rank - 2, rank, rank - 1, rank + 1]
    odd = op.Mod(op.Add(column, op.Range(0, size, 1)), 2)
    signs = cast_like(op, op.Sub(1, op.Mul(odd, 2)), x)
    return [op.Mul(share, op.Mul(op.Det(op.Transpose(minors, perm=order)), signs))]


@bias("Det")
def det_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """(1 - n) y."""
    n = _order(node)
    if n is not None:
        return of_degree(op, node, n)
    size = cast_like(op, size_of(op, node.x(), node.rank() - 1), node.y)
    return [Bias(op.Mul(node.y, op.Sub(1.0, op.Squeeze(size, [0]))), "implicit")]
