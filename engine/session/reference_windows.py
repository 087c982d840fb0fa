"""Windowed operators for the exact evaluator, straight from their definitions in NumPy.

`onnx.reference` 1.23 reshapes ConvTranspose wrongly with groups or several inputs channels and uneven
strides, miscounts Indices of overlapping MaxPool windows, and loops in
Python over every output of Conv. These replace them in every float type.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


def _pads(
    mode: str | None, pads: Sequence[int] | None, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Begin and end padding per axis from ``auto_pad`` or ``pads``."""
    count = len(sizes)
    if mode in (None, "", "NOTSET"):
        values = list(pads) if pads else [0] * (2 * count)
        return values[:count], values[count:]
    if mode == "VALID":
        return [0] * count, [0] * count
    total = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(sizes, extents, strides, strict=True)]
    small = [t // 2 for t in total]
    large = [t - s for t, s in zip(total, small, strict=True)]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


class Geometry:
    def __init__(self, sizes: Sequence[int], kernel: Sequence[int], attributes: dict[str, Any]) -> None:
        count = len(kernel)
        self.sizes = list(sizes)
        self.kernel = list(kernel)
        self.strides = list(attributes.get("strides") or [1] * count)
        self.dilations = list(attributes.get("dilations") or [1] * count)
        self.extents = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        mode = attributes.get("auto_pad")
        self.begin, self.end = _pads(mode, attributes.get("pads"), sizes, self.extents, self.strides)
        ceil = bool(attributes.get("ceil_mode"))
        self.outputs = []
        for n, b, t, e, s in zip(self.sizes, self.begin, self.end, self.extents, self.strides, strict=True):
            span = n + b + t - e
            windows = (-(-span // s) if ceil else span // s) + 1
            if ceil and (windows - 1) * s >= n + b:  # a window that starts in the end padding is dropped
                windows -= 1
            self.outputs.append(windows)
        #: What the windows reach past the input, overhang of ceil_mode included.
        self.reach = [
            max((o - 1) * s + e - n - b, t)
            for o, s, e, n, b, t in zip(
                self.outputs, self.strides, self.extents, self.sizes, self.begin, self.end, strict=True
            )
        ]

    def padded(self, x: Array, fill: float) -> Array:
        """The input with padding and overhang, filled."""
        widths = [(0, 0), (0, 0), *zip(self.begin, self.reach, strict=True)]
        return np.pad(x, widths, constant_values=fill)

    def taps(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Per kernel position, the view of the input that it meets: one element per output."""
        for tap in itertools.product(*map(range, self.kernel)):
            index: list[slice] = [slice(None), slice(None)]
            for t, d, s, o in zip(tap, self.dilations, self.strides, self.outputs, strict=True):
                index.append(slice(t * d, t * d + (o - 1) * s + 1, s))
            yield tap, padded[tuple(index)]


def _at(tap: tuple[int, ...]) -> tuple[Any, ...]:
    """Index of one kernel position in weights [group, out, in, ...]."""
    return (slice(None), slice(None), slice(None), *tap)


class Conv(OpRun):
    """Conv, 1-D to 3-D."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        group = attributes.get("group") or 1
        geometry = Geometry(x.shape[2:], w.shape[2:], attributes)
        padded = geometry.padded(x, 0.0)
        out, inner = w.shape[0] // group, w.shape[1]
        y = np.zeros((x.shape[0], group, out, *geometry.outputs), dtype=np.result_type(x, w))
        weights = w.reshape(group, out, *w.shape[1:])
        for tap, view in geometry.taps(padded):
            parts = view.reshape(x.shape[0], group, inner, *geometry.outputs)
            y += np.einsum("ngc...,goc->ngo...", parts, weights[_at(tap)])
        y = y.reshape(x.shape[0], w.shape[0], *geometry.outputs)
        if b is not None:
            y = y + b.reshape(-1, *[1] * (x.ndim - 2))
        return (y.astype(x.dtype),)


class ConvTranspose(OpRun):
    """ConvTranspose: every input element adds its scaled kernel to the output."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        group = attributes.get("group") or 1
        count = x.ndim - 2
        strides = attributes.get("strides") or [1] * count
        dilations = attributes.get("dilations") or [1] * count
        extra = attributes.get("output_padding") or [0] * count
        kernel = w.shape[2:]
        full = [
            (n - 1) * s + (k - 1) * d + 1 + e
            for n, s, k, d, e in zip(x.shape[2:], strides, kernel, dilations, extra, strict=True)
        ]
        y = np.zeros((x.shape[0], group, w.shape[1], *full), dtype=x.dtype)
        parts = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        weights = w.reshape(group, -1, *w.shape[1:])
        for tap in itertools.product(*map(range, kernel)):
            place = [slice(t * d, t * d + (n - 1) * s + 1, s)
                     for t, d, n, s in zip(tap, dilations, x.shape[2:], strides, strict=True)]  # fmt: skip
            scaled = np.einsum("ngi...,gio->ngo...", parts, weights[_at(tap)])
            y[(slice(None), slice(None), slice(None), *place)] += scaled
        y = y.reshape(x.shape[0], -1, *full)
        begin, end = self._crop(full, x.shape[2:], strides, attributes)
        crop = [slice(p, n - q) for p, q, n in zip(begin, end, full, strict=True)]
        y = y[(slice(None), slice(None), *crop)]
        wanted = attributes.get("output_shape")
        if wanted:  # a larger one than the kernels reach is filled up with zeros at the end
            short = [max(t - n, 0) for t, n in zip(list(wanted)[-count:], y.shape[2:], strict=True)]
            y = np.pad(y, [(0, 0), (0, 0), *((0, n) for n in short)])
        if b is not None:
            y = y + b.reshape(-1, *[1] * count)
        return (np.ascontiguousarray(y).astype(x.dtype),)

    @staticmethod
    def _crop(
        full: Sequence[int], sizes: Sequence[int], strides: Sequence[int], attributes: dict[str, Any]
    ) -> tuple[list[int], list[int]]:
        mode, wanted = attributes.get("auto_pad"), attributes.get("output_shape")
        if wanted or mode in ("SAME_UPPER", "SAME_LOWER"):
            target = list(wanted)[-len(full) :] if wanted else [n * s for n, s in zip(sizes, strides, strict=True)]
            total = [max(f - t, 0) for f, t in zip(full, target, strict=True)]
            small = [t // 2 for t in total]
            large = [t - s for t, s in zip(total, small, strict=True)]
            return (small, large) if mode == "SAME_UPPER" else (large, small)
        pads = attributes.get("pads")
        values = list(pads) if pads and mode != "VALID" else [0] * (2 * len(full))
        return values[: len(full)], values[len(full) :]


class MaxPool(OpRun):
    """MaxPool with Indices; the first of equal elements wins."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:
        geometry = Geometry(x.shape[2:], attributes["kernel_shape"], attributes)
        padded = geometry.padded(x, -np.inf)
        plane = np.arange(int(np.prod(x.shape[2:])))
        by_column = bool(attributes.get("storage_order"))
        plane = plane.reshape(x.shape[2:], order="F") if by_column else plane.reshape(x.shape[2:])
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * plane.ndim)
        where = geometry.padded((planes * plane.size + plane).astype(np.float64), -1.0)
        best: Array | None = None
        index: Array | None = None
        for (_, values), (_, places) in zip(geometry.taps(padded), geometry.taps(where), strict=True):
            if best is None or index is None:
                best, index = values.copy(), places.copy()
                continue
            wins = values > best
            best[wins], index[wins] = values[wins], places[wins]
        assert best is not None
        assert index is not None
        return (best.astype(x.dtype), index.astype(np.int64))[: len(self.onnx_node.output)]


class AveragePool(OpRun):
    """AveragePool: the mean over real cells, and over explicit padding if that counts."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        geometry = Geometry(x.shape[2:], attributes["kernel_shape"], attributes)
        cells = np.ones((1, 1, *x.shape[2:]))
        if attributes.get("count_include_pad"):
            cells = np.pad(
                cells, [(0, 0), (0, 0), *zip(geometry.begin, geometry.end, strict=True)], constant_values=1.0
            )
            widths = [(0, r - e) for r, e in zip(geometry.reach, geometry.end, strict=True)]
            cells = np.pad(cells, [(0, 0), (0, 0), *widths])
        else:
            cells = geometry.padded(cells, 0.0)
        total = sum(view for _, view in geometry.taps(geometry.padded(x, 0.0)))
        count = sum(view for _, view in geometry.taps(cells))
        return (np.asarray(total / count).astype(x.dtype),)


class GlobalMaxPool(OpRun):
    """GlobalMaxPool; the evaluator's takes the wrong axes unless there are two spatial ones."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


WINDOWED: list[type[OpRun]] = [Conv, ConvTranspose, MaxPool, AveragePool, GlobalMaxPool]
