"""Conductance of inputs through one neuron, one channel or a whole layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.layers import inner_layer
from onnxplain.engine.method import Parts, Plan, Run, method
from onnxplain.engine.methods.integrated_gradients import Straight
from onnxplain.engine.methods.path_family import Found
from onnxplain.engine.paths import StraightPath, integrate
from onnxplain.engine.quadrature import quadrature
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.routes import StraightRoute
from onnxplain.engine.shipping.travel import integral, ship_along


@method("neuron_conductance")
class NeuronConductance(Straight):
    """``(x - x') * integral of df/dy * dy/dx d alpha``: what of Integrated Gradients flows through neuron y.

    Summed over the inputs it is the neuron's own conductance; summed over the neurons of a layer that
    separates input and score it is Integrated Gradients.

    Args:
        layer: Name of a tensor or node; by default the last feature map, without places the last hidden layer.
        neuron: Index in the layer: a number, or a list of numbers for its axes after the batch; axes that are
            left out are taken whole (``[3]`` is all of channel 3). Nothing: the whole layer.
        steps: Points of the quadrature to begin with.
        quadrature: See :mod:`onnxplain.engine.quadrature`.
        baseline: See :mod:`onnxplain.engine.baselines`; several are averaged.
        tolerance, max_steps: As for ``integrated_gradients``, where a whole layer separates input and score;
            else the attributions sum to nothing known beforehand, and the steps asked for are taken.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "Integrated Gradients through one neuron or channel of a layer"
    source: ClassVar[str] = "Dhamdhere, Sundararajan and Yan 2018, arXiv 1805.12233, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness", "dummy", "linearity"})
    quick: ClassVar[Mapping[str, Any]] = {"steps": 20, "tolerance": None}

    layer: str = ""
    neuron: Any = None
    steps: int = 50
    quadrature: str = "gauss_legendre"
    baseline: Any = "zero"
    tolerance: float | None = 0.01
    max_steps: int = 800
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        indices = self._indices()
        if any(isinstance(i, bool) or not isinstance(i, (int, np.integer)) for i in indices):
            raise OptionError(f"neuron={self.neuron!r} is no index; give a number, or a list of numbers")

    def _indices(self) -> list[Any]:
        if self.neuron is None:
            return []
        return list(self.neuron) if isinstance(self.neuron, (list, tuple, np.ndarray)) else [self.neuron]

    def build(self, plan: Plan) -> None:
        self._walk(plan)
        super().build(plan)

    def ship(self, plan: Plan) -> None:
        self._walk(plan)
        alphas, weights = quadrature(self.quadrature, self.steps)
        routes = [StraightRoute(plan, one, alphas, weights) for one in shipped_baselines(plan, self.baseline)]
        ship_along(plan, routes, integral, self.reduction, complete=plan.memo["whole"])

    def _walk(self, plan: Plan) -> None:
        """Gradients at the inputs by the ways through the neurons."""
        found = inner_layer(plan, self.layer)
        op, subjects = plan.rewriter.op, [s.value for s in plan.subjects]
        above = plan.rewriter.backward(plan.seed, [found.value])
        adjoint = self._only(op, above.of[found.value], found.value)
        adjoint.shape = found.value.shape
        plan.adjoints = plan.rewriter.backward_from({found.value: adjoint}, subjects)
        plan.memo.update(whole=found.separates and not self._indices(), reason=found.reason)

    def _only(self, op: Builder, adjoint: ir.Value, layer: ir.Value) -> ir.Value:
        """The adjoint of the chosen neurons; zero for the others."""
        indices, known = self._indices(), dims(layer)
        if known is None or len(indices) >= len(known):
            raise OptionError(f"neuron={self.neuron!r} has {len(indices)} indices, too many for layer '{layer.name}'")
        for axis, index in enumerate(indices, start=1):
            size = known[axis]
            if isinstance(size, int) and not -size <= index < size:
                raise OptionError(
                    f"neuron={self.neuron!r} is out of range: axis {axis} of layer '{layer.name}' has {size} elements"
                )
            length = op.Gather(op.Shape(layer), axis)
            place = op.constant(int(index), ir.DataType.INT64)
            place = place if index >= 0 else op.Add(length, place)
            zero, one = (op.constant(i, ir.DataType.INT64) for i in (0, 1))
            mask = op.Cast(op.Equal(op.Range(zero, length, one), place), to=(layer.dtype or ir.DataType.FLOAT).value)
            adjoint = op.Mul(adjoint, op.Reshape(mask, [-1, *[1] * (len(known) - 1 - axis)]))
        return adjoint

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        if run.memo["whole"]:
            return super().along(run, start, change)
        path = StraightPath(run.x, start, *quadrature(self.quadrature, self.steps))
        return Found(integrate(run, path, np.arange(len(change))))

    def parts(self, run: Run, attributions: dict[str, Array], baseline_score: Array, notes: list[str]) -> Parts:
        result = super().parts(run, attributions, baseline_score, [run.memo["reason"], *notes])
        if not run.memo["whole"]:
            result.residual = None
        return result
