"""Attributions of a layer inside the model along the straight line of inputs, inside a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.layers import InnerLayer
from onnxplain.engine.method import Plan, reduced
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.psi import MapSum
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.routes import line
from onnxplain.engine.shipping.travel import mean
from onnxplain.engine.shipping.turns import At, Turn, at_points, left_over, over_turns, score_at, summed, zeros


@dataclass(frozen=True)
class Along:
    """What is gathered at a layer along the line from one baseline.

    Attributes:
        plan: The graph.
        value, gradient: The layer's values at the input, and the score's gradient with respect to them.
        start: The baseline, per subject.
    """

    plan: Plan
    value: ir.Value
    gradient: ir.Value
    start: dict[str, ir.Value]

    def influence(self, alphas: Any, weights: Any) -> ir.Value:
        """Weighted sum of the gradients at points of the line."""
        by_weight = self.plan.rewriter.op.constant(np.asarray(weights), self.value.dtype)

        def add(turn: Turn) -> list[ir.Value]:
            return [turn.op.Mul(turn.of(self.gradient), turn.pick(by_weight))]

        (total,) = summed(self.plan, len(alphas), self._at(alphas), [self.gradient], add, [self.value])
        return total

    def conductance(self, steps: int) -> ir.Value:
        """Integral of the gradient along the curve that the layer's values take, by the trapezoidal rule."""
        wanted = [self.value, self.gradient]

        def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
            op, (total, value, gradient) = turn.op, turn.states
            here, slope = (turn.of(v) for v in wanted)
            part = op.Mul(op.Sub(here, value), op.Mul(op.Add(slope, gradient), 0.5))
            return [op.Add(total, part), here, slope], []

        first = at_points(self.plan, self.start, wanted)
        for value in first:
            value.shape = self.value.shape
        starts = [zeros(self.plan, self.value), *first]
        return over_turns(self.plan, steps, self._at(np.arange(1, steps + 1) / steps), wanted, step, starts)[0]

    def _at(self, alphas: Any) -> At:
        return line(self.plan, self.start, alphas)[1]


def ship_layer(
    plan: Plan,
    layer: InnerLayer,
    gradient: ir.Value,
    baseline: Any,
    reduction: str,
    gather: Callable[[Along], ir.Value],
    complete: bool,
) -> None:
    """Emit attributions in the layer's shape, averaged over baselines, their map and what their sum leaves over.

    Args:
        plan: The graph.
        layer: The layer.
        gradient: Of the score with respect to it, at the input.
        baseline: See :func:`onnxplain.engine.shipping.baselines.shipped_baselines`.
        reduction: Of channels, for the map.
        gather: Emits the attributions along one line.
        complete: Whether they sum to the change of the score.
    """
    op = plan.rewriter.op
    gradient.shape = layer.value.shape
    starts = shipped_baselines(plan, baseline)
    found = mean(op, [gather(Along(plan, layer.value, gradient, one)) for one in starts])
    found.shape = layer.value.shape
    plan.output(f"attribution/{layer.name}", found, layer.value.shape)
    if complete:
        low = mean(op, [score_at(plan, one) for one in starts])
        left_over(plan, op.Sub(plan.seed.score, low), [found])
    subject, *others = plan.subjects
    if (
        others
        or not spatial_axes(layer.labels)
        or list(spatial_axes(layer.labels)) != list(spatial_axes(subject.labels))
    ):
        return
    total = MapSum(op, subject.value, subject.labels, align_corners=True)
    total.add(reduced(op, found, layer.labels, reduction), found, layer.labels)
    result = total.finish()
    if result is not None:
        plan.output("saliency", result, None)
