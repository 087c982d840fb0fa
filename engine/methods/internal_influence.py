"""Internal influence: the mean gradient of the score with respect to a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run, choose, method
from onnxplain.engine.methods.layer_family import LayerMethod
from onnxplain.engine.methods.path_family import Found
from onnxplain.engine.quadrature import RULES, quadrature
from onnxplain.engine.shipping.layers import Along


@method("internal_influence")
class InternalInfluence(LayerMethod):
    """``integral of df/dy d alpha`` per unit y of a layer, along the straight line of inputs.

    The distribution of interest is the line from the baseline to the input. Influences are gradients: they are
    not multiplied by what the unit does, and sum to nothing. Where only a mean over places and a linear layer
    follow, all places have the same influence: name an earlier layer there.

    Args:
        layer: Name of a tensor or node; by default the last feature map, without places the last hidden layer.
        steps: Points of the quadrature.
        quadrature: See :mod:`onnxplain.engine.quadrature`.
        baseline: Of the inputs: see :mod:`onnxplain.engine.baselines`; several are averaged.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "mean gradient of the score with respect to each unit of a layer"
    source: ClassVar[str] = "Leino et al. 2018, arXiv 1802.03788, section 2"
    quick: ClassVar[Mapping[str, Any]] = {"steps": 20}
    sums: ClassVar[bool] = False

    layer: str = ""
    steps: int = 50
    quadrature: str = "gauss_legendre"
    baseline: Any = "zero"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("quadrature", self.quadrature, RULES)

    def shipped(self, along: Along) -> ir.Value:
        return along.influence(*quadrature(self.quadrature, self.steps))

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        alphas, weights = quadrature(self.quadrature, self.steps)
        total: Array | None = None
        for rows, numbers, _, gradients in self.stretches(run, start, np.arange(len(change)), alphas):
            if total is None:
                total = np.zeros((len(change), *gradients.shape[2:]))
            total[rows] += np.einsum("s,sg...->g...", weights[numbers], gradients)
        assert total is not None
        return Found({run.memo["layer"]: total})
