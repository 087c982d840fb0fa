"""Operators that join, cut and pick elements: the gradient puts each element's adjoint back where it came from.

Constant places become a Pad, a Slice or a Split, which are copies; places known only at run time become
a scatter-add, or the element-number form of :mod:`onnxplain.engine.rules.permutation`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dim, dims, rank
from onnxplain.engine.layout import (
    END,
    cast_like,
    pad_axis,
    reshape_like,
    shape_of,
    size_of,
    slice_axis,
    target_shape,
    widened,
    zeros_like,
)
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.permutation import moved
from onnxplain.engine.rules.table import ZERO, Bias, Contribution, bias, gradient, linear, only, zero

# ----- Concat and Split -------------------------------------------------------------------------------


def _total(op: Builder, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    """Sum of the sizes of ``parts`` along the axis, ``int64[1]``: a number where all are known."""
    known = [_size(x, axis) for x in parts]
    open_parts = [op.Shape(x, start=axis, end=axis + 1) for x, d in zip(parts, known, strict=True) if d is None]
    number = op.constant([sum(d for d in known if d is not None)])
    return functools.reduce(op.Add, open_parts, number) if open_parts else number


def _size(x: ir.Value, axis: int) -> int | None:
    known = dims(x)
    size = known[axis] if known is not None else None
    return size if isinstance(size, int) else None


def _operands(node: Primal) -> list[ir.Value]:
    return [x for x in node.inputs if x is not None]


@gradient("Concat")
def concat(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx_i = the part of dy that x_i became."""
    axis, parts = node.axis(), _operands(node)
    if len(parts) == 1:
        return [dy]
    if all(node.active(i) for i in range(len(parts))):
        sizes = [size_of(op, x, axis) for x in parts]
        known = [_size(x, axis) for x in parts]
        split = op.Concat(*sizes, axis=0) if None in known else op.constant(known, ir.DataType.INT64)
        return op.emit("Split", [dy, split], outputs=len(parts), axis=axis)

    def part(i: int) -> ir.Value:
        start = _total(op, parts[:i], axis)
        end = _total(op, parts[: i + 1], axis) if i + 1 < len(parts) else [END]
        return op.Slice(dy, start, end, [axis])

    return [functools.partial(part, i) for i in range(len(parts))]


@bias("Concat")
def concat_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """The parts that are not active, each at its place among zeros."""
    axis, parts = node.axis(), _operands(node)
    terms = []
    for i, x in enumerate(parts):
        if not node.active(i):
            amounts = [_total(op, parts[:i], axis), _total(op, parts[i + 1 :], axis)]
            terms.append(Bias(op.Pad(x, op.Concat(*amounts, axis=0), None, [axis]), "explicit", x.name or ""))
    return terms


