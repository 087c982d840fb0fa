"""Models with sequences and optionals, and the check of what they are resolved to."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from graph_cases import check_graph
from onnx import TensorProto, helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

DOUBLE, INT64, BOOL = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
SEQUENCES = {
    *("SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength"),
    *("SplitToSequence", "ConcatFromSequence", "SequenceMap", "Optional", "OptionalGetElement", "OptionalHasElement"),
}
#: No size, some sizes and all sizes of the operand known.
SIZES = [["A", "B", "C"], ["N", 6, 3], [2, 6, 3]]


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=f"{outputs.split()[0]}_node", **attributes)


def info(name: str, shape: Any = None, kind: int = DOUBLE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def listed(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, DOUBLE, None)


def graph(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inner", inputs, [o if not isinstance(o, str) else info(o) for o in outputs])


def model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], opset: int = 18, **weights: Any
) -> onnx.ModelProto:
    constants = [onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    results = [info(o) if isinstance(o, str) else o for o in outputs]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, results, constants),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def draw(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def operators(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in ir.traversal.RecursiveGraphIterator(canonicalise(read_model(proto)).graph)]


def check_resolved(proto: onnx.ModelProto, feeds: dict[str, Any], wrt: list[str], **options: Any) -> None:
    assert not SEQUENCES & set(operators(proto)), "something is left of sequences"
    check_graph(proto, feeds, wrt, **options)


X = draw(2, 6, 3)
NUMBERS = {f"n{i}": np.asarray(i) for i in range(5)}
NUMBERS |= {"one": np.asarray([1]), "minus": np.asarray(-1), "sizes": np.asarray([1, 2, 3])}


def mixed(first: str, second: str) -> list[onnx.NodeProto]:
    """y = a sin(b)."""
    return [node("Sin", second, "sine"), node("Mul", f"{first} sine", "y")]


def typed(proto: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The float64 model in another float type."""
    text = proto.SerializeToString()
    made = onnx.ModelProto.FromString(text)
    graphs = [made.graph]
    while graphs:
        one = graphs.pop()
        for value in (*one.input, *one.output):
            holder = value.type.sequence_type.elem_type if value.type.HasField("sequence_type") else value.type
            if holder.tensor_type.elem_type == DOUBLE:
                holder.tensor_type.elem_type = kind
        for each in one.node:
            for attribute in each.attribute:
                if attribute.name == "dtype":
                    attribute.i = kind
                elif attribute.type == onnx.AttributeProto.GRAPH:
                    graphs.append(attribute.g)
    return made
