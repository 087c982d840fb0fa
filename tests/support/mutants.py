"""Damaged and deranged models: what a loader and a rewriter meet in the wild, drawn from a seed.

Two kinds. *Bytes*: a file that was cut, copied badly or attacked. *Graphs*: a file that parses and means
nothing: operators exchanged, operands crossed, attributes of other types and sizes, shapes that do not fit.
The originals are small, so that most mutations hit something that matters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from custom_operators import CUBE, net
from onnx import TensorProto, helper, parser
from tiny_models import fullgrad_net, model, node

Rng = np.random.Generator


def originals() -> dict[str, onnx.ModelProto]:
    """One small model per part of the package that reads models."""
    rng = np.random.default_rng(0)
    made = {
        "convolution": _convolution(),
        "shapes": _shapes(),
        "control": _control(),
        "recurrent": _recurrent(rng),
        "quantised": _quantised(rng),
        "attention": _attention(rng),
        "fused": _fused(rng),
        "function": net("Cube", CUBE),
    }
    for proto in made.values():
        onnx.checker.check_model(proto, full_check=False)
    return made


def _convolution() -> onnx.ModelProto:
    proto = fullgrad_net()[0]
    for tensor in list(proto.graph.initializer):  # most mutations should hit the graph, not a weight
        if tensor.name == "w2":
            tensor.raw_data = bytes(len(tensor.raw_data))
    return proto


def _shapes() -> onnx.ModelProto:
    nodes = [
        node("Shape", "x", "s"), node("Slice", "s i0 i1", "n"), node("Concat", "n i2", "to", axis=0),
        node("Reshape", "x to", "r"), node("Transpose", "r", "t", perm=[0, 2, 1]),
        node("ReduceMean", "t", "m", axes=[1], keepdims=0), node("Clip", "m", "c", min=-1.0, max=1.0),
        node("Softmax", "c", "y", axis=1),
    ]  # fmt: skip
    ints = {"i0": np.array([0]), "i1": np.array([1]), "i2": np.array([2, -1])}
    return model(nodes, {"x": ["N", 4]}, {"y": ["N", 2]}, ints, opset=10)


def _control() -> onnx.ModelProto:
    return parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        net (float[N, 3] x, bool c, int64 count) => (float[N, 3] y) {
            t = Constant <value = bool {1}> ()
            k = Constant <value = float {0.5}> ()
            h = If (c) <then_branch = a () => (float[N, 3] p) { p = Mul(x, k) },
                        else_branch = b () => (float[N, 3] q) { q = Sin(x) }>
            z, all = Loop (count, t, h) <body = body (int64 i, bool go, float[N, 3] s)
                    => (bool on, float[N, 3] next, float[N, 3] seen) {
                on = Identity(go)
                next = Tanh(s)
                seen = Identity(next)
            }>
            y = Add(z, h)
        }
    """)


def _recurrent(rng: Rng) -> onnx.ModelProto:
    weights = {"w": rng.normal(size=(1, 8, 3)), "r": rng.normal(size=(1, 8, 2)), "b": rng.normal(size=(1, 16))}
    nodes = [
        node("LSTM", "x w r b", "all last cell", hidden_size=2), node("Squeeze", "last axes", "s"),
        node("LayerNormalization", "s scale", "y"),
    ]  # fmt: skip
    weights |= {"axes": np.array([0]), "scale": np.ones(2)}
    return model(nodes, {"x": [4, "N", 3]}, {"y": ["N", 2]}, weights)


def _quantised(rng: Rng) -> onnx.ModelProto:
    weights = {
        "w": rng.integers(-9, 9, (4, 3)).astype(np.int8), "s": np.float32(0.1), "z": np.int8(1), "v": np.float32(0.02),
        "o": np.int8(0),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w v o", "e"), node("MatMul", "d e", "m"), node("Relu", "m", "y"),
    ]  # fmt: skip
    return model(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, weights)