@gradient("Split")
def split(op: Builder, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
    """dx = the dy joined; zeros for a part without adjoint."""
    axis = node.axis()
    present = [i for i, d in enumerate(dy) if d is not None]
    sizes = [_size(y, axis) for y in node.outputs]
    first, last = present[0], present[-1]
    if None in sizes:
        first, last = 0, len(dy) - 1
    parts = [d if d is not None else zeros_like(op, y) for d, y in zip(dy, node.outputs, strict=True)]
    run = parts[first : last + 1]
    joined = op.Concat(*run, axis=axis) if len(run) > 1 else run[0]
    before, after = (sum(d or 0 for d in part) for part in (sizes[:first], sizes[last + 1 :]))
    return only(node, pad_axis(op, joined, axis, before, after))


# ----- Slice ------------------------------------------------------------------------------------------


@gradient("Slice")
def slice_rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy among zeros, at the places that were cut out."""
    return only(node, _static_slice(op, node, dy) or _unit_slice(op, node, dy) or _any_slice(op, node, dy))


def _any_slice(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
    return moved(op, node.x(), dy, lambda n: op.Slice(n, *node.inputs[1:]))


def _static_slice(op: Builder, node: Primal, dy: ir.Value) -> ir.Value | None:
    """By numbers alone: steps of 1 become one Pad, others are spread out (and turned round) first."""
    starts, ends, known = node.constant(1), node.constant(2), node.dims()
    axes, steps = _listed(node, 3), _listed(node, 4)
    if starts is None or ends is None or known is None or axes is None or steps is None:
        return None
    count = len(starts)
    axes = [a % len(known) for a in axes] if axes else list(range(count))
    steps = steps or [1] * count
    amounts = []
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        amount = _pads(known[axis], start, end, step)
        if amount is None:
            return None
        amounts.append(amount)
    if any(taken == 0 for _, _, taken in amounts):
        return zeros_like(op, node.x())
    sizes = list(dims(node.y) or known)
    for axis, step, (_, _, taken) in zip(axes, steps, amounts, strict=True):
        if step < 0:
            dy = slice_axis(op, dy, axis, -1, -END, -1)
        if abs(step) != 1:
            dy = _spread(op, dy, sizes, axis, abs(step), taken)
    ones = [i for i, s in enumerate(steps) if abs(s) == 1 and amounts[i][:2] != (0, 0)]
    for i, step in enumerate(steps):
        if abs(step) != 1:
            dy = pad_axis(op, dy, axes[i], amounts[i][0], amounts[i][1])
    if not ones:
        return dy
    return op.Pad(dy, [amounts[i][0] for i in ones] + [amounts[i][1] for i in ones], None, [axes[i] for i in ones])


def _listed(node: Primal, index: int) -> list[int] | None:
    """A constant list operand; empty where it is left out, None where it is known only at run time."""
    if node.optional(index) is None:
        return []
    known = node.constant(index)
    return None if known is None else [int(v) for v in known.tolist()]


def _pads(size: Dim, start: int, end: int, step: int) -> tuple[int, int, int] | None:
    """(zeros before, zeros after, elements taken) along one axis; ``after`` counts from the spread-out end."""
    if isinstance(size, int):
        taken = range(*slice(start, end, step).indices(size))
        if not taken:
            return size, 0, 0
        low = min(taken)
        return low, size - low - len(taken) * abs(step), len(taken)
    if step != 1 or start < 0:
        return None
    if end >= END // 2 or end == np.iinfo(np.int32).max:
        return start, 0, -1
    return (start, -end, -1) if end < 0 else None


def _spread(op: Builder, dy: ir.Value, sizes: list[Dim], axis: int, step: int, taken: int) -> ir.Value:
    """``dy`` with ``step - 1`` zeros behind every element of the axis; ``sizes`` are kept up to date."""
    apart = op.Pad(op.Unsqueeze(dy, [axis + 1]), [0, step - 1], None, [axis + 1])
    source = (*sizes[: axis + 1], step, *sizes[axis + 1 :])
    sizes[axis] = taken * step
    shape = target_shape(source, tuple(sizes))
    if shape is not None:
        return op.Reshape(apart, shape)
    ends = [op.Shape(dy, start=0, end=axis)] if axis else []
    tail = [op.Shape(dy, start=axis + 1)] if axis + 1 < len(sizes) else []
    return op.Reshape(apart, op.Concat(*ends, [taken * step], *tail, axis=0), allowzero=1)


def _unit_slice(op: Builder, node: Primal, dy: ir.Value) -> ir.Value | None:
    """Steps of 1 with bounds or sizes of the run time: one Pad by computed amounts."""
    steps = _listed(node, 4)
    if steps is None or any(s != 1 for s in steps):
        return None
    axes, starts = node.optional(3), node.x(1)
    if axes is None:
        length = dims(starts)
        count = length[0] if length else None
        axes = op.constant(list(range(count))) if isinstance(count, int) else op.Range(0, op.Size(starts), 1)
    axes = axes if axes.dtype == ir.DataType.INT64 else op.Cast(axes, to=ir.DataType.INT64.value)
    starts = starts if starts.dtype == ir.DataType.INT64 else op.Cast(starts, to=ir.DataType.INT64.value)
    size, taken = op.Gather(op.Shape(node.x()), axes), op.Gather(op.Shape(dy), axes)
    from_front = op.Where(op.Less(starts, 0), op.Add(starts, size), starts)
    before = op.Min(op.Max(from_front, 0), size)
    after = op.Sub(size, op.Add(before, taken))
    return op.Pad(dy, op.Concat(before, after, axis=0), None, axes)


# ----- Gather -----------------------------------------------------------------------------------------


@gradient("Gather")
def gather(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """ddata = dy added up at the rows that it was picked from."""
    axis = node.axis(default=0)
    indices = node.constant(1)
    placed = None if indices is None else _place(op, node, dy, axis, indices)
    return only(node, placed or _add_rows(op, node, dy, axis))


def _place(op: Builder, node: Primal, dy: ir.Value, axis: int, indices: np.ndarray) -> ir.Value | None:
    """Constant indices without repetition: a Pad, or the inverse Gather."""
    if indices.ndim > 1 or indices.size == 0:
        return None
    rows = op.Unsqueeze(dy, [axis]) if indices.ndim == 0 else dy
    size = _size(node.x(), axis)
    wanted = [int(i) for i in indices.reshape(-1).tolist()]
    if size is not None:
        wanted = [i % size for i in wanted]
    run = all(b == a + 1 for a, b in itertools.pairwise(wanted)) and (wanted[0] >= 0 or wanted[-1] < 0)
    if run:
        return _embed(op, rows, node.x(), axis, wanted[0], wanted[-1])
    if size is None or len(set(wanted)) < len(wanted):
        return None
    inverse = np.full(size, len(wanted), np.int64)
    inverse[wanted] = np.arange(len(wanted))
    if len(wanted) < size:
        rows = pad_axis(op, rows, axis, 0, 1)
    return op.Gather(rows, op.constant(inverse), axis=axis)


def _embed(op: Builder, rows: ir.Value, x: ir.Value, axis: int, first: int, last: int) -> ir.Value:
    """``rows`` as rows first..last of ``x``, zeros elsewhere; negative ones count from the end."""
    size = _size(x, axis)
    if size is not None:
        return pad_axis(op, rows, axis, first, size - 1 - last)
    if first >= 0:
        amounts = [op.constant([first]), op.Sub(size_of(op, x, axis), [last + 1])]
    else:
        amounts = [op.Add(size_of(op, x, axis), [first]), op.constant([-1 - last])]
    return op.Pad(rows, op.Concat(*amounts, axis=0), None, [axis])


def _add_rows(op: Builder, node: Primal, dy: ir.Value, axis: int) -> ir.Value:
    """Any indices: scatter-add of rows, with the axis moved to the front and back."""
    x, indices = node.x(), node.x(1)
    count = rank(indices)
    if count is None and axis > 0:
        raise node.unsupported(
            "the rank of its indices is known only at run time", "give the model's inputs fixed ranks"
        )
    if indices.dtype != ir.DataType.INT64:
        indices = op.Cast(indices, to=ir.DataType.INT64.value)
    places, dy = op.Unsqueeze(indices, [-1]), widened(op, dy)
    if axis == 0 or count is None:
        return cast_like(op, op.ScatterND(zeros_like(op, x, dy.dtype), places, dy, reduction="add"), x)
    total = node.rank()
    front = [axis, *(a for a in range(total) if a != axis)]
    picked = list(range(axis, axis + count))
    rows = op.Transpose(dy, perm=[*picked, *(a for a in range(total - 1 + count) if a not in picked)])
    shape = op.Gather(shape_of(op, x), front)
    zeros = op.ConstantOfShape(shape, value=ir.tensor([0], dtype=dy.dtype or ir.DataType.FLOAT))
    added = cast_like(op, op.ScatterND(zeros, places, rows, reduction="add"), x)
    return op.Transpose(added, perm=[int(i) for i in np.argsort(front)])


@gradient("GatherElements")
def gather_elements(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """ddata = dy added up at the elements that it was picked from."""
    axis, dy = int(node.attribute("axis", 0)), widened(op, dy)
    added = op.ScatterElements(zeros_like(op, node.x(), dy.dtype), node.x(1), dy, axis=axis, reduction="add")
    return only(node, cast_like(op, added, node.x()))


@gradient("GatherND")
def gather_nd(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """ddata = dy added up at the slices that it was picked from."""
    batch, indices = int(node.attribute("batch_dims", 0)), node.x(1)
    if batch:
        return only(node, moved(op, node.x(), dy, lambda n: op.GatherND(n, indices, batch_dims=batch)))
    dy = widened(op, dy)
    added = op.ScatterND(zeros_like(op, node.x(), dy.dtype), indices, dy, reduction="add")
    return only(node, cast_like(op, added, node.x()))


# ----- others -----------------------------------------------------------------------------------------


@gradient("Trilu")
def trilu(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = the same triangle of dy."""
    return only(node, op.Trilu(dy, *node.inputs[1:], upper=int(node.attribute("upper", 1))))


@gradient("ReverseSequence")
def reverse_sequence(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy reversed again."""
    batch, time = int(node.attribute("batch_axis", 1)), int(node.attribute("time_axis", 0))
    return only(node, op.ReverseSequence(dy, node.x(1), batch_axis=batch, time_axis=time))


@gradient("Compress")
def compress(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy at the places that were kept."""
    axis = node.attribute("axis")
    return only(node, moved(op, node.x(), dy, lambda n: op.Compress(n, node.x(1), axis=axis)))


@gradient("CenterCropPad")
def center_crop_pad(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy padded where x was cropped and cropped where it was padded."""
    axes = node.attribute("axes")
    axes = None if axes is None else list(axes)
    return only(node, moved(op, node.x(), dy, lambda n: op.CenterCropPad(n, node.x(1), axes=axes)))


@gradient("Unique")
def unique(op: Builder, node: Primal, dy: ir.Value, *_: ir.Value | None) -> Sequence[Contribution]:
    """dx = dy of the value that each element (or slice) became; equal ones share it evenly."""
    axis = node.attribute("axis")
    order = int(node.attribute("sorted", 1))
    inverse, counts = op.emit("Unique", [node.x()], outputs=4, axis=axis, sorted=order)[2:]
    shares = op.Div(dy, _along(op, cast_like(op, counts, dy), node, axis))
    if axis is None:
        return [reshape_like(op, op.Gather(shares, inverse, axis=0), node.x())]
    return [op.Gather(shares, inverse, axis=int(axis))]


def _along(op: Builder, vector: ir.Value, node: Primal, axis: int | None) -> ir.Value:
    """A vector as one that broadcasts along an axis of the operand."""
    return vector if axis is None else op.Reshape(vector, [-1] + [1] * (node.rank() - 1 - int(axis) % node.rank()))


linear(
    *("Split", "Slice", "Gather", "GatherElements", "GatherND"),
    *("Trilu", "ReverseSequence", "Compress", "CenterCropPad", "Unique"),
)


_HOT = zero(
    "which element is the hot one changes in steps",
    "explain the scores that the index comes from, in front of the ArgMax or the Cast",
)


@gradient("OneHot")
def one_hot(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """d(off, on) = (sum of dy at the off places, sum of dy at the on places)."""

    def values() -> ir.Value:
        axis = int(node.attribute("axis", -1))
        sums = []
        for kept in ([1.0, 0.0], [0.0, 1.0]):
            mask = op.OneHot(node.x(0), node.x(1), op.constant(kept, dy.dtype), axis=axis)
            sums.append(op.Reshape(op.ReduceSum(op.Mul(dy, mask), keepdims=0), [1]))
        return op.Concat(*sums, axis=0)

    return [_HOT, ZERO, values]


@bias("OneHot")
def one_hot_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """None for active values, which it is linear in; otherwise nothing flows and all of it is."""
    return [] if node.active(2) else [Bias(node.y, "implicit")]
