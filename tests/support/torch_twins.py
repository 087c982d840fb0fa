"""Torch twins of small ONNX models, built by hand from the file's weights, for tests against torch-based tools."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn


def twin(proto: onnx.ModelProto) -> nn.Sequential:
    """A straight chain of Conv, Relu, MaxPool, Flatten and Gemm as torch modules with the same weights."""
    weights = {i.name: torch.from_numpy(np.array(numpy_helper.to_array(i))) for i in proto.graph.initializer}
    return nn.Sequential(*[_layer(node, weights) for node in proto.graph.node]).eval()


def _layer(node: onnx.NodeProto, weights: dict[str, torch.Tensor]) -> nn.Module:
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        weight, bias = (weights[n] for n in node.input[1:])
        made: Any = nn.Conv2d(
            weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride=tuple(given.get("strides", (1, 1))),
            padding=tuple(given.get("pads", (0, 0))[:2]),
        )  # fmt: skip
    elif node.op_type == "Gemm":
        weight, bias = (weights[n] for n in node.input[1:])
        weight = weight if given.get("transB") else weight.T
        made = nn.Linear(weight.shape[1], weight.shape[0])
    elif node.op_type == "MaxPool":
        return nn.MaxPool2d(tuple(given["kernel_shape"]), tuple(given.get("strides", given["kernel_shape"])))
    else:
        return {"Relu": nn.ReLU, "Flatten": nn.Flatten}[node.op_type]()
    made.weight.data, made.bias.data = weight.clone(), bias.clone()
    return made  # type: ignore[no-any-return]
