"""What methods share that travel along a path of inputs and attribute to a layer inside the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.layers import inner_layer
from onnxplain.engine.method import Parts, Plan, Run, reduce_channels
from onnxplain.engine.methods.path_family import PathMethod
from onnxplain.engine.paths import StraightPath, convergence, visit
from onnxplain.engine.places import spatial_axes
from onnxplain.engine.shipping.layers import Along, ship_layer
from onnxplain.engine.upsample import upsampled

#: Graph outputs: the layer's values and the score's gradient with respect to them.
VALUE, GRADIENT = "layer_value", "layer_gradient"


class LayerMethod(PathMethod):
    """Attributions in the layer's shape; the map is drawn over the input's places, as class activation maps are."""

    #: Whether attributions sum to the change of the score where the layer separates it from the input.
    sums: ClassVar[bool] = True

    layer: str = ""
    steps: int = 50
    baseline: Any = "zero"
    reduction: str = "sum"

    def shipped(self, along: Along) -> ir.Value:
        """Emit the attributions along one line, for a file."""
        raise NotImplementedError

    def ship(self, plan: Plan) -> None:
        found = inner_layer(plan, self.layer)
        gradient = plan.rewriter.backward(plan.seed, [found.value]).of[found.value]
        complete = self.sums and found.separates
        ship_layer(plan, found, gradient, self.baseline, self.reduction, self.shipped, complete)

    def build(self, plan: Plan) -> None:
        found = inner_layer(plan, self.layer)
        plan.adjoints = plan.rewriter.backward(plan.seed, [found.value])
        plan.memo.update(layer=found.name, labels=found.labels, separates=found.separates, reason=found.reason)
        plan.output(VALUE, found.value)
        plan.output(GRADIENT, plan.adjoints.of[found.value])

    def stretches(
        self, run: Run, start: dict[str, Array], samples: Array, alphas: Array
    ) -> Iterator[tuple[slice, Array, Array, Array]]:
        """Along the straight line of inputs: rows, numbers of the points, values and gradients ``[S, G, ...]``."""
        if len(run.outputs[VALUE]) != len(run.score):
            raise OptionError(f"layer '{run.memo['layer']}' has no batch axis in front; name another one with layer=")
        path = StraightPath(run.x, start, alphas, np.zeros(len(alphas)))
        for rows, numbers in path.blocks(run, samples):
            points, _ = path.points(numbers, samples[rows])
            found = visit(run, points, samples[rows], [VALUE, GRADIENT])
            yield rows, numbers, found[VALUE], found[GRADIENT]

    def parts(self, run: Run, attributions: dict[str, Array], baseline_score: Array, notes: list[str]) -> Parts:
        ((name, array),) = attributions.items()
        saliency = self._drawn(run, array)
        residual = convergence(attributions, run.score - baseline_score, self.accepted) if self.complete(run) else None
        return Parts(
            {name: array.astype(run.outputs[VALUE].dtype)},
            saliency,
            residual=residual,
            baseline_score=baseline_score,
            signed=self.reduction == "sum",
            notes=[run.memo["reason"], *notes],
        )

    def _drawn(self, run: Run, array: Array) -> Array | None:
        """The map over the input's places, where there is one input and the layer still has its places."""
        labels = run.memo["labels"]
        places = spatial_axes(labels)
        (name, x), *others = run.x.items()
        wanted = spatial_axes(run.labels[name])
        if others or not places or list(places) != list(wanted):
            return None
        coarse = reduce_channels(array, labels, self.reduction)
        sizes = {axis: x.shape[wanted[place]] for axis, place in enumerate(places, start=1)}
        return upsampled(coarse, sizes, align_corners=True).astype(np.float32)

    def complete(self, run: Run) -> bool:
        """Whether the attributions sum to the change of the score."""
        return self.sums and bool(run.memo["separates"])
