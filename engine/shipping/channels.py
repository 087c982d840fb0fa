"""Score-CAM inside a graph: each channel of a layer as a mask over the input, a turn of the loop each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.cam import Layer
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layout import END, reshape_like
from onnxplain.engine.method import Plan
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.psi import MapSum
from onnxplain.engine.shipping.turns import Points, score_at
from onnxplain.engine.shipping.variants import scores_of


class Channels:
    """The channels of a layer, in one axis in front of its places, which stand in the input's order.

    Args:
        plan: The graph.
        layer: The layer.
        most: At most this many make masks, those that vary most over places; None: all.
        align_corners: How they are upsampled.

    Attributes:
        maps: ``[N, K, places...]``.
        chosen: ``[N, k, places...]``: those that make masks.
        varied: ``[N, k]``: whether they vary at all.
    """

    def __init__(self, plan: Plan, layer: Layer, most: int | None, align_corners: bool) -> None:
        self.plan, self.layer, self.align_corners = plan, layer, align_corners
        op, self.subject = plan.rewriter.op, plan.subjects[0]
        where = spatial_axes(layer.labels)
        self.names = list(spatial_axes(self.subject.labels))
        places = [where[name] for name in self.names]
        self.order = [0, *layer.channels, *places]
        value = layer.unfolded(op, layer.value)
        known = dims(value) or (None,) * len(self.order)
        self.sizes = [known[i] for i in places]
        self.moved = op.Transpose(value, perm=self.order)
        self.moved.shape = ir.Shape([known[i] for i in self.order])
        last = op.Slice(op.Shape(self.moved), [-len(places)], [END])
        self.maps = op.Reshape(self.moved, op.Concat([0, -1], last, axis=0))
        flat = op.Reshape(self.maps, [0, 0, -1])
        varied = op.Greater(op.ReduceMax(flat, [2], keepdims=0), op.ReduceMin(flat, [2], keepdims=0))
        sizes = [d for i in layer.channels if isinstance(d := known[i], int)]
        #: How many make masks, where the graph tells.
        self.count = math.prod(sizes) if len(sizes) == len(layer.channels) else None
        if self.count is not None and most is not None:
            self.count = min(self.count, most)
        self.chosen, self.varied = self.maps, varied
        self.picked: ir.Value | None = None
        if most is not None:
            self._choose(op, flat, varied, most)

    def _choose(self, op: Builder, flat: ir.Value, varied: ir.Value, most: int) -> None:
        away = op.Sub(flat, op.ReduceMean(flat, [2], keepdims=1))
        spread = op.ReduceMean(op.Mul(away, away), [2], keepdims=0)
        count = op.Shape(flat, start=1, end=2)
        some = op.Min(count, op.constant([most], ir.DataType.INT64))
        _, numbers = op.emit("TopK", [op.Where(varied, spread, -1.0), some], outputs=2, axis=1)
        zero, one = (op.constant(i, ir.DataType.INT64) for i in (0, 1))
        every = op.Range(zero, op.Squeeze(count, [0]), one)
        kind = flat.dtype or ir.DataType.FLOAT
        # Rows that pick a channel each: products with them gather, and bring weights back.
        self.picked = op.Cast(op.Equal(op.Unsqueeze(numbers, [2]), every), to=kind.value)
        places = op.Slice(op.Shape(self.maps), [2], [END])
        self.chosen = op.Reshape(op.MatMul(self.picked, flat), op.Concat([0, -1], places, axis=0))
        self.varied = op.Greater(
            op.Squeeze(op.MatMul(self.picked, op.Unsqueeze(op.Cast(varied, to=kind.value), [2])), [2]), 0.5
        )

    def scores(self, away: ir.Value) -> ir.Value:
        """``[N, k]``: the score of the input behind each mask.

        Args:
            away: What the masks hide it with.
        """
        op = self.plan.rewriter.op
        count = self.count if self.count is not None else op.Squeeze(op.Shape(self.chosen, start=1, end=2), [0])

        def at(inner: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
            mask = self._mask(inner, inner.Gather(self.chosen, turn, axis=1))
            x = self.subject.value
            return {self.subject.name: inner.Add(away, inner.Mul(mask, inner.Sub(x, away)))}

        return op.Transpose(scores_of(self.plan, count, at), perm=[1, 0])

    def _mask(self, op: Builder, channel: ir.Value) -> ir.Value:
        """A channel at the input's places, spread to 0..1, with the input's number of axes."""
        large = self.enlarged(op, channel)
        places = sorted(spatial_axes(self.subject.labels).values())
        axes = list(range(1, len(places) + 1))
        low, high = op.ReduceMin(large, axes, keepdims=1), op.ReduceMax(large, axes, keepdims=1)
        size = op.Sub(high, low)
        mask = op.Div(op.Sub(large, low), op.Where(op.Greater(size, 0.0), size, 1.0))
        order = list(spatial_axes(self.subject.labels).values())
        if order != places:
            mask = op.Transpose(mask, perm=[0, *(1 + order.index(a) for a in places)])
        channels = [a for a in range(1, len(self.subject.labels)) if a not in places]
        return op.Unsqueeze(mask, channels) if channels else mask

    def enlarged(self, op: Builder, value: ir.Value) -> ir.Value:
        """``[N, places...]`` at the input's places."""
        value.shape = ir.Shape([None, *self.sizes])
        labels: Labels = ("batch", *self.names)
        total = MapSum(op, self.subject.value, self.subject.labels, self.align_corners)
        total.add(value, value, labels)
        result = total.finish()
        assert result is not None, "a map was added"
        return result

    def weights(self, found: ir.Value) -> ir.Value:
        """Weights ``[N, k]`` of the chosen channels as ``[N, K, 1...]`` of all of them; the others get 0."""
        op = self.plan.rewriter.op
        found = op.Where(self.varied, found, 0.0)
        if self.picked is not None:
            found = op.Squeeze(op.MatMul(op.Unsqueeze(found, [1]), self.picked), [1])
        return op.Unsqueeze(found, list(range(2, 2 + len(self.names))))

    def back(self, product: ir.Value) -> ir.Value:
        """``[N, K, places...]`` with the layer's own axes."""
        op = self.plan.rewriter.op
        made = reshape_like(op, product, self.moved)
        return op.Transpose(made, perm=[self.order.index(i) for i in range(len(self.order))])


