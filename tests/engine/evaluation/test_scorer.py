"""What a model answers, for metrics: operators of other domains are computed by what the user names."""

from __future__ import annotations

import numpy as np
import onnx
from custom_operators import Cube, X, net

import onnxplain as ox
from onnxplain.engine.evaluation.scorer import Scorer


def test_custom_operators_reach_the_scorer() -> None:
    proto = net("Cube")
    w, b, v = (onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer)
    scorer = Scorer(ox.load(proto, providers="reference", custom_ops=[Cube]), None)
    assert scorer.classes(X).tolist() == np.argmax((X @ w + b) ** 3 @ v, axis=1).tolist()
