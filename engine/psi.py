"""FullGrad's psi, in the graph: sign, rescale, channel sum, upsampling, and the sum over layers.

Bilinear upsampling is linear, so channels are summed before it, and maps of equal resolution before
that: the algebra that makes a FullGrad map cost hardly more than a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.gathering import Gathering
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import size_of
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.samples import constant_axes
from onnxplain.engine.spreading import spread

Array = np.ndarray[Any, Any]

SIGNS = ("abs", "pos", "neg", "signed")
RESCALES = ("minmax", "max", "none")
SCOPES = ("layer", "channel", "batch")

#: Added to the divisor of a rescaled map, as in the authors' code; with ``max`` and ``signed`` it only
#: guards against dividing zero by zero.
EPSILON = 1e-6
TINY = 1e-30


@dataclass(frozen=True)
class Deferred:
    """A layer's channel sum whose rescaling is left to where all layers meet.

    The finished map is ``(total - channels low) / (top - low + EPSILON)``: one product per layer, and one
    number per sample that is the same everywhere, so all layers of one resolution are rescaled at once.

    Attributes:
        total: ``[N, 1, P]``, all places in one axis.
        top, low: ``[N, 1, 1]``: the layer's extremes.
        channels: Number of channels that were summed.
    """

    total: ir.Value
    top: ir.Value
    low: ir.Value
    channels: int


@dataclass(frozen=True)
class Psi:
    """Post-processing of one layer's tensor of terms."""

    sign: str
    rescale: str
    scope: str

    def apply(self, op: Builder, a: ir.Value, c: ir.Value | None, labels: Labels) -> ir.Value | Deferred:
        """Map ``[N, places...]`` of ``a * c``: signed, rescaled, summed over channels.

        Args:
            op: Where to emit.
            a: Adjoint (or the finished product, with ``c`` None).
            c: Bias, broadcastable against ``a``.
            labels: Axes of ``a``.
        """
        channels = [i for i in range(1, len(labels)) if i not in spatial_axes(labels).values()]
        if self.sign == "abs" and self.scope == "layer" and channels == [1] and len(labels) > 2:
            per_channel = self._per_channel(op, a, c, labels)
            if per_channel is not None:
                return per_channel
        u = a if c is None else op.Mul(a, c)
        v = self._signed(op, u)
        scaled = self._rescale(op, v, labels, channels)
        return op.ReduceSum(scaled, channels, keepdims=0) if channels else scaled

    def of(self, u: Array, labels: Labels) -> Array:
        """The same outside the graph: terms ``[N, ...]`` to a map ``[N, places...]``, in float64."""
        u = u.astype(np.float64)
        v = {"abs": np.abs(u), "pos": np.maximum(u, 0), "neg": np.maximum(-u, 0), "signed": u}[self.sign]
        channels = [i for i in range(1, len(labels)) if i not in spatial_axes(labels).values()]
        axes = tuple(self._axes(labels, channels))
        if self.rescale != "none" and self.sign == "signed":
            v = v / (np.abs(v).max(axis=axes, keepdims=True) + TINY)
        elif self.rescale == "max":
            v = v / (v.max(axis=axes, keepdims=True) + TINY)
        elif self.rescale == "minmax":
            v = v - v.min(axis=axes, keepdims=True)
            v = v / (v.max(axis=axes, keepdims=True) + EPSILON)
        return np.asarray(v.sum(axis=tuple(channels)))

    def _signed(self, op: Builder, u: ir.Value) -> ir.Value:
        if self.sign == "signed":
            return u
        if self.sign == "abs":
            return op.Abs(u)
        return op.Relu(u if self.sign == "pos" else op.Neg(u))

    def _axes(self, labels: Labels, channels: list[int]) -> list[int]:
        if self.scope == "channel":
            return [i for i in range(1, len(labels)) if i not in channels]
        return list(range(0 if self.scope == "batch" else 1, len(labels)))

    def _rescale(self, op: Builder, v: ir.Value, labels: Labels, channels: list[int]) -> ir.Value:
        if self.rescale == "none":
            return v
        axes = self._axes(labels, channels)
        if self.sign == "signed":
            return op.Div(v, op.Add(op.ReduceMax(op.Abs(v), axes, keepdims=1), TINY))
        top = op.ReduceMax(v, axes, keepdims=1)
        if self.rescale == "max":
            return op.Div(v, op.Add(top, TINY))
        low = op.ReduceMin(v, axes, keepdims=1)
        return op.Div(op.Sub(v, low), op.Add(op.Sub(top, low), EPSILON))

    def _per_channel(self, op: Builder, a: ir.Value, c: ir.Value | None, labels: Labels) -> ir.Value | Deferred | None:
        """The same for a bias that is one number per channel, or none, without a tensor of products.

        |a c| = |a| |c|: its extremes are those of |a| per channel times |c|, its channel sum is a matrix
        product with |c|, and rescaling commutes with the sum.
        """
        full, part = dims(a), None if c is None else dims(c)
        if full is None or not isinstance(full[1], int):
            return None
        if c is not None:
            if part is None or len(full) - len(part) > 1:
                return None
            if constant_axes(part, full) != list(range(2, len(full))):
                return None
        count = full[1]
        flat = op.Abs(op.Reshape(a, [0, count, -1]))
        weights = op.constant(np.ones((1, count, 1)), a.dtype) if c is None else op.Reshape(op.Abs(c), [1, -1, 1])
        total = op.MatMul(op.Reshape(weights, [1, count]), flat)
        if self.rescale == "none":
            return _unflattened(op, total, a)

        def extreme(reduced: Callable[..., ir.Value]) -> ir.Value:
            if c is None:
                return reduced(flat, [1, 2], keepdims=1)
            return reduced(op.Mul(reduced(flat, [2], keepdims=1), weights), [1], keepdims=1)

        top = extreme(op.ReduceMax)
        if self.rescale == "max":
            return _unflattened(op, op.Div(total, op.Add(top, TINY)), a)
        return Deferred(total, top, extreme(op.ReduceMin), count)