def ship_score_cam(
    plan: Plan, layer: Layer, away: dict[str, ir.Value], most: int | None, softmax: bool, relu: bool, align: bool
) -> None:
    """Emit weight times activation at the layer, and the map.

    Args:
        plan: The graph.
        layer: The layer.
        away: What masks hide the input with, per subject.
        most: At most this many channels make masks.
        softmax: Whether weights are the softmax over scores; else their increase over the score of ``away``.
        relu: Whether negative places of the map are set to zero.
        align: How masks and map are upsampled.
    """
    op = plan.rewriter.op
    channels = Channels(plan, layer, most, align)
    scores = channels.scores(away[plan.subjects[0].name])
    if softmax:
        lowest = op.constant(np.finfo((scores.dtype or ir.DataType.FLOAT).numpy()).min, scores.dtype)
        there = op.Where(channels.varied, scores, lowest)
        raised = op.Exp(op.Sub(there, op.ReduceMax(there, [1], keepdims=1)))
        raised = op.Where(channels.varied, raised, 0.0)
        total = op.ReduceSum(raised, [1], keepdims=1)
        weights = op.Div(raised, op.Where(op.Greater(total, 0.0), total, 1.0))
    else:
        weights = op.Sub(scores, op.Unsqueeze(score_at(plan, away), [1]))
    product = op.Mul(channels.weights(weights), channels.maps)
    drawing = op.ReduceSum(product, [1], keepdims=0)
    plan.output("saliency", channels.enlarged(op, op.Relu(drawing) if relu else drawing))
    found = channels.back(product)
    found.shape = layer.unfolded(op, layer.value).shape
    plan.output(f"attribution/{layer.value.name}", found, found.shape)
