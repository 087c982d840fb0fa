"""Canonical graph -> a graph that onnxruntime-training's gradient builder gets right, or a refusal that names the node.

The builder (release 1.19.2, the last one) takes few graphs as they are, and some it gets wrong without a word.
So only operators whose gradient was compared with finite differences are let onto the path between what is
differentiated and what is seeded, and only in the forms that were compared. What is brought into form:

1. opset -> at most 21, IR version -> at most 10
2. sizes of the inputs -> those of the arrays at hand, and every inner shape is inferred from them anew
3. operators that :mod:`onnxplain.engine.session.training_forms` writes in terms of others
4. an input or initializer -> one Identity per use; likewise what one node reads twice
5. loss = sum of all elements of (seeded tensor x cotangent), over the seeded tensors
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxplain.engine.errors import InputError, UnsupportedNodeError
from onnxplain.engine.session.training_forms import FORMS, STEM, Writer, attribute

#: Newest versions that the runtime loads.
OPSET, IR_VERSION = 21, 10

INSTEAD = "leave backend= out: the engine's own rules serve it"

#: Operators whose gradient agrees with finite differences, in every form that `_CHECKS` does not refuse.
_RIGHT = (
    "Abs Add AveragePool Cast Clip Concat Conv Cos Div Erf Exp Expand Flatten Gather GatherElements GatherND Gemm "
    "GlobalAveragePool Identity LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg Pad Reciprocal ReduceL2 "
    "ReduceLogSumExp ReduceMean ReduceSum Relu Reshape ScatterElements ScatterND Sigmoid Sin Slice Softmax Sqrt Squeeze "
    "Sub Tanh Tile TopK Transpose Trilu Unsqueeze"
)
RIGHT = frozenset(_RIGHT.split()) | frozenset(FORMS)

#: Operators that the builder takes, and then fails on or gets wrong; what it does is told.
WRONG = {
    "Dropout": "onnxruntime-training takes it for training mode and scales the gradient by 1 / (1 - ratio)",
    "GRU": "onnxruntime-training's gradient of it ends the process",
    "LSTM": "onnxruntime-training's gradient of it ends the process",
}

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

#: Reads sizes alone, so that no derivative is lost behind it.
_SIZES = frozenset({"Shape", "Size"})

#: Without shape inference in onnx 1.23; the result has the first operand's shape.
_UNINFERRED = frozenset({"GroupNormalization"})

#: Go to integers that stand for the floats.
_ROUNDS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})

Shape = tuple[int, ...]


@dataclass
class TrainingGraph:
    """What the child process is given.

    Attributes:
        model: The normalised model with the inputs' names kept, and one input more per cotangent.
        loss: Name of the scalar.
        seeds: Name of the input per seeded tensor.
        reached: The wanted tensors that a gradient reaches; the others' is zero.
        shapes: Shape per wanted tensor.
        blocked: Nodes at which part of the gradient ends, as sentences.
    """

    model: onnx.ModelProto
    loss: str
    seeds: dict[str, str]
    reached: list[str]
    shapes: dict[str, Shape]
    blocked: list[str]


@dataclass
class _Known:
    """The model with static shapes, and what is on the path."""

    nodes: list[onnx.NodeProto]
    types: dict[str, tuple[int, Shape | None]]
    weights: dict[str, onnx.TensorProto]
    needed: set[str] = field(default_factory=set)
    path: set[str] = field(default_factory=set)

    def is_float(self, name: str) -> bool:
        return self.types.get(name, (0, None))[0] in _FLOATS

    def shape(self, name: str) -> Shape | None:
        return self.types.get(name, (0, None))[1]


def training_graph(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    cotangents: Mapping[str, np.ndarray[Any, Any]],
    wanted: Sequence[str],
) -> TrainingGraph:
    """Normalise a canonical model for the builder.

    Args:
        model: The canonical model; it is copied.
        feeds: Array per model input; its sizes become the graph's.
        cotangents: Array per seeded tensor.
        wanted: Names of inputs, initializers or inner tensors.

    Raises:
        InputError: An array's shape is not its tensor's.
        UnsupportedNodeError: The builder would fail on a node of the path, or get it wrong.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _lower(made)
    known = _with_sizes(made, feeds)
    blocked = _trace(known, wanted, cotangents)
    for node in known.nodes:
        _refuse(node, known)
    for name, array in cotangents.items():
        shape = known.shape(name)
        if shape is not None and shape != np.shape(array):
            raise InputError(f"the cotangent of '{name}' has shape {np.shape(array)}; give one of shape {shape}")
    reached = [name for name in dict.fromkeys(wanted) if name in known.path]
    shapes = {}
    for name in wanted:
        shape = known.shape(name)
        if shape is None:
            raise InputError(f"the sizes of '{name}' follow from values, not from sizes alone; {INSTEAD}")
        shapes[name] = shape
    seeds = _write(made, known, cotangents)
    return TrainingGraph(made, f"{STEM}/loss", seeds, reached, shapes, blocked)


