"""Operators that `onnx.reference` computes wrongly or not at all, for the verification runs.

The evaluator is our float64 oracle, so what is known to be wrong in it is replaced here, each with the
defect named. Nothing here runs unless ``providers=["reference"]`` is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as _Resize

from onnxplain.engine.session.reference_attention import ATTENTION
from onnxplain.engine.session.reference_control import CONTROL
from onnxplain.engine.session.reference_elementwise import ELEMENTWISE
from onnxplain.engine.session.reference_normalization import NORMALIZATIONS
from onnxplain.engine.session.reference_pooling import POOLING
from onnxplain.engine.session.reference_quantization import QUANTIZATION
from onnxplain.engine.session.reference_sampling import SAMPLING
from onnxplain.engine.session.reference_windows import WINDOWED

CORRECTED: list[type[OpRun]] = [
    *ATTENTION,
    *CONTROL,
    *ELEMENTWISE,
    *NORMALIZATIONS,
    *POOLING,
    *QUANTIZATION,
    *SAMPLING,
    *WINDOWED,
]


class Pad(OpRun):
    """The evaluator refuses negative amounts, which cut, and the attributes of old."""

    op_domain = ""

    def _run(
        self,
        data: np.ndarray[Any, Any],
        pads: np.ndarray[Any, Any],
        constant_value: Any = None,
        axes: Any = None,
        mode: Any = "constant",
        value: Any = None,
    ) -> tuple[np.ndarray[Any, Any]]:
        listed = range(data.ndim) if axes is None else np.asarray(axes).reshape(-1).tolist()
        begin, end = np.asarray(pads).reshape(2, -1).tolist()
        widths = [(0, 0)] * data.ndim
        for axis, before, after in zip(listed, begin, end, strict=True):
            cut = [slice(None)] * data.ndim
            cut[axis] = slice(max(-before, 0), data.shape[axis] - max(-after, 0))
            data = data[tuple(cut)]
            widths[axis] = (max(before, 0), max(after, 0))
        if mode != "constant":
            return (np.pad(data, widths, mode=mode),)
        constant_value = value if constant_value is None else constant_value
        fill = 0 if constant_value is None else np.asarray(constant_value).item()
        return (np.pad(data, widths, constant_values=fill),)


CORRECTED.append(Pad)


class GatherElements(OpRun):
    """The evaluator refuses indices that are shorter than the data on another axis."""

    op_domain = ""

    def _run(
        self, data: np.ndarray[Any, Any], indices: np.ndarray[Any, Any], axis: int = 0
    ) -> tuple[np.ndarray[Any, Any]]:
        places = list(np.indices(indices.shape))
        places[axis] = indices
        return (data[tuple(places)],)


CORRECTED.append(GatherElements)


class OneHot(OpRun):
    """The evaluator refuses a depth of shape [1], and computes `off` as `off + 0 (on - off)`."""

    op_domain = ""

    def _run(
        self, indices: Any, depth: Any, values: np.ndarray[Any, Any], axis: int = -1
    ) -> tuple[np.ndarray[Any, Any]]:
        count = int(np.asarray(depth).reshape(-1)[0])
        places = np.asarray(indices)
        places = np.expand_dims(np.where(places < 0, places + count, places), axis)
        shape = [1] * places.ndim
        shape[axis] = count
        hit = places == np.arange(count).reshape(shape)
        return (np.where(hit, values[1], values[0]).astype(values.dtype),)


CORRECTED.append(OneHot)


class Resize(_Resize):
    """The evaluator computes cubic coefficients in float32, and takes a fractional size for ``length_resized``."""

    op_domain = ""

    def _run(  # type: ignore[override]
        self, x: np.ndarray[Any, Any], roi: Any = None, scales: Any = None, sizes: Any = None, **attributes: Any
    ) -> tuple[np.ndarray[Any, Any]]:
        attributes["cubic_coeff_a"] = float(attributes["cubic_coeff_a"])
        axes = attributes.get("axes")
        if axes is not None:
            axes = attributes["axes"] = [int(a) % x.ndim for a in axes]
        if scales is not None and attributes["coordinate_transformation_mode"] in (
            "align_corners",
            "tf_crop_and_resize",
        ):
            # These two depend on sizes alone.
            lengths = np.asarray(x.shape)[list(axes) if axes is not None else slice(None)]
            scales, sizes = None, np.floor(lengths * np.asarray(scales)).astype(np.int64)
        return super()._run(x, roi, scales, sizes, **attributes)  # type: ignore[no-any-return]


CORRECTED.append(Resize)


class LRN(OpRun):
    """The evaluator goes through as many channels as there are samples."""

    op_domain = ""

    def _run(
        self, x: np.ndarray[Any, Any], alpha: Any = None, beta: Any = None, bias: Any = None, size: int = 1
    ) -> tuple[np.ndarray[Any, Any]]:
        padded = np.pad(x * x, [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
        total = sum(padded[:, i : i + x.shape[1]] for i in range(size))
        return (x / (float(bias) + float(alpha) / size * total) ** float(beta),)


class LpNormalization(OpRun):
    """The evaluator sums signed values for p = 1, and takes axis 0 for no axis."""

    op_domain = ""

    def _run(self, x: np.ndarray[Any, Any], axis: int = -1, p: int = 2) -> tuple[np.ndarray[Any, Any]]:
        norm = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1.0 / p)
        return (np.where(norm == 0, 0.0, x / np.where(norm == 0, 1.0, norm)).astype(x.dtype),)


class GroupNormalization(OpRun):
    """The evaluator computes in float32 (``stash_type``) whatever the operands are."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray[Any, Any],
        scale: np.ndarray[Any, Any],
        bias: np.ndarray[Any, Any],
        epsilon: Any = None,
        num_groups: int = 1,
        stash_type: Any = None,
    ) -> tuple[np.ndarray[Any, Any]]:
        parts = x.reshape(x.shape[0], num_groups, -1)
        normalised = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + float(epsilon))
        if scale.size == num_groups:  # one for each group, as before opset 21
            scale, bias = (np.repeat(v, x.shape[1] // num_groups) for v in (scale, bias))
        shape = (-1, *[1] * (x.ndim - 2))
        return (normalised.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape),)


class RMSNormalization(OpRun):
    """The evaluator computes in float32 (``stash_type``) whatever the operands are."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray[Any, Any],
        scale: np.ndarray[Any, Any],
        axis: int = -1,
        epsilon: Any = None,
        stash_type: Any = None,
    ) -> tuple[np.ndarray[Any, Any]]:
        axes = tuple(range(axis % x.ndim, x.ndim))
        return (x / np.sqrt((x * x).mean(axes, keepdims=True) + float(epsilon)) * scale,)


CORRECTED += [LRN, LpNormalization, GroupNormalization, RMSNormalization]


class MeanVarianceNormalization(OpRun):
    """The evaluator refuses float64: the constants of the operator's definition are float32."""

    op_domain = ""

    def _run(self, x: np.ndarray[Any, Any], axes: Any = (0, 2, 3)) -> tuple[np.ndarray[Any, Any]]:
        along = tuple(int(a) for a in axes)
        return ((x - x.mean(along, keepdims=True)) / (x.std(along, keepdims=True) + 1e-9),)


CORRECTED.append(MeanVarianceNormalization)


class CausalConvWithState(OpRun):
    """The evaluator rounds the activation to float32."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray[Any, Any],
        weight: np.ndarray[Any, Any],
        bias: Any = None,
        past_state: Any = None,
        activation: Any = "none",
    ) -> tuple[np.ndarray[Any, Any], ...]:
        kept, steps = weight.shape[2] - 1, x.shape[2]
        past = np.zeros((*x.shape[:2], kept), x.dtype) if past_state is None else past_state
        line = np.concatenate([past, x], axis=2)
        y = np.asarray(sum(line[:, :, k : k + steps] * weight[:, 0, k, None] for k in range(kept + 1)))
        y = y if bias is None else y + bias[:, None]
        y = y / (1 + np.exp(-y)) if activation in ("silu", "swish") else y
        return y, line[:, :, line.shape[2] - kept :]


CORRECTED.append(CausalConvWithState)


class Upsample(_Resize):
    """The evaluator lacks most of it; it is Resize with the coordinates of old."""

    op_domain = ""

    def _run(  # type: ignore[override]
        self, x: np.ndarray[Any, Any], scales: Any = None, mode: Any = "nearest", **_: Any
    ) -> tuple[np.ndarray[Any, Any]]:
        return super()._run(  # type: ignore[no-any-return]
            x, None, np.asarray(scales, np.float64), None, antialias=0, axes=None, cubic_coeff_a=-0.75, exclude_outside=0,
            coordinate_transformation_mode="asymmetric", extrapolation_value=0.0, keep_aspect_ratio_policy="stretch",
            mode=mode, nearest_mode="floor",
        )  # fmt: skip


class Scatter(OpRun):
    """The evaluator lacks it; it is ScatterElements under its old name."""

    op_domain = ""

    def _run(
        self, data: np.ndarray[Any, Any], indices: np.ndarray[Any, Any], updates: np.ndarray[Any, Any], axis: int = 0
    ) -> tuple[np.ndarray[Any, Any]]:
        places = list(np.indices(indices.shape))
        places[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        result = data.copy()
        result[tuple(places)] = updates
        return (result,)


CORRECTED += [Upsample, Scatter]


class Unique(OpRun):
    """The evaluator takes unsorted values from the first axis, whichever was asked for."""

    op_domain = ""

    def _run(self, x: np.ndarray[Any, Any], axis: Any = None, sorted: Any = 1) -> tuple[np.ndarray[Any, Any], ...]:  # noqa: A002
        y, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
        order = np.arange(len(first)) if sorted else np.argsort(first)
        place = np.argsort(order)
        y = np.take(y, order, axis=0 if axis is None else axis)
        return y, first[order], place[inverse.reshape(-1)], counts[order]


CORRECTED.append(Unique)
