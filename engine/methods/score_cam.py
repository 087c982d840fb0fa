"""Score-CAM: feature maps weighted by the score that the input gets when it is seen through each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.cam import choose_layer
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.masks import score_blocks
from onnxplain.engine.method import Method, Parts, Plan, Run, choose, method
from onnxplain.engine.methods.cam_family import only_subject
from onnxplain.engine.paths import baseline_sets
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.shipping.channels import ship_score_cam
from onnxplain.engine.shipping.variants import one_baseline
from onnxplain.engine.upsample import upsampled

WEIGHTS = ("softmax", "increase")


@method("score_cam")
class ScoreCAM(Method):
    """``relu(sum_k w_k A^k)`` at one layer; the weights come from forward passes, a pass per channel.

    Each channel of the layer, enlarged to the input and spread to 0..1, is a mask over the input. With
    ``weights="softmax"``, as in the paper, w is the softmax over channels of the scores under the masks; the
    score of the baseline would be the same in all of them and falls out. ``"increase"`` takes the increase over
    the baseline's score itself, which may be negative and needs no channel to win. Channels that are constant
    make no mask and get 0. Attributions are those of the layer: weight times activation.

    Args:
        layer: Name of the tensor or node; by default the last feature map before the places are lost.
        weights: ``softmax`` or ``increase``.
        baseline: What the masks hide the input with: see :mod:`onnxplain.engine.baselines`.
        channels: At most this many of the layer's channels, those that vary most over places; by default all.
        relu: Whether negative places of the map are set to zero.
        align_corners: How masks and map are upsampled.
    """

    summary: ClassVar[str] = "feature maps weighted by the score behind each as a mask; forward passes alone"
    source: ClassVar[str] = "Wang et al. 2020, arXiv 1910.01279, section 3"
    walks: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {"channels": 64}

    layer: str = ""
    weights: str = "softmax"
    baseline: Any = "zero"
    channels: int | None = None
    relu: bool = True
    align_corners: bool = False

    def __post_init__(self) -> None:
        choose("weights", self.weights, WEIGHTS)
        if self.channels is not None and self.channels < 1:
            raise OptionError(f"channels={self.channels} must be at least 1, or None for all")

    @property
    def forward_only(self) -> bool:
        return True

    def build(self, plan: Plan) -> None:
        subject = only_subject(plan)
        layer = choose_layer(plan.rewriter, subject.value, subject.labels, plan.seed.explained, self.layer)
        where = spatial_axes(layer.labels)
        order = [where[name] for name in spatial_axes(subject.labels)]
        plan.memo.update(layer=layer.value.name, reason=layer.reason, places=order)
        value = layer.unfolded(plan.rewriter.op, layer.value)
        plan.output("layer", value, value.shape)

    def ship(self, plan: Plan) -> None:
        subject = only_subject(plan)
        layer = choose_layer(plan.rewriter, subject.value, subject.labels, plan.seed.explained, self.layer)
        away = one_baseline(plan, self.baseline)
        ship_score_cam(plan, layer, away, self.channels, self.weights == "softmax", self.relu, self.align_corners)

    def reduce(self, run: Run) -> Parts:
        sets = baseline_sets(self.baseline, run)
        if len(sets) != 1:
            raise OptionError(f"baseline={self.baseline!r} stands for {len(sets)} baselines; give one")
        maps, shape = self._maps(run)
        chosen = [self._chosen(rows) for rows in maps]
        scores = self._scores(run, maps, chosen, sets[0])
        weights = np.zeros(maps.shape[:2])
        for n, found in enumerate(scores):
            weights[n, chosen[n]] = self._weights(found)
        if self.weights == "increase":
            empty = np.asarray(run.evaluate(sets[0], np.arange(len(maps)), ["score"])["score"], dtype=np.float64)
            for n, numbers in enumerate(chosen):
                weights[n, numbers] -= empty.reshape(-1)[n]
        product = weights.reshape(*maps.shape[:2], *[1] * (maps.ndim - 2)) * maps
        drawing = product.sum(axis=1)
        (name,) = run.x
        sizes = [run.x[name].shape[a] for a in spatial_axes(run.labels[name]).values()]
        drawing = np.maximum(drawing, 0.0) if self.relu else drawing
        drawing = upsampled(drawing, {1 + i: size for i, size in enumerate(sizes)}, self.align_corners)
        attribution = np.moveaxis(product.reshape(shape), self._moved(run, len(shape)), run.memo["places"])
        dtype = run.outputs["layer"].dtype
        count = max(len(numbers) for numbers in chosen)
        return Parts(
            {run.memo["layer"]: attribution.astype(dtype)}, drawing.astype(dtype), signed=not self.relu,
            notes=[run.memo["reason"], f"{count} channels, one forward pass each"],
        )  # fmt: skip

    @staticmethod
    def _moved(run: Run, rank: int) -> list[int]:
        """Where the places stand once they are moved to the end."""
        count = len(run.memo["places"])
        return list(range(rank - count, rank))

    def _maps(self, run: Run) -> tuple[Array, tuple[int, ...]]:
        """``[N, K, places...]`` in the input's order of places, and the shape before channels were joined."""
        layer = run.outputs["layer"].astype(np.float64)
        moved = np.moveaxis(layer, run.memo["places"], self._moved(run, layer.ndim))
        sizes = moved.shape[layer.ndim - len(run.memo["places"]) :]
        return moved.reshape(len(layer), -1, *sizes), moved.shape

    def _chosen(self, maps: Array) -> Array:
        """Numbers of the channels of one sample that make masks, ascending."""
        flat = maps.reshape(len(maps), -1)
        varied = np.flatnonzero(flat.max(axis=1) > flat.min(axis=1))
        if self.channels is None or len(varied) <= self.channels:
            return varied
        order = np.argsort(-flat[varied].std(axis=1), kind="stable")
        return np.sort(varied[order[: self.channels]])

    def _scores(self, run: Run, maps: Array, chosen: list[Array], baseline: dict[str, Array]) -> list[Array]:
        (name,) = run.x
        x = run.x[name]
        axes = list(spatial_axes(run.labels[name]).values())
        sizes = {i: x.shape[a] for i, a in enumerate(axes)}
        # In the order of the input's own axes, with size one along its channels.
        shape = [x.shape[a] if a in axes else 1 for a in range(1, x.ndim)]

        def change(point: dict[str, Array], sample: int, turn: int) -> None:
            mask = upsampled(maps[sample, chosen[sample][turn]], sizes, self.align_corners)
            low, high = mask.min(), mask.max()
            mask = ((mask - low) / (high - low if high > low else 1.0)).reshape(shape)
            away = baseline[name][sample]
            point[name][...] = away + mask * (point[name] - away)

        result = [np.zeros(len(numbers)) for numbers in chosen]
        for samples, turns, scores in score_blocks(run, np.array([len(c) for c in chosen]), change):
            for sample, turn, score in zip(samples.tolist(), turns.tolist(), scores.tolist(), strict=True):
                result[sample][turn] = score
        return result

    def _weights(self, scores: Array) -> Array:
        if self.weights == "increase" or not len(scores):
            return scores
        raised = np.exp(scores - scores.max())
        return np.asarray(raised / raised.sum())
