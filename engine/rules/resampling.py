"""Resize in every mode: it is linear and separable, so each axis is a matrix, and the gradient its transpose.

The matrix of an axis is the very same Resize applied to an identity matrix, so that the rounding, the
coefficients and the border of the runtime at hand are met exactly, for sizes known only at run time too;
with known sizes the runtime folds it to a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, Operand
from onnxplain.engine.graph.shapes import dims, same
from onnxplain.engine.layout import size_of, zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, only

_ROI, _SCALES, _SIZES = 1, 2, 3
_CROP = "tf_crop_and_resize"
#: What of the node its matrices share.
_SHARED = (
    *("mode", "nearest_mode", "coordinate_transformation_mode"),
    *("cubic_coeff_a", "exclude_outside", "antialias"),
)


@gradient("Resize")
def resize(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = R_a^T applied to dy along each axis a; sums of blocks for nearest by whole numbers."""
    for index, what in ((_ROI, "its region of interest depends"), (_SCALES, "its scales depend")):
        if node.active(index):
            raise node.unsupported(
                f"{what} on what is differentiated, and the gradient with respect to it is not defined",
                "compute it from shapes or constants",
            )
    if node.optional(_SCALES) is None and node.optional(_SIZES) is None:
        raise node.unsupported("it has neither scales nor sizes", "check the model with onnx.checker")
    axes = [a for a in _axes(node) if not _kept(node, a)]
    factors = _factors(node, axes)
    if factors is not None:
        return only(node, _block_sums(op, dy, factors))
    for axis in reversed(axes):
        dy = _contract(op, dy, _matrix(op, node, axis), axis, node.rank())
    return only(node, dy)


@bias("Resize")
def resize_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """The extrapolation value, where the region of interest leaves the picture; else none."""
    value = float(node.attribute("extrapolation_value", 0.0))
    if node.attribute("coordinate_transformation_mode") != _CROP or value == 0.0:
        return []
    attributes = {k: a.value for k, a in node.ir.attributes.items()}
    fill = op.emit("Resize", [zeros_like(op, node.x()), *node.inputs[1:]], **attributes)[0]
    return [Bias(fill, "explicit", "extrapolation_value")]


# ----- which axes, and how much -----------------------------------------------------------------------


def _axes(node: Primal) -> list[int]:
    """The axes that the operands speak of, in their order."""
    axes = node.attribute("axes")
    rank = node.rank()
    return [a % rank for a in axes] if axes else list(range(rank))


def _stretched(node: Primal) -> bool:
    """Whether each axis has its own scale, as it has unless an aspect ratio is to be kept."""
    return node.optional(_SIZES) is None or node.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"


def _kept(node: Primal, axis: int) -> bool:
    """Whether it is known that nothing happens along the axis."""
    axes = _axes(node)
    at = axes.index(axis)
    if node.attribute("coordinate_transformation_mode") == _CROP:
        roi = node.constant(_ROI)
        if roi is None or roi[at] != 0 or roi[len(axes) + at] != 1:
            return False
    if node.optional(_SIZES) is None:
        scales = node.constant(_SCALES)
        return scales is not None and float(scales[at]) == 1.0
    before, after = node.dims(), dims(node.y)
    return _stretched(node) and before is not None and after is not None and same(before[axis], after[axis])


def _factor(node: Primal, axis: int) -> int | None:
    """The whole number of times that each element is repeated along the axis, where it is one."""
    if node.optional(_SIZES) is None:
        scales = node.constant(_SCALES)
        scale = 0.0 if scales is None else float(scales[_axes(node).index(axis)])
        return int(scale) if scale >= 1 and scale == int(scale) else None
    before, after = node.dims(), dims(node.y)
    if not _stretched(node) or before is None or after is None:
        return None
    small, large = before[axis], after[axis]
    if not isinstance(small, int) or not isinstance(large, int) or small < 1 or large % small:
        return None
    return large // small


def _factors(node: Primal, axes: Sequence[int]) -> list[int] | None:
    """Block size per spatial axis where every element becomes a block of equal ones; else None."""
    rank = node.rank()
    if node.attribute("mode") != "nearest" or rank not in (3, 4, 5) or not axes or min(axes) < 2:
        return None
    coordinates = node.attribute("coordinate_transformation_mode")
    rounding = str(node.attribute("nearest_mode"))
    found = [1] * (rank - 2)
    for axis in axes:
        factor = _factor(node, axis)
        if factor is None:
            return None
        if coordinates == "asymmetric":
            even = rounding == "floor" or (rounding == "round_prefer_floor" and factor == 2)
        else:
            centred = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
            even = coordinates in centred and rounding.startswith("round")
        if not even:
            return None
        found[axis - 2] = factor
    return found


