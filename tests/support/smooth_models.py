"""Networks without kinks: what two programs compute of them differs by rounding alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tiny_models import model, node

Array = np.ndarray[Any, Any]


def smooth_picture_net(activation: str = "Tanh", batch: Any = "N") -> tuple[onnx.ModelProto, Array]:
    """Two convolutions over 2 x 12 x 10, the mean over places and a linear layer; three samples.

    Args:
        activation: After the first convolution; ``Relu`` makes kinks, for methods that need them.
        batch: Size of the batch in the file.
    """
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(4, 2, 3, 3)) * 0.5,
        "b1": rng.normal(size=4) * 0.5,
        "w2": rng.normal(size=(6, 4, 3, 3)) * 0.5,
        "b2": rng.normal(size=6) * 0.5,
        "w3": rng.normal(size=(6, 3)),
        "b3": rng.normal(size=3),
    }
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node(activation, "c1", "a1"),
        node("AveragePool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 w2 b2", "c2", pads=[1, 1, 1, 1]),
        node("Sigmoid", "c2", "a2"),
        node("GlobalAveragePool", "a2", "p2"),
        node("Flatten", "p2", "f"),
        node("Gemm", "f w3 b3", "y"),
    ]
    x = np.random.default_rng(5).normal(size=(3, 2, 12, 10)).astype(np.float32)
    return model(nodes, {"x": [batch, 2, 12, 10]}, {"y": [batch, 3]}, weights), x


def smooth_table_net() -> tuple[onnx.ModelProto, Array]:
    """Two inputs of 5 and 4 features, a hidden layer, three classes; the arrays are one batch of three for both."""
    rng = np.random.default_rng(7)
    weights = {"u": rng.normal(size=(5, 6)), "v": rng.normal(size=(4, 6)), "w": rng.normal(size=(6, 3))}
    nodes = [
        node("MatMul", "a u", "au"),
        node("MatMul", "b v", "bv"),
        node("Add", "au bv", "s"),
        node("Tanh", "s", "h"),
        node("MatMul", "h w", "y"),
    ]
    return model(nodes, {"a": ["N", 5], "b": ["N", 4]}, {"y": ["N", 3]}, weights), rng.normal(size=(3, 9))
