"""Dictionaries in graphs of ai.onnx.ml, which graph objects do not know and no gradient passes.

Converters of classical models end in a ZipMap: one dictionary per sample, from class to score. Its operand is
the same as a tensor, and that is what is read in its place, under the name of the result.
"""

from __future__ import annotations

import onnx

from onnxplain.engine.errors import ModelFileError

ML = "ai.onnx.ml"


def without_dictionaries(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with the tensor of scores in the place of each list of dictionaries; itself where it has none.

    Raises:
        ModelFileError: It takes or gives dictionaries that are made otherwise.
    """
    if any(n.op_type == "ZipMap" and n.domain == ML for n in proto.graph.node):
        result = onnx.ModelProto()
        result.CopyFrom(proto)
        results = {y for n in result.graph.node if n.op_type == "ZipMap" and n.domain == ML for y in n.output}
        for node in result.graph.node:
            if node.op_type == "ZipMap" and node.domain == ML:
                node.op_type, node.domain = "Identity", ""
                del node.attribute[:]
        for value in (*result.graph.output, *result.graph.value_info):
            if value.name in results:
                value.type.Clear()
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        proto = result
    graph = proto.graph
    found = next((v.name for v in (*graph.input, *graph.output, *graph.value_info) if _is_map(v.type)), None)
    if found is not None:
        raise ModelFileError(
            f"{name}: '{found}' holds dictionaries, which are not read; "
            "export the model with tensors in their place, or cut it there"
        )
    return proto


def _is_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return _is_map(kind.sequence_type.elem_type)
    return bool(which == "map_type")