# ------------------------------------------------------------------------------------------ what is known


def _lower(model: onnx.ModelProto) -> None:
    """Declare versions that the runtime loads; operators that changed since by more than their types are refused."""
    model.ir_version = min(model.ir_version, IR_VERSION)
    for imported in model.opset_import:
        if imported.domain not in ("", "ai.onnx") or imported.version <= OPSET:
            continue
        for node in model.graph.node:
            if node.domain in ("", "ai.onnx"):
                _lower_node(node, imported.version)
        imported.version = OPSET


def _lower_node(node: onnx.NodeProto, version: int) -> None:
    try:
        new = onnx.defs.get_schema(node.op_type, version)
        old = onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError:
        raise _unsupported(node, f"onnxruntime-training knows operators up to opset {OPSET}") from None
    if node.op_type == "Cast":  # the rounding of types that no path has
        kept = [a for a in node.attribute if a.name in old.attributes]
        del node.attribute[:]
        node.attribute.extend(kept)
    elif set(new.attributes) != set(old.attributes):
        raise _unsupported(node, f"onnxruntime-training knows it as it was up to opset {OPSET}")


def _with_sizes(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> _Known:
    """Write the arrays' sizes into the inputs, forget all other sizes, infer them anew."""
    graph = model.graph
    for value in graph.input:
        if value.name in feeds:
            elem = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, elem, np.shape(feeds[value.name])))
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(
        _inferable(model), check_type=False, strict_mode=False, data_prop=True
    ).graph
    types: dict[str, tuple[int, Shape | None]] = {}
    for value in (*found.input, *found.value_info, *found.output):
        tensor = value.type.tensor_type
        fixed = tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
        types[value.name] = (tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim) if fixed else None)
    weights = {w.name: w for w in graph.initializer}
    types |= {name: (w.data_type, tuple(w.dims)) for name, w in weights.items()}
    return _Known(list(graph.node), types, weights)


def _inferable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with what onnx infers no shape of replaced by an operator of the same shape."""
    if not any(node.op_type in _UNINFERRED for node in model.graph.node):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        if node.op_type in _UNINFERRED:
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1]))
    return made


def _reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads; of the graphs inside it all names, which is more than they capture."""
    names = [name for name in node.input if name]
    for held in node.attribute:
        for graph in (*([held.g] if held.HasField("g") else []), *held.graphs):
            names += [name for inner in graph.node for name in _reads(inner)]
            names += [value.name for value in graph.output]
    return names


def _trace(known: _Known, wanted: Iterable[str], seeded: Iterable[str]) -> list[str]:
    """Find what leads to the seeds, and which of it lies behind a wanted tensor; drop the nodes that do not lead there."""
    known.needed = set(seeded)
    kept = []
    for node in reversed(known.nodes):
        if known.needed.intersection(node.output):
            known.needed.update(_reads(node))
            kept.append(node)
    known.nodes = kept[::-1]
    depends = {name for name in wanted if known.is_float(name)}
    blocked = []
    for node in known.nodes:
        if not depends.intersection(_reads(node)):
            continue
        depends.update(name for name in node.output if known.is_float(name) or name not in known.types)
        ends = not any(known.is_float(name) for name in node.output if name in known.needed)
        if ends and node.op_type in _ROUNDS:
            raise _unsupported(node, "onnxruntime-training has no gradient through quantised values")
        if ends and node.op_type not in _SIZES and all(name in known.types for name in node.output if name):
            blocked.append(f"node '{_name(node)}' ({node.op_type}): its result is no float tensor; {INSTEAD}")
    # On the path is what depends on a wanted tensor and is led from by floats to a seeded one.
    leads = {name for name in seeded if name in depends}
    for node in reversed(known.nodes):
        if leads.intersection(node.output):
            leads.update(name for name in _reads(node) if name in depends)
    known.path = leads
    return blocked


# ---------------------------------------------------------------------------------------------- refusals


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or next((name for name in node.output if name), ""))


def _unsupported(node: onnx.NodeProto, reason: str) -> UnsupportedNodeError:
    operator = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return UnsupportedNodeError(_name(node), operator, reason, INSTEAD)


def _between(node: onnx.NodeProto, known: _Known) -> bool:
    """Whether the gradient passes through a node."""
    return bool(known.path.intersection(node.output) and known.path.intersection(_reads(node)))


def _refuse(node: onnx.NodeProto, known: _Known) -> None:
    """Raise if the gradient passes through the node and the builder does not get it right."""
    if not _between(node, known):
        return
    if node.domain not in ("", "ai.onnx") or node.op_type not in RIGHT:
        raise _unsupported(node, WRONG.get(node.op_type, "onnxruntime-training has no gradient of it"))
    for name in (*node.input, *node.output):
        if name in known.path:
            elem, shape = known.types.get(name, (0, None))
            if elem != TensorProto.FLOAT:
                raise _unsupported(
                    node, f"'{name}' is no float32 tensor, the only kind that onnxruntime-training serves"
                )
            if shape is None:
                raise _unsupported(
                    node, f"the sizes of '{name}' follow from values, and onnxruntime-training needs them"
                )
    check = _CHECKS.get(node.op_type)
    reason = None if check is None else check(node, known)
    if reason is not None:
        raise _unsupported(node, reason)


