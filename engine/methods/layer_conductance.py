"""Conductance of a layer: how the change of the score flows through its units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run, method
from onnxplain.engine.methods.layer_family import LayerMethod
from onnxplain.engine.methods.path_family import TOLERANCE, Found, at_least_one, refined, steps_note
from onnxplain.engine.shipping.layers import Along


@method("layer_conductance")
class LayerConductance(LayerMethod):
    """``integral of df/dy * dy/d alpha d alpha`` per unit y of a layer, along the straight line of inputs.

    The integral runs along the curve that the layer's values take, by the trapezoidal rule over its points.
    Where every way from input to score leads through the layer it sums to f(x) - f(x').

    Args:
        layer: Name of a tensor or node; by default the last feature map, without places the last hidden layer.
        steps: Intervals to begin with.
        baseline: Of the inputs: see :mod:`onnxplain.engine.baselines`; several are averaged.
        tolerance: Relative convergence delta to reach by doubling the steps; None: no doubling. A layer
            beside which the score depends on the input has no delta, and keeps the steps asked for.
        max_steps: Where doubling ends.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "how much of the score's change flows through each unit of a layer"
    source: ClassVar[str] = "Dhamdhere, Sundararajan and Yan 2018, arXiv 1805.12233, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness"})
    quick: ClassVar[Mapping[str, Any]] = {"steps": 20, "tolerance": None}

    layer: str = ""
    steps: int = 50
    baseline: Any = "zero"
    tolerance: float | None = 0.01
    max_steps: int = 800
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "max_steps")
        if self.tolerance is not None and not self.tolerance > 0:
            raise OptionError(f"tolerance={self.tolerance} must be positive, or None for no doubling")

    @property
    def accepted(self) -> float:
        return self.tolerance or TOLERANCE

    def shipped(self, along: Along) -> ir.Value:
        return along.conductance(self.steps)

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        def integral(samples: Array, steps: int) -> dict[str, Array]:
            return {run.memo["layer"]: self._integrate(run, start, samples, steps)}

        tolerance = self.tolerance if self.complete(run) else None
        found, used = refined(integral, change, self.steps, tolerance, self.max_steps)
        return Found(found, steps_note(used, self.steps))

    def _integrate(self, run: Run, start: dict[str, Array], samples: Array, steps: int) -> Array:
        total: Array | None = None
        last: tuple[Array, Array] | None = None
        for rows, numbers, values, gradients in self.stretches(run, start, samples, np.arange(steps + 1) / steps):
            if total is None:
                total = np.zeros((len(samples), *values.shape[2:]))
            if numbers[0] > 0 and last is not None:
                values, gradients = (np.concatenate(pair) for pair in zip(last, (values, gradients), strict=True))
            between = 0.5 * (gradients[1:] + gradients[:-1])
            total[rows] += np.einsum("sg...,sg...->g...", between, np.diff(values, axis=0))
            last = values[-1:], gradients[-1:]
        assert total is not None
        return total
