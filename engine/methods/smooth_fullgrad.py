"""Smooth FullGrad: full-gradient terms summed over noisy copies of the input before they become a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import STAGING_BYTES, Parts, Plan, Run, method
from onnxplain.engine.methods.fullgrad_family import FullGradient, layer_of
from onnxplain.engine.noise import add_by_sample, noisy_blocks
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.psi import MapSum, Psi
from onnxplain.engine.shipping.copies import noisy_points
from onnxplain.engine.shipping.turns import summed
from onnxplain.engine.upsample import upsampled


@method("smooth_fullgrad")
class SmoothFullGrad(FullGradient):
    """Sums of ``gradient x input`` (over channels, too) and of every bias term over Gaussian copies; then psi.

    The noise's width is a share of each sample's own range, where the authors' code takes the whole batch's: so a
    row of a batch is what it is alone. The target is the clean input's. Nothing adds up: there is no residual.

    Args:
        draws: Noisy copies per sample.
        spread: Standard deviation of the noise, as a share of the sample's range.
        sign: What psi makes of a summed term first: ``abs``, ``pos``, ``neg`` or ``signed``.
        rescale: ``minmax``, ``max`` or ``none``.
        scope: What is rescaled together: ``layer``, ``channel`` or ``batch`` (which mixes samples).
        align_corners: How maps are upsampled.
        bias_granularity: ``op``: every operator's bias by itself; ``block``: BatchNormalization is folded first.
        layers: Only nodes whose names match one of these patterns are drawn; all by default.
        include_input: Whether the input term is drawn.
    """

    summary: ClassVar[str] = "full-gradient terms summed over noisy copies of the input"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv 1905.00780; the authors' code"
    axioms: ClassVar[frozenset[str]] = frozenset({"dummy", "linearity"})
    walks: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {"draws": 5}

    draws: int = 25
    spread: float = 0.15
    sign: str = "abs"
    rescale: str = "minmax"
    scope: str = "layer"
    align_corners: bool = True
    bias_granularity: str = "op"
    layers: tuple[str, ...] = ()
    include_input: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise OptionError(f"draws={self.draws} must be at least 1")
        if not 0 <= self.spread < np.inf:
            raise OptionError(f"spread={self.spread} is not possible; give a share of the input's range, such as 0.15")

    def build(self, plan: Plan) -> None:
        products, layers = self._layers(plan)
        for subject in plan.subjects:
            plan.output(f"attribution/{subject.name}", products[subject.name], subject.value.shape)
        plan.memo["layers"] = {}
        for i, (value, labels) in layers.items():
            plan.output(f"layer/{i}", value, value.shape)
            plan.memo["layers"][f"layer/{i}"] = labels

    def _layers(self, plan: Plan) -> tuple[dict[str, ir.Value], dict[int, tuple[ir.Value, Labels]]]:
        """Emit the products input x gradient, and the terms that are drawn, with their axes."""
        products, terms = self.decompose(plan)
        if len(plan.subjects) != 1:
            return products, {}
        op = plan.rewriter.op
        return products, {i: layer_of(terms[i], op).value(op) for i in sorted(self.chosen(terms))}

    def ship(self, plan: Plan) -> None:
        op = plan.rewriter.op
        products, layers = self._layers(plan)
        wanted = [*products.values(), *(value for value, _ in layers.values())]
        at = noisy_points(plan, self.draws, self.spread)
        sums = summed(plan, self.draws, at, wanted, lambda turn: [turn.of(v) for v in wanted], wanted)
        for (name, product), total in zip(products.items(), sums, strict=False):
            plan.output(f"attribution/{name}", op.Mul(total, 1.0 / self.draws), product.shape)
        if len(plan.subjects) != 1:
            return
        subject = plan.subjects[0]
        drawing = MapSum(op, subject.value, subject.labels, self.align_corners)
        psi = Psi(self.sign, self.rescale, self.scope)
        found = list(zip(sums[1:], (labels for _, labels in layers.values()), strict=True))
        if self.include_input:
            places = list(spatial_axes(subject.labels).values())
            channels = [i for i in range(1, len(subject.labels)) if i not in places]
            total = op.ReduceSum(sums[0], channels, keepdims=0) if channels else sums[0]
            known = dims(sums[0])
            total.shape = None if known is None else ir.Shape([known[i] for i in (0, *places)])
            found.insert(0, (total, ("batch", *(subject.labels[i] for i in places))))
        for total, labels in found:
            drawing.add(psi.apply(op, total, None, labels), total, labels)
        result = drawing.finish()
        if result is not None:
            plan.output("map", result, None)

    def reduce(self, run: Run) -> Parts:
        names = {f"attribution/{n}": n for n in run.x}
        keys = [*names, *run.memo["layers"]]
        sums = {k: np.zeros(run.outputs[k].shape, dtype=np.float64) for k in keys}
        # What a block of copies brings back is far more than what it takes.
        taken, given = (sum(a.nbytes for a in part) for part in (run.x.values(), (run.outputs[k] for k in keys)))
        budget = int(STAGING_BYTES * min(1.0, taken / max(given, 1)))
        for points, samples in noisy_blocks(run.x, self.draws, self.spread, run.seed, budget):
            found = run.evaluate(points, samples, keys)
            for key in keys:
                add_by_sample(sums[key], samples, found[key])
        attributions = {n: (sums[k] / self.draws).astype(run.x[n].dtype) for k, n in names.items()}
        saliency = None
        if len(run.x) == 1:
            ((name, x),) = run.x.items()
            saliency = self._map(run, sums, name).astype(x.dtype)
        return Parts(attributions, saliency, signed=self.sign == "signed")

    def _map(self, run: Run, sums: dict[str, Array], name: str) -> Array:
        """Psi of every summed layer, at the input's places; the input term without its channels, as the authors do."""
        labels = run.labels[name]
        wanted = spatial_axes(labels)
        product = sums[f"attribution/{name}"]
        channels = tuple(i for i in range(1, product.ndim) if i not in wanted.values())
        sizes = {i: product.shape[axis] for i, axis in enumerate(wanted.values(), start=1)}
        total = np.zeros((len(product), *sizes.values()))
        psi = Psi(self.sign, self.rescale, self.scope)
        if self.include_input:
            total += psi.of(product.sum(axis=channels), ("batch", *wanted))
        for key, found in run.memo["layers"].items():
            total += upsampled(_ordered(psi.of(sums[key], found), found, list(wanted)), sizes, self.align_corners)
        return total


def _ordered(maps: Array, labels: Labels, wanted: list[str]) -> Array:
    """Maps with their places in the input's order."""
    order = [name for name in spatial_axes(labels) if name in wanted]
    return maps.transpose(0, *(1 + order.index(name) for name in wanted))
