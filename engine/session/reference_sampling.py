"""Sampling operators for the exact evaluator, straight from their definitions in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


def _folded(u: Array, low: float, high: float) -> Array:
    """Coordinates reflected at both ends until they lie between."""
    span = high - low
    if span == 0:
        return np.full_like(u, low)
    period = np.mod(u - low, 2 * span)
    return low + np.minimum(period, 2 * span - period)


def _cubic(t: Array) -> Array:
    a, t = -0.75, np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


class GridSample(OpRun):
    """The evaluator keeps coordinates in float32, and loops in Python."""

    op_domain = ""

    def _run(
        self, x: Array, grid: Array, mode: Any = "linear", padding_mode: Any = "zeros", align_corners: int = 0
    ) -> tuple[Array]:
        count = x.ndim - 2
        axes = [
            self._taps(grid[..., count - 1 - k], x.shape[2 + k], mode, padding_mode, align_corners)
            for k in range(count)
        ]
        total = np.zeros((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
        for combination in itertools.product(*axes):
            weight = np.prod([w for _, w in combination], axis=0)
            for n in range(x.shape[0]):
                total[n] += x[n][(slice(None), *(i[n] for i, _ in combination))] * weight[n]
        return (total,)

    @staticmethod
    def _taps(g: Array, size: int, mode: str, padding: str, align: int) -> list[tuple[Array, Array]]:
        u = (g + 1) / 2 * (size - 1) if align else ((g + 1) * size - 1) / 2
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        u = np.rint(u) if mode == "nearest" else u
        if padding == "border":
            u = np.where((u < low) | (u > high), np.clip(u, 0, size - 1), u)
        elif padding == "reflection":
            u = _folded(u, low, high)
        offsets = {"nearest": (0,)}.get(mode, (-1, 0, 1, 2) if "cubic" in mode else (0, 1))
        found = []
        for offset in offsets:
            at = (np.rint(u) if mode == "nearest" else np.floor(u)) + offset
            weight = np.ones_like(u) if mode == "nearest" else _cubic(u - at) if "cubic" in mode else 1 - np.abs(u - at)
            if padding == "zeros":
                weight = weight * ((at >= 0) & (at <= size - 1))
            elif padding == "reflection":
                at = np.rint(_folded(at, low, high))
            found.append((np.clip(at, 0, size - 1).astype(np.int64), weight))
        return found


class AffineGrid(OpRun):
    """The evaluator's grid is float32."""

    op_domain = ""

    def _run(self, theta: Array, size: Array, align_corners: int = 0) -> tuple[Array]:
        lines = []
        for n in np.asarray(size)[2:].tolist():
            steps = np.linspace(-1, 1, n) if n > 1 else np.full(1, -1.0)
            lines.append(steps if align_corners else (2 * np.arange(n) + 1) / n - 1)
        mesh = np.meshgrid(*lines, indexing="ij")
        base = np.stack([*mesh[::-1], np.ones_like(mesh[0])], axis=-1).astype(theta.dtype)
        return (np.einsum("...k,njk->n...j", base, theta),)


class DeformConv(OpRun):
    """The evaluator keeps coordinates in float32, and loops in Python."""

    op_domain = ""

    def _run(
        self, x: Array, w: Array, offset: Array, b: Any = None, mask: Any = None, **attributes: Any
    ) -> tuple[Array]:
        (n, c, height, width), (out, per_group, kh, kw) = x.shape, w.shape
        oh, ow = offset.shape[2:]
        parts = int(attributes.get("offset_group") or 1)
        groups = int(attributes.get("group") or 1)
        stride, dilation = (list(attributes.get(k) or [1, 1]) for k in ("strides", "dilations"))
        pads = list(attributes.get("pads") or [0] * 4)
        moved = offset.reshape(n, parts, kh, kw, 2, oh, ow)
        rows = np.arange(oh)[:, None] * stride[0] - pads[0]
        columns = np.arange(ow) * stride[1] - pads[1]
        v = rows + (np.arange(kh) * dilation[0])[:, None, None, None] + moved[..., 0, :, :]
        u = columns + (np.arange(kw) * dilation[1])[:, None, None] + moved[..., 1, :, :]
        read = np.zeros((n, parts, c // parts, kh, kw, oh, ow), x.dtype)
        cells = x.reshape(n, parts, c // parts, height, width)
        for dv, du in itertools.product((0, 1), (0, 1)):
            i, j = np.floor(v) + dv, np.floor(u) + du
            weight = (1 - abs(v - i)) * (1 - abs(u - j)) * ((i >= 0) & (i < height) & (j >= 0) & (j < width))
            i, j = np.clip(i, 0, height - 1).astype(int), np.clip(j, 0, width - 1).astype(int)
            for s, g in itertools.product(range(n), range(parts)):
                read[s, g] += cells[s, g][:, i[s, g], j[s, g]] * weight[s, g]
        if mask is not None:
            read = read * mask.reshape(n, parts, 1, kh, kw, oh, ow)
        grouped = read.reshape(n, groups, per_group, kh, kw, oh, ow)
        y = np.einsum("ngcklij,gockl->ngoij", grouped, w.reshape(groups, out // groups, per_group, kh, kw))
        y = y.reshape(n, out, oh, ow)
        return (y if b is None else y + b[:, None, None],)


SAMPLING: list[type[OpRun]] = [GridSample, AffineGrid, DeformConv]
