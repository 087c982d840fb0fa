"""What jax2onnx leaves to readers, put into its graph: sizes of kernels, pads in numbers, names of layers and weights.

Works on the in-memory graph and knows no framework. Guarantee: arithmetic is left as it is; a weight gets a name only
where its numbers, or the layer that it is used with, leave one candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from onnxplain.engine.graph.passes.infer_shapes import InferShapesPass

Array = npt.NDArray[Any]
_WINDOWED = ("Conv", "MaxPool", "AveragePool")


def tidy(model: ir.Model, weights: Mapping[str, Array]) -> None:
    """Bring jax2onnx's graph into the form that is published, but for versions and names of inputs and outputs.

    Args:
        model: The graph; changed.
        weights: The framework's parameters and statistics by name, as ``block.conv1.kernel``.
    """
    if model.functions:
        common.InlinePass()(model)
    for step in (common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass(), common.OutputFixPass()):
        step(model)
    for node in model.graph.all_nodes():
        _state_kernel(node)
    InferShapesPass()(model)
    for node in model.graph.all_nodes():
        _state_pads(node)
    _name(model, weights)


def _state_kernel(node: ir.Node) -> None:
    weight = node.inputs[1] if node.op_type == "Conv" else None
    if weight is None or "kernel_shape" in node.attributes or weight.shape is None or not weight.shape.is_static():
        return
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [int(size) for size in weight.shape.numpy()[2:]])


def _state_pads(node: ir.Node) -> None:
    """Pads in numbers where the picture's size is known; the rest keeps ``auto_pad``."""
    mode = node.attributes.get("auto_pad")
    kernel = node.attributes.get("kernel_shape")
    if node.op_type not in _WINDOWED or mode is None or kernel is None:
        return
    x = node.inputs[0]
    sizes = list(x.shape)[2:] if x is not None and x.shape is not None else []
    counts = [1] * len(kernel.as_ints())
    strides, dilations = (
        node.attributes[key].as_ints() if key in node.attributes else counts for key in ("strides", "dilations")
    )
    if mode.value == "VALID":
        totals = [0] * len(counts)
    elif len(sizes) == len(counts) and all(isinstance(size, int) for size in sizes):
        totals = [
            max((-(-int(size) // s) - 1) * s + (k - 1) * d + 1 - int(size), 0)  # type: ignore[arg-type]  # ints: above
            for size, k, s, d in zip(sizes, kernel.as_ints(), strides, dilations, strict=True)
        ]
    else:
        return
    small = [total // 2 for total in totals]
    large = [total - part for total, part in zip(totals, small, strict=True)]
    first, last = (large, small) if mode.value == "SAME_LOWER" else (small, large)
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", [*first, *last])


# ----- names ------------------------------------------------------------------------------------------


def _name(model: ir.Model, weights: Mapping[str, Array]) -> None:
    """Weights are called what the framework calls them, nodes ``layer/Operator``."""
    candidates: dict[bytes, list[str]] = {}
    for name, array in weights.items():
        candidates.setdefault(_fingerprint(array), []).append(name)
    found: dict[str, str] = {}  # initializer -> the framework's name
    open_: dict[str, list[str]] = {}
    for name, value in model.graph.initializers.items():
        held = value.const_value.numpy() if value.const_value is not None else None
        names = candidates.get(_fingerprint(held), []) if held is not None and held.dtype.kind == "f" else []
        if len(names) == 1:
            found[name] = names[0]
        elif names:
            open_[name] = names
    for name, names in open_.items():  # equal numbers, as biases of zero: by the layer of a weight beside them
        layers = {_layer(found[other]) for other in _beside(model.graph.initializers[name]) if other in found}
        fitting = [one for one in names if _layer(one) in layers and one not in found.values()]
        if len(fitting) == 1:
            found[name] = fitting[0]
    taken = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    taken |= {output.name for node in model.graph.all_nodes() for output in node.outputs}
    places = _places(model, found)
    for name, value in list(model.graph.initializers.items()):
        if name in found:
            value.name = _free(found[name], taken)
            if value.const_value is not None:
                value.const_value.name = value.name
    node_names: set[str | None] = set()
    for node in model.graph.all_nodes():
        layer = places.get(id(node), "")
        node.name = _free(f"{layer}/{node.op_type}" if layer else node.op_type, node_names)


def _places(model: ir.Model, found: Mapping[str, str]) -> dict[int, str]:
    """The layer of each node that uses one of its weights."""
    places: dict[int, str] = {}
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.name in found:
                places.setdefault(id(node), _layer(found[value.name or ""]))
    return places


def _beside(value: ir.Value) -> Iterator[str]:
    """Names of what is used together with a weight: by the same node, or by the node in front of it."""
    for node in value.consumers():
        around = [node, *(other.producer() for other in node.inputs if other is not None)]
        for one in around:
            if one is not None:
                yield from (other.name or "" for other in one.inputs if other is not None)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _fingerprint(array: Array) -> bytes:
    """The numbers in any order: kernels are turned and reshaped on their way."""
    return np.sort(np.asarray(array, np.float64).ravel()).tobytes()


def _free(name: str, taken: set[str | None]) -> str:
    number, free = 1, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free


def parameter_name(path: str) -> str:
    """``['params']['Conv_0']['kernel']`` or ``.blocks[0].up.kernel.value`` as ``Conv_0.kernel``, ``blocks.0.up.kernel``."""
    parts = [part for part in re.split(r"[\[\]'\".]+", path) if part]
    if parts and parts[-1] in ("value", "raw_value"):
        parts = parts[:-1]
    return ".".join(parts)
