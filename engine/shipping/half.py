"""A shipped file in half precision: weights and arithmetic in float16, inputs and outputs as they were."""

from __future__ import annotations

import copy

import onnx
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.model import to_proto


def in_half_precision(model: ir.Model) -> ir.Model:
    """The model with float16 inside; what it takes and returns keeps its type.

    Adjoints underflow where they are below 6e-8: gradients of probabilities are not worth much in float16, those of
    logits usually are.

    Raises:
        OptionError: The runtime's converter is not installed, or cannot convert the graph.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError:
        raise OptionError(
            "half precision needs the converter of the package onnxruntime (onnxruntime.transformers), which this "
            "runtime lacks; install onnxruntime, or leave it out"
        ) from None
    try:
        converted = convert_float_to_float16(to_proto(model), keep_io_types=True, disable_shape_infer=True)
    except Exception as error:  # the converter raises plain ValueError and Exception
        raise OptionError(f"the graph cannot be converted to half precision ({error}); leave it out") from None
    _mend(converted.graph)
    result: ir.Model = ir.from_proto(converted)
    result.graph.sort()  # the converter leaves casts of inputs at the end
    result.metadata_props.update(model.metadata_props)
    return result


def _mend(graph: onnx.GraphProto) -> None:
    """Take back what the converter leaves behind, in place.

    It casts a value once for each operator that stays in float32, under one name: the first is enough. And it notes the
    types of inner values where they have become others.
    """
    del graph.value_info[:]
    made: set[str] = set()
    kept = []
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _mend(inner)
        if made.isdisjoint(node.output):
            kept.append(node)
        made.update(name for name in node.output if name)
    if len(kept) < len(graph.node):
        nodes = [copy.deepcopy(node) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
