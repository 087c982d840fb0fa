"""Operators that give the same elements another shape, place or type; all but a filling Pad are linear.

The gradient is the inverse move, by static sizes where they are known. Pad that repeats elements adds
them up again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims, rank, static_dims
from onnxplain.engine.layout import END, cast_like, pad_axis, reshape_like, shape_of, slice_axis, zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.permutation import moved
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, linear, only

# ----- shape ------------------------------------------------------------------------------------------


@gradient("Reshape", "Flatten")
def reshape(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy in the shape of x."""
    return only(node, reshape_like(op, dy, node.x(), dims(node.y)))


@gradient("Squeeze")
def squeeze(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy with the axes put back."""
    axes = node.optional(1)
    dx = op.Unsqueeze(dy, axes) if axes is not None else reshape_like(op, dy, node.x(), dims(node.y))
    return only(node, dx)


@gradient("Unsqueeze")
def unsqueeze(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy without the axes."""
    return only(node, op.Squeeze(dy, node.x(1)))


@gradient("Transpose")
def transpose(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy by the inverse permutation."""
    order = node.attribute("perm")
    return [op.Transpose(dy, perm=None if order is None else [int(i) for i in np.argsort(order)])]


@gradient("Identity")
def identity(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy."""
    return [dy]


@gradient("Cast", "CastLike")
def cast(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy in the type of x; between floats, rounding aside. Casts to integers end the gradient."""
    return only(node, cast_like(op, dy, node.x()))


linear("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast", "CastLike")

# ----- repetition -------------------------------------------------------------------------------------


@gradient("Expand", broadcasts=True)
def expand(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = sum of dy over the axes along which x was repeated (by the walk)."""
    return only(node, dy)


@gradient("Tile")
def tile(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = sum of dy, seen as [r_0, d_0, r_1, d_1, ...], over the r."""
    x, repeats = node.x(), node.constant(1)
    sizes = static_dims(x)
    count = rank(x)
    if count is None and repeats is not None:
        count = len(repeats)
    if count is None:
        raise node.unsupported(
            "neither the rank of its input nor the repeats are known", "give the model's inputs fixed ranks"
        )
    axes = list(range(0, 2 * count, 2))
    if repeats is None or sizes is None:
        pairs = op.Concat(op.Unsqueeze(node.x(1), [1]), op.Unsqueeze(shape_of(op, x), [1]), axis=1)
        parts = op.Reshape(dy, op.Reshape(pairs, [-1]), allowzero=1)
        return only(node, op.ReduceSum(parts, axes, keepdims=0)) if count else only(node, dy)
    # Axes that are not repeated stay whole: fewer axes are faster to sum over.
    shape: list[int] = []
    axes = []
    for size, repeat in zip(sizes, repeats.tolist(), strict=True):
        if repeat != 1:
            axes.append(len(shape))
            shape.append(repeat)
        shape.append(size)
    return only(node, op.ReduceSum(op.Reshape(dy, shape, allowzero=1), axes, keepdims=0) if axes else dy)


linear("Expand", "Tile")

# ----- blocks -----------------------------------------------------------------------------------------


@gradient("DepthToSpace")
def depth_to_space(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = SpaceToDepth(dy), for mode CRD with the channels put in that order."""
    block = int(node.attribute("blocksize"))
    blocks = op.SpaceToDepth(dy, blocksize=block)
    if node.attribute("mode", "DCR") == "DCR":
        return [blocks]
    known = node.dims()
    depth = known[1] if known is not None else None
    if isinstance(depth, int):
        apart = op.Reshape(blocks, [0, block * block, depth // (block * block), -1])
    else:
        channels = op.Shape(dy, start=1, end=2)
        apart = op.Reshape(blocks, op.Concat([0, block * block], channels, [-1], axis=0))
    return [reshape_like(op, op.Transpose(apart, perm=[0, 2, 1, 3]), node.x())]


@gradient("SpaceToDepth")
def space_to_depth(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = DepthToSpace(dy)."""
    return [op.DepthToSpace(dy, blocksize=int(node.attribute("blocksize")), mode="DCR")]


linear("DepthToSpace", "SpaceToDepth")

# ----- Pad --------------------------------------------------------------------------------------------


def _amounts(node: Primal) -> list[tuple[int, int, int]] | None:
    """(axis, before, after) per padded axis, or None where they are known only at run time."""
    pads, axes = node.constant(1), node.constant(3)
    if pads is None or (axes is None and node.optional(3) is not None):
        return None
    half = len(pads) // 2
    listed = range(half) if axes is None else axes.tolist()
    if any(a < 0 for a in listed):
        listed = [a % node.rank() for a in listed]
    both = zip(listed, pads[:half].tolist(), pads[half:].tolist(), strict=True)
    return [(a, b, e) for a, b, e in both if b or e]


@gradient("Pad")
def pad(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy cut by the amounts (padded where x was cut); repeated elements are added up; dfill = sum of the rest."""
    if node.attribute("mode", "constant") != "constant":
        return only(node, _fold(op, node, dy))

    def fill() -> ir.Value:
        places = _filled(op, node, op.constant(1, dy.dtype))
        return reshape_like(op, op.ReduceSum(op.Mul(dy, places), keepdims=0), node.x(2))

    contributions = only(node, lambda: _cut(op, node, dy))
    if node.optional(2) is not None:
        contributions[2] = fill
    return contributions


def _cut(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
    """The adjoint of constant padding: padding by the negated amounts."""
    amounts = _amounts(node)
    if amounts is None:
        axes = node.optional(3)
        grown = op.Max(node.x(1), 0)
        half = op.Div(op.Shape(grown), 2)
        begin, end = op.Slice(grown, [0], half), op.Slice(grown, half, [END])
        if axes is None:
            size = op.Shape(dy)
            cut = op.Slice(dy, begin, op.Sub(size, end))
        else:
            size = op.Gather(op.Shape(dy), axes)
            cut = op.Slice(dy, begin, op.Sub(size, end), axes)
        return op.Pad(cut, op.Max(op.Neg(node.x(1)), 0), None, axes)
    for axis, before, after in amounts:
        if before < 0 or after < 0:
            dy = pad_axis(op, dy, axis, -before, -after)
    cuts = [a for a in amounts if a[1] >= 0 and a[2] >= 0]
    if not cuts:
        return dy
    ends = [-after if after else END for _, _, after in cuts]
    return op.Slice(dy, [before for _, before, _ in cuts], ends, [axis for axis, _, _ in cuts])


def _filled(op: Builder, node: Primal, fill: ir.Value) -> ir.Value:
    """``fill`` at the padded places, 0 elsewhere."""
    return op.Pad(zeros_like(op, node.x()), node.x(1), op.Reshape(fill, []), node.optional(3))


@bias("Pad")
def pad_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """The fill value where it stands, and x itself where only the fill value is active."""
    if node.attribute("mode", "constant") != "constant":
        return []
    terms = []
    fill, known = node.optional(2), node.constant(2)
    if fill is not None and not node.active(2) and (known is None or np.any(known)):
        terms.append(Bias(_filled(op, node, fill), "explicit", fill.name or ""))
    if not node.active(0):
        terms.append(Bias(op.Pad(node.x(), node.x(1), None, node.optional(3)), "explicit", node.x().name or ""))
    return terms


def _fold(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
    """Adjoint of reflect, edge and wrap: what was repeated is added to where it was taken from."""
    mode = str(node.attribute("mode"))
    amounts, known = _amounts(node), node.dims()
    if amounts is None or known is None or not all(_foldable(mode, known[a], b, e) for a, b, e in amounts):
        return moved(op, node.x(), dy, lambda n: op.Pad(n, node.x(1), None, node.optional(3), mode=mode))
    for axis, before, after in amounts:
        size = known[axis]
        dy = _FOLDS[mode](op, dy, axis, before, after, int(size or 0))
    return dy


def _foldable(mode: str, size: int | str | None, before: int, after: int) -> bool:
    """Whether each element is repeated at most once on each side, by numbers."""
    reach = {"reflect": 1, "wrap": 0, "edge": 1}[mode]
    if not isinstance(size, int) or min(before, after) < 0 or size < 1:
        return False
    return mode == "edge" or max(before, after) <= size - reach


def _fold_reflect(op: Builder, dy: ir.Value, axis: int, before: int, after: int, size: int) -> ir.Value:
    parts = [slice_axis(op, dy, axis, before, before + size)]
    if before:
        mirrored = slice_axis(op, dy, axis, before - 1, -END, -1)
        parts.append(pad_axis(op, mirrored, axis, 1, size - 1 - before))
    if after:
        mirrored = slice_axis(op, dy, axis, -1, before + size - 1, -1)
        parts.append(pad_axis(op, mirrored, axis, size - 1 - after, 1))
    return op.Sum(*parts)


def _fold_edge(op: Builder, dy: ir.Value, axis: int, before: int, after: int, size: int) -> ir.Value:
    # Cut so that the first and last kept element stand with their copies; then only sums are left.
    if size == 1:
        return op.ReduceSum(dy, [axis], keepdims=1)
    first = op.ReduceSum(slice_axis(op, dy, axis, 0, before + 1), [axis], keepdims=1)
    last = op.ReduceSum(slice_axis(op, dy, axis, before + size - 1), [axis], keepdims=1)
    if size == 2:
        return op.Concat(first, last, axis=axis)
    return op.Concat(first, slice_axis(op, dy, axis, before + 1, before + size - 1), last, axis=axis)


def _fold_wrap(op: Builder, dy: ir.Value, axis: int, before: int, after: int, size: int) -> ir.Value:
    parts = [slice_axis(op, dy, axis, before, before + size)]
    if before:
        parts.append(pad_axis(op, slice_axis(op, dy, axis, 0, before), axis, size - before, 0))
    if after:
        parts.append(pad_axis(op, slice_axis(op, dy, axis, before + size), axis, 0, size - after))
    return op.Sum(*parts)


_FOLDS: dict[str, Callable[[Builder, ir.Value, int, int, int, int], ir.Value]] = {
    "reflect": _fold_reflect,
    "edge": _fold_edge,
    "wrap": _fold_wrap,
}
