"""The shadow: a differentiable form of the model beside the model itself.

A model in int8 or in half precision is not what its gradient is taken of: rounding has none, and small
adjoints vanish in 16 bits. Its *shadow* is: the same graph, in float, from the same inputs. The model's
own nodes stay as they are and give its own outputs, bit by bit what they were; the shadow is what the
explained scalar is read from and what the reverse sweep goes through. How well the two agree is
reported on every result.

The shadow's values have the model's names, so that a tensor is found by the name that the user knows;
what the model itself computes is renamed, its outputs excepted.
"""

from __future__ import annotations

from typing import Literal, get_args

import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import PREFIX
from onnxplain.engine.graph.passes.dequantize import DequantizePass, is_quantised
from onnxplain.engine.graph.passes.lower_recurrent import LowerRecurrentPass
from onnxplain.engine.graph.passes.widen import WIDE, WidenPass, has_halves

Quantisation = Literal["straight_through", "float_shadow"]
QUANTISATIONS: tuple[str, ...] = get_args(Quantisation)

#: Prefix of the shadow's form of a value that keeps its name: graph inputs, large weights, outputs.
SHADOW = WIDE
_OWN = f"{PREFIX}/own/"


def add_shadow(model: ir.Model, quantisation: str = "straight_through", *, keep_quantised: bool = False) -> bool:
    """Put the shadow beside the model, in place, where one is needed.

    Args:
        model: A canonical model.
        quantisation: ``straight_through`` rounds as the model does and lets the gradient through where
            nothing saturates; ``float_shadow`` leaves rounding out.
        keep_quantised: No shadow for int8; one for half precision all the same, whose differences of scores
            would drown in rounding.

    Returns:
        Whether one was needed.

    Raises:
        OptionError: Unknown ``quantisation``.
    """
    if quantisation not in QUANTISATIONS:
        raise OptionError(f"quantisation={quantisation!r} is not possible; choose one of {', '.join(QUANTISATIONS)}")
    quantised, halves = is_quantised(model) and not keep_quantised, has_halves(model)
    if not quantised and not halves:
        return False
    own = model.graph.clone()
    if quantised:
        DequantizePass(round_values=quantisation == "straight_through")(model)
        LowerRecurrentPass()(model)
    if halves:
        WidenPass()(model)
    common.RemoveUnusedNodesPass()(model)
    _merge(model.graph, own)
    return True


def _merge(graph: ir.Graph, own: ir.Graph) -> None:
    outputs = list(own.outputs)
    names = [v.name or "" for v in outputs]
    for value, mine in zip(list(own.inputs), list(graph.inputs), strict=True):
        value.replace_all_uses_with(mine, replace_graph_outputs=True)
    _merge_weights(graph, own)
    outputs = list(own.outputs)
    nodes = list(own)
    for i, value in enumerate(graph.outputs):
        if value.producer() is not None:
            value.name = f"{SHADOW}{names[i]}"
    own.outputs.clear()
    for node in nodes:
        own.remove(node)
        node.name = f"{_OWN}{node.name}"
        for y in node.outputs:
            if y not in outputs:
                y.name = f"{_OWN}{y.name}"
        graph.append(node)
    for i, value in enumerate(outputs):
        graph.outputs[i] = value


def _merge_weights(graph: ir.Graph, own: ir.Graph) -> None:
    """The model's own weights: the shadow's where they are the same, else under a name of their own."""
    for name, value in list(own.initializers.items()):
        mine = graph.initializers.get(name)
        if mine is not None and mine.const_value is value.const_value:
            value.replace_all_uses_with(mine, replace_graph_outputs=True)
            continue
        own.initializers.pop(name)
        tensor = value.const_value
        value.const_value = None  # a value's name is also its tensor's, and the tensor belongs to the source
        value.name = f"{_OWN}{name}"
        if tensor is not None:
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
        graph.register_initializer(value)