def _on_path(known: _Known, node: onnx.NodeProto, first: int) -> bool:
    """Whether an operand from a position on is differentiated."""
    return bool(known.path.intersection(node.input[first:]))


def _conv(node: onnx.NodeProto, known: _Known) -> str | None:
    if attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        return None
    return "onnxruntime-training's gradient of it ignores auto_pad"


def _average_pool(node: onnx.NodeProto, known: _Known) -> str | None:
    if any(d != 1 for d in attribute(node, "dilations", ())):
        return "onnxruntime-training's gradient of it ignores dilations"
    if len(attribute(node, "kernel_shape", ())) > 2:
        return "onnxruntime-training's gradient over three axes is wrong (finite differences)"
    if attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0):
        return "release 1.19.2 divides by another count than the standard where ceil_mode meets count_include_pad"
    return _conv(node, known)


def _sized(node: onnx.NodeProto, known: _Known) -> str | None:
    if all(name and known.shape(name) for name in node.output):
        return None
    return "the sizes of its parts are not known"


def _resize(node: onnx.NodeProto, known: _Known) -> str | None:
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return "sizes that keep the aspect ratio are not written as a matrix per axis"
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "a cropped region is not written as a matrix per axis"
    return _first_only(node, known)


def _conv_transpose(node: onnx.NodeProto, known: _Known) -> str | None:
    if known.shape(node.input[1]) is None:
        return "the sizes of its kernel are not known"
    if attribute(node, "output_shape", None) is not None:
        return "it is only served with pads that are written out"
    return _conv(node, known)


def _first_only(node: onnx.NodeProto, known: _Known) -> str | None:
    if not _on_path(known, node, 1):
        return None
    return "onnxruntime-training has its gradient for the first operand only, and another one is differentiated"


def _pad(node: onnx.NodeProto, known: _Known) -> str | None:
    if attribute(node, "mode", "constant") != "constant":
        return "onnxruntime-training has no gradient of other modes than 'constant'"
    if len(node.input) > 3 and node.input[3]:
        return "onnxruntime-training's gradient of it ignores the axes"
    return _first_only(node, known)


def _slice(node: onnx.NodeProto, known: _Known) -> str | None:
    if len(node.input) < 5 or not node.input[4]:
        return None
    steps = known.weights.get(node.input[4])
    if steps is not None and (numpy_helper.to_array(steps) > 0).all():
        return None
    return "a step is negative or computed, and onnxruntime-training's gradient then fails"


def _scatter(node: onnx.NodeProto, known: _Known) -> str | None:
    if attribute(node, "reduction", "none") == "none":
        return None
    return "onnxruntime-training's gradient of it ignores the reduction"


def _normalization(node: onnx.NodeProto, known: _Known) -> str | None:
    if not known.needed.intersection(node.output[1:]):
        return None
    return "its mean or deviation is used, whose gradient onnxruntime-training leaves out"


def _batch_normalization(node: onnx.NodeProto, known: _Known) -> str | None:
    if attribute(node, "training_mode", 0) == 0 and len(node.output) == 1:
        return None
    return "it runs in training mode"


_CHECKS: dict[str, Callable[[onnx.NodeProto, _Known], str | None]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _first_only,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "LayerNormalization": _normalization,
    "MaxPool": _conv,
    "Pad": _pad,
    "Pow": _first_only,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Slice": _slice,
    "Split": _sized,
}


# ------------------------------------------------------------------------------------------ writing it down


def _write(model: onnx.ModelProto, known: _Known, cotangents: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, str]:
    """Put the normalised nodes, the cotangents' inputs and the loss into the model."""
    graph = model.graph
    sources = {v.name for v in graph.input} | set(known.weights)
    writer = Writer(known)
    for node in known.nodes:
        form = FORMS.get(node.op_type) if _between(node, known) else None
        read = writer.read(node, sources)
        if form is None:
            writer.nodes.append(read)
        else:
            form(writer, read, node)
    seeds, parts = {}, []
    for i, (name, array) in enumerate(cotangents.items()):
        if name not in known.path:
            continue
        seeds[name] = f"{STEM}/seed{i}"
        graph.input.append(helper.make_tensor_value_info(seeds[name], TensorProto.FLOAT, np.shape(array)))
        through = writer.add("Identity", [name])
        parts.append(writer.add("ReduceSum", [writer.add("Mul", [through, seeds[name]])], keepdims=0))
    writer.chain(parts, f"{STEM}/loss")
    del graph.node[:], graph.output[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.weights)
    graph.output.append(helper.make_tensor_value_info(f"{STEM}/loss", TensorProto.FLOAT, []))
    return seeds