def _attention(rng: Rng) -> onnx.ModelProto:
    weights = {
        "w": rng.normal(size=(4, 12)), "parts": np.array([4, 4, 4]), "half": np.array(0.5),
        "table": rng.normal(size=(5, 4)), "axes": np.array([1]),
    }  # fmt: skip
    nodes = [
        node("Gather", "table ids", "e"), node("Add", "e x", "h"), node("MatMul", "h w", "qkv"),
        node("Split", "qkv parts", "q k v", axis=-1), node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "raw"), node("Mul", "raw half", "scores"), node("Softmax", "scores", "p", axis=-1),
        node("MatMul", "p v", "mixed"), node("Einsum", "mixed h", "joined", equation="ntd,ntd->nt"),
        node("ReduceSum", "joined axes", "y", keepdims=1),
    ]  # fmt: skip
    proto = model(nodes, {"x": ["N", 3, 4], "ids": ["N", 3]}, {"y": ["N", 1]}, weights)
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def _fused(rng: Rng) -> onnx.ModelProto:
    weights = {
        "w": rng.normal(size=(2, 1, 3, 3)),
        "b": rng.normal(size=2),
        "g": rng.normal(size=(8, 2)),
        "c": rng.normal(size=2),
    }
    nodes = [
        node("FusedConv", "x w b", "f", domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1]),
        node("MaxPool", "f", "m", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "m", "l"),
        node("FusedGemm", "l g c", "o", domain="com.microsoft", activation="Tanh"),
        node("QuickGelu", "o", "y", domain="com.microsoft", alpha=1.5),
    ]  # fmt: skip
    return model(nodes, {"x": ["N", 1, 4, 4]}, {"y": ["N", 2]}, weights, domains=["com.microsoft"])


# ----- bytes -----------------------------------------------------------------------------------------