# ----- the gradient -----------------------------------------------------------------------------------


def _block_sums(op: Builder, dy: ir.Value, factors: list[int]) -> ir.Value:
    """Sums of blocks. The mean times the count is the fastest form of it, and needs no sizes."""
    return op.Mul(op.AveragePool(dy, kernel_shape=factors, strides=factors), float(np.prod(factors)))


def _contract(op: Builder, dy: ir.Value, matrix: ir.Value, axis: int, rank: int) -> ir.Value:
    """``dy`` with ``axis`` multiplied by ``matrix`` [size of x, size of dy]."""
    if rank >= 2 and axis == rank - 2:
        return op.MatMul(matrix, dy)
    turned = op.Transpose(matrix, perm=[1, 0])
    if axis == rank - 1:
        return op.MatMul(dy, turned)
    swap = list(range(rank))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    return op.Transpose(op.MatMul(op.Transpose(dy, perm=swap), turned), perm=swap)


def _matrix(op: Builder, node: Primal, axis: int) -> ir.Value:
    """The transposed matrix of an axis, [size of x, size of y]: row i is what the i-th unit vector becomes."""
    attributes = {k: node.attribute(k) for k in _SHARED}
    if not _stretched(node):
        return _shared_scale_matrix(op, node, axis, attributes)
    axes = _axes(node)
    at, count = axes.index(axis), len(axes)
    size = size_of(op, node.x(), axis)
    roi: Operand = None
    if node.attribute("coordinate_transformation_mode") == _CROP:
        known = node.x(_ROI)
        zero, one = (op.constant([v] * 3, known.dtype) for v in (0.0, 1.0))
        roi = op.Concat(zero, _entry(op, node, _ROI, at), one, _entry(op, node, _ROI, count + at), axis=0)
    scales: Operand = None
    sizes: Operand = None
    if node.optional(_SIZES) is None:
        scales = op.Concat(op.constant([1.0] * 3, ir.DataType.FLOAT), _entry(op, node, _SCALES, at), axis=0)
    else:
        sizes = op.Concat([1, 1], size, _entry(op, node, _SIZES, at), axis=0)
    unit = op.Unsqueeze(_identity(op, size, node.x()), [0, 1])
    return op.Squeeze(op.Resize(unit, roi, scales, sizes, **attributes), [0, 1])


def _entry(op: Builder, node: Primal, index: int, at: int) -> ir.Value:
    """One entry of a list operand, as a list."""
    known, value = node.constant(index), node.x(index)
    return op.constant(known[at : at + 1], value.dtype) if known is not None else op.Slice(value, [at], [at + 1])


def _identity(op: Builder, size: ir.Value, like: ir.Value) -> ir.Value:
    """The identity matrix of a size ``int64[1]``, in the type of ``like``."""
    steps = op.Range(0, op.Reshape(size, []), 1)
    equal = op.Equal(op.Unsqueeze(steps, [1]), steps)
    return op.Cast(equal, to=(like.dtype or ir.DataType.FLOAT).value)


def _shared_scale_matrix(op: Builder, node: Primal, axis: int, attributes: dict[str, object]) -> ir.Value:
    """The same where all axes share the scale of one of them.

    Only the operator itself can tell which scale that is, so the unit vectors are repeated along the
    other axes, all are resized together, and one copy is taken.
    """
    if node.attribute("coordinate_transformation_mode") == _CROP:
        raise node.unsupported(
            "it keeps the aspect ratio of a region of interest",
            "export the model with keep_aspect_ratio_policy='stretch'",
        )
    axes = _axes(node)
    at, count = axes.index(axis), len(axes)
    sizes = [size_of(op, node.x(), a) for a in axes]
    unit = op.Unsqueeze(_identity(op, sizes[at], node.x()), [0, *(2 + i for i in range(count) if i != at)])
    full = op.Expand(unit, op.Concat([1], sizes[at], *sizes, axis=0))
    resized = op.Resize(
        full,
        None,
        None,
        node.x(_SIZES),
        axes=list(range(2, 2 + count)),
        keep_aspect_ratio_policy=node.attribute("keep_aspect_ratio_policy"),
        **attributes,
    )
    others = [2 + i for i in range(count) if i != at]
    if not others:
        return op.Squeeze(resized, [0])
    first = op.Slice(resized, [0] * len(others), [1] * len(others), others)
    return op.Squeeze(first, [0, *others])