def _unflattened(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """``[N, 1, P]`` with the places of ``like``, ``[N, C, places...]``."""
    sizes = (dims(like) or ())[2:]
    if sum(not isinstance(d, int) for d in sizes) <= 1:
        return op.Reshape(value, [0, *[d if isinstance(d, int) else -1 for d in sizes]])
    return op.Reshape(value, op.Concat([0], op.Slice(op.Shape(like), [2], [2 + len(sizes)]), axis=0))


class MapSum:
    """Sums maps of several resolutions at the attributed input's own.

    Args:
        op: Where to emit.
        source: The attributed input.
        labels: Its axes.
        align_corners: Coordinate convention of the upsampling.
        conserve: Let every map keep its sum instead of its values.
        gathering: Where layers' sums and extremes are put, for who puts something else there too.
    """

    def __init__(
        self,
        op: Builder,
        source: ir.Value,
        labels: Labels,
        align_corners: bool,
        conserve: bool = False,
        gathering: Gathering | None = None,
    ) -> None:
        self.op = op
        self.conserve = conserve
        self.source = source
        self.axes = list(spatial_axes(labels).values())
        self.names = list(spatial_axes(labels))
        self.align_corners = align_corners
        self._gathering = Gathering(op) if gathering is None else gathering
        self._groups: dict[tuple[object, ...], list[ir.Value]] = {}
        self._deferred: dict[tuple[object, ...], tuple[list[Deferred], ir.Value]] = {}
        self._offsets: list[ir.Value] = []

    def add(self, value: ir.Value | Deferred, like: ir.Value, labels: Labels) -> None:
        """Add a map ``[N, places...]`` made from ``like``."""
        order = [name for name in spatial_axes(labels) if name in self.names]
        if isinstance(value, Deferred):
            if order == self.names:
                self._defer(value, like, self._key(like, labels))
                return
            value = self._rescaled([value], value.total, value.top, value.low, like)
        if order != self.names:
            perm = [0, *[1 + order.index(name) for name in self.names]]
            value = self.op.Transpose(value, perm=perm)
        self._groups.setdefault(self._key(like, labels), []).append(value)

    def _key(self, like: ir.Value, labels: Labels) -> tuple[object, ...]:
        """Resolution of a map, or something unique where it is not known."""
        places, known = spatial_axes(labels), dims(like)
        sizes = tuple(known[places[name]] if known is not None else None for name in self.names)
        return sizes if None not in sizes else (object(),)

    def _defer(self, layer: Deferred, like: ir.Value, key: tuple[object, ...]) -> None:
        self._deferred.setdefault(key, ([], like))[0].append(layer)
        places = _count(key)
        if places is not None:
            self._gathering.put(("total", key), layer.total, places)
        self._gathering.put(("top", key), layer.top, 1)
        self._gathering.put(("low", key), layer.low, 1)

    def _settle(self, key: tuple[object, ...], layers: list[Deferred], like: ir.Value) -> ir.Value:
        """What was deferred at one resolution."""
        found, places = self._gathering.hand_out(), _count(key)
        if places is not None:
            total = self.op.Reshape(found["total", key], [0, len(layers), places])
        else:
            total = layers[0].total if len(layers) == 1 else self.op.Concat(*(d.total for d in layers), axis=1)
        return self._rescaled(layers, total, found["top", key], found["low", key], like)

    def _rescaled(
        self, layers: list[Deferred], total: ir.Value, top: ir.Value, low: ir.Value, like: ir.Value
    ) -> ir.Value:
        """Rescale and sum the layers of one resolution: a matrix product; what is constant goes to the offsets.

        Args:
            layers: The layers.
            total: ``[N, layers, P]``.
            top, low: ``[N, 1, layers]``.
            like: A tensor with the places.
        """
        op = self.op
        scale = op.Reciprocal(op.Add(op.Sub(top, low), EPSILON))
        counts = op.constant([float(d.channels) for d in layers], like.dtype)
        self._offsets.append(op.ReduceSum(op.Mul(op.Mul(low, scale), counts), [1, 2], keepdims=0))
        return _unflattened(op, op.MatMul(scale, total), like)

    def finish(self) -> ir.Value | None:
        """The sum, ``[N, places...]``; None when nothing was added."""
        op = self.op
        for size, (layers, like) in self._deferred.items():
            self._groups.setdefault(size, []).append(self._settle(size, layers, like))
        known = dims(self.source)
        target = tuple(known[a] if known is not None else None for a in self.axes)
        total: list[ir.Value] = []
        for key, maps in self._groups.items():
            value = maps[0] if len(maps) == 1 else op.Sum(*maps) if len(maps) > 2 else op.Add(*maps)
            total.append(value if key == target else self._upsample(value))
        if not total:
            return None
        result = total[0] if len(total) == 1 else op.Sum(*total)
        if self._offsets:
            offset = self._offsets[0] if len(self._offsets) == 1 else op.Sum(*self._offsets)
            result = op.Sub(result, op.Reshape(offset, [-1] + [1] * len(self.axes)))
        result.shape = ir.Shape([known[0] if known is not None else None, *target])
        return result

    def _upsample(self, value: ir.Value) -> ir.Value:
        """Bilinear (linear, trilinear), over a channel axis of one."""
        op = self.op
        if self.conserve:
            return spread(op, value, [size_of(op, self.source, a) for a in self.axes], self.align_corners)
        # One spatial axis goes through as a picture of height one: that is the form that runtimes have.
        lead = [1, 2] if len(self.axes) == 1 else [1]
        shaped = op.Unsqueeze(value, lead)
        first = 1 + len(lead)
        shape = op.Shape(self.source)
        parts = [op.Slice(shape, [a], [a + 1]) for a in self.axes]
        whole = op.Concat(op.Slice(op.Shape(shaped), [0], [first]), *parts, axis=0)
        mode = "align_corners" if self.align_corners else "pytorch_half_pixel"
        resized = op.Resize(shaped, None, None, whole, mode="linear", coordinate_transformation_mode=mode)
        return op.Squeeze(resized, lead)


def _count(sizes: tuple[object, ...]) -> int | None:
    """Number of places; None where a size is not a number."""
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None