def damaged(data: bytes, rng: Rng) -> bytes:
    """The bytes with one to four of them changed, a part cut out, doubled, or moved."""
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not result:
            break
        kind, at = int(rng.integers(6)), int(rng.integers(len(result)))
        size = int(rng.integers(1, 9))
        if kind == 0:
            result[at] = int(rng.integers(256))
        elif kind == 1:
            result[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del result[at : at + size]
        elif kind == 3:
            result[at:at] = result[at : at + size]
        elif kind == 4:
            result[at] = int(rng.choice([0, 1, 127, 128, 255]))
        else:
            to = int(rng.integers(len(result)))
            result[to : to + size] = result[at : at + size]
    return bytes(result)


# ----- graphs ----------------------------------------------------------------------------------------

_OPERATORS = (
    "Relu", "Add", "Mul", "MatMul", "Conv", "MaxPool", "Reshape", "Transpose", "Softmax", "Gather", "Concat", "Slice",
    "ReduceSum", "Expand", "Identity", "Shape", "Cast", "If", "Loop", "Scan", "LSTM", "Resize", "Pad", "Split", "TopK",
    "Einsum", "Constant", "ConstantOfShape", "BatchNormalization", "Attention", "SequenceConstruct", "Optional",
    "QuantizeLinear", "Nonsense",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 3, 7, 127, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**6)


def deranged(proto: onnx.ModelProto, rng: Rng) -> bytes:
    """The model with one to three things about its graph changed."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for _ in range(int(rng.integers(1, 4))):
        changes = list(_CHANGES)
        change = changes[int(rng.integers(len(changes)))]
        change(result, _some_graph(result.graph, rng), rng)
    try:
        return result.SerializeToString()
    except ValueError:  # a value that its field cannot hold
        return proto.SerializeToString()


def _some_graph(graph: onnx.GraphProto, rng: Rng) -> onnx.GraphProto:
    """The graph, or one inside its nodes."""
    inner = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return inner[int(rng.integers(len(inner)))] if inner and rng.random() < 0.3 else graph


def _pick(items: object, rng: Rng) -> object:
    listed = list(items)  # type: ignore[call-overload]
    return listed[int(rng.integers(len(listed)))] if listed else None


def _names(graph: onnx.GraphProto) -> list[str]:
    return [
        "",
        *(v.name for v in graph.input),
        *(t.name for t in graph.initializer),
        *(y for n in graph.node for y in n.output),
    ]


def _operator(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto):
        chosen.op_type = str(rng.choice(_OPERATORS))


def _domain(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto):
        chosen.domain = str(rng.choice(["", "ai.onnx", "com.microsoft", "ai.onnx.ml", "nowhere", "onnxplain.body"]))


def _operand(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto):
        name = str(_pick(_names(graph), rng))
        if chosen.input and rng.random() < 0.8:
            chosen.input[int(rng.integers(len(chosen.input)))] = name
        else:
            chosen.input.append(name)


def _fewer_operands(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto) and chosen.input:
        del chosen.input[int(rng.integers(len(chosen.input))) :]


def _result(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto):
        if chosen.output and rng.random() < 0.5:
            chosen.output[0] = str(_pick(_names(graph), rng))
        else:
            chosen.output.append(f"extra{int(rng.integers(3))}")


def _drop(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    parts = [graph.node, graph.initializer, graph.input, graph.output, model_.opset_import, model_.functions]
    chosen = parts[int(rng.integers(len(parts)))]
    if len(chosen):
        del chosen[int(rng.integers(len(chosen)))]


def _double(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto):
        graph.node.add().CopyFrom(chosen)
        if rng.random() < 0.7:
            graph.node[-1].output[:] = [f"again{i}" for i in range(len(chosen.output))]


def _attribute(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick([a for n in graph.node for a in n.attribute], rng)
    if not isinstance(chosen, onnx.AttributeProto):
        return
    number = int(rng.choice(np.array(_NUMBERS, dtype=object)))
    kind = int(rng.integers(5))
    if kind == 0:
        chosen.i = number
    elif kind == 1 and chosen.ints:
        chosen.ints[int(rng.integers(len(chosen.ints)))] = number
    elif kind == 2:
        chosen.type = int(rng.integers(0, 15))  # type: ignore[assignment]
    elif kind == 3:
        chosen.f, chosen.s = float(rng.choice([0, -1, 1e30, np.nan, np.inf])), bytes(rng.integers(0, 256, 3).tolist())
    else:
        chosen.name = str(rng.choice(["axis", "axes", "perm", "pads", "to", "value", "strides", "x"]))


def _new_attribute(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick(graph.node, rng)
    if isinstance(chosen, onnx.NodeProto):
        name = str(
            rng.choice(["axis", "axes", "perm", "pads", "to", "group", "strides", "kernel_shape", "mode", "keepdims"])
        )
        value = rng.choice(np.array([*_NUMBERS, [1, 2], [-1], "linear", 1.5], dtype=object))
        chosen.attribute.append(helper.make_attribute(name, value))


def _tensor(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick([*graph.initializer, *(a.t for n in graph.node for a in n.attribute if a.HasField("t"))], rng)
    if not isinstance(chosen, TensorProto):
        return
    kind = int(rng.integers(4))
    if kind == 0 and chosen.dims:
        chosen.dims[int(rng.integers(len(chosen.dims)))] = int(rng.choice([0, 1, 2, 4, 2**31, -1]))
    elif kind == 1:
        chosen.data_type = int(rng.integers(0, 24))
    elif kind == 2 and chosen.dims:
        count = int(np.prod(list(chosen.dims)))
        del chosen.dims[:]
        chosen.dims.extend([1, count] if rng.random() < 0.5 else [count])
    elif chosen.raw_data:
        chosen.raw_data = bytes(rng.integers(0, 256, len(chosen.raw_data)).tolist())


def _type(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    chosen = _pick([*graph.input, *graph.output, *graph.value_info], rng)
    if not isinstance(chosen, onnx.ValueInfoProto):
        return
    tensor = chosen.type.tensor_type
    kind = int(rng.integers(4))
    if kind == 0:
        tensor.elem_type = int(rng.integers(0, 24))
    elif kind == 1 and tensor.shape.dim:
        tensor.shape.dim[int(rng.integers(len(tensor.shape.dim)))].dim_value = int(rng.choice([0, 1, 2, 5, -1, 2**40]))
    elif kind == 2:
        tensor.shape.dim.add().dim_param = str(rng.choice(["N", "", "M"]))
    else:
        tensor.ClearField("shape")


def _version(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    if len(model_.opset_import):
        model_.opset_import[0].version = int(rng.choice([1, 6, 7, 9, 11, 13, 17, 18, 21, 23, 26, 28, 99]))


def _order(model_: onnx.ModelProto, graph: onnx.GraphProto, rng: Rng) -> None:
    nodes = list(graph.node)
    order = rng.permutation(len(nodes))
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


_CHANGES: tuple[Callable[[onnx.ModelProto, onnx.GraphProto, Rng], None], ...] = (
    _operator, _domain, _operand, _operand, _fewer_operands, _result, _drop, _double, _attribute, _attribute,
    _new_attribute, _tensor, _tensor, _type, _version, _order,
)  # fmt: skip
