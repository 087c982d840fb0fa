"""Brings every node to the working opset: 18 where all nodes fit there, else the model's own.

One opset is one form of every operator, so rules handle one form. Older nodes are rewritten here:

1. Attributes that became inputs: ``axes`` of Squeeze, Unsqueeze (13) and of the reductions (ReduceSum 13,
   others 18), ``split`` of Split (13), ``min``/``max`` of Clip (11), ``pads``/``value`` of Pad (11),
   ``starts``/``ends``/``axes`` of Slice (10), ``k`` of TopK (10).
2. Softmax, LogSoftmax and Hardmax below 13 flatten to two axes first.
3. Upsample, and Resize below 11 -> Resize with the coordinates that those had; nearest neighbours were rounded down
   where an axis grew and up where it shrank, which takes one Resize each. ``tf_half_pixel_for_nn`` (11 and 12) ->
   the rounding of ``half_pixel`` that is the same.
4. BatchNormalization below 14: the training form (more than one output) -> ``training_mode``, which its rule refuses.
5. Scatter -> ScatterElements; Scan below 9, which goes through a batch -> a Scan in a Scan;
   RoiAlign below 16 keeps its old coordinates; Split without sizes gets ``num_outputs``.

Opset 6 is brought to the forms of 7 first (:mod:`onnxplain.engine.graph.passes.opset_six`).

Newer nodes whose operator did not change its meaning since 18 are stamped 18, because that is where
every execution provider has its kernels; other models to the oldest opset that they fit. Forms that exist
only above 26, which no runtime loads yet, are spelt out:

6. ``Mod(a, b, fmod=0)`` of floats (28) -> ``r = Mod(a, b, fmod=1)``, and ``r + b`` where r and b differ in sign
7. ``SpaceToDepth(mode="CRD")`` (28) -> Reshape, Transpose, Reshape
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder, Operand, names_of, schema_of
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.model import RUNTIME_OPSET
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.passes.opset_six import from_opset_six
from onnxplain.engine.graph.passes.scan_by_batch import by_batch
from onnxplain.engine.graph.shapes import constant, is_float, rank

WORKING_OPSET = 18

Upgrade = Callable[[ir.Node, int, Builder], None]
_UPGRADES: dict[str, tuple[int, Upgrade]] = {}


def _upgrade(below: int, *op_types: str) -> Callable[[Upgrade], Upgrade]:
    def register(function: Upgrade) -> Upgrade:
        for op_type in op_types:
            _UPGRADES[op_type] = (below, function)
        return function

    return register


class UpgradeOpsetPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        version = graph.opset_imports.get("", WORKING_OPSET)
        nodes = list(walk(graph))
        if version == WORKING_OPSET:
            return ir.passes.PassResult(model, modified=False)
        if version < WORKING_OPSET:
            self._set(graph, nodes, WORKING_OPSET)
            builders = _Builders(graph)
            for node in nodes if version < 7 else ():
                from_opset_six(node, builders.before(node))
            for node in nodes:
                entry = _UPGRADES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
                if entry is not None and version < entry[0] and node.graph is not None:
                    entry[1](node, version, builders.before(node))
        else:
            for node in nodes:
                _write_down(node)
            nodes = list(walk(graph))
            targets = range(WORKING_OPSET, min(version, RUNTIME_OPSET + 1))
            target = next((t for t in targets if all(_fits(n, t, version) for n in nodes)), None)
            if target is None:
                return ir.passes.PassResult(model, modified=False)
            for node in nodes:
                _drop_newer_defaults(node, target)
            self._set(graph, nodes, target)
        return ir.passes.PassResult(model, modified=True)

    @staticmethod
    def _set(graph: ir.Graph, nodes: list[ir.Node], version: int) -> None:
        graph.opset_imports[""] = version
        graph.opset_imports.pop("ai.onnx", None)
        for inner in (graph, *graph.subgraphs()):
            inner.opset_imports[""] = version
        for node in nodes:
            if node.domain in ("", "ai.onnx"):
                node.version = None


class _Builders:
    """One builder per graph, so that constants stand in the graph that uses them and names are unique in the model."""

    def __init__(self, graph: ir.Graph) -> None:
        self._builders: dict[ir.Graph, Builder] = {}
        self._taken = names_of(graph)

    def before(self, node: ir.Node) -> Builder:
        graph = _root(node)
        builder = self._builders.setdefault(graph, Builder(graph, taken=self._taken))
        builder.before = node
        return builder


def _root(node: ir.Node) -> ir.Graph:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise UnsupportedNodeError(label(node), describe(node), "it lies in a function that was not inlined")
    return graph


# ----- newer than 18 --------------------------------------------------------------------------------

#: Operators whose meaning depends on the version above 18, and when the old meaning holds.
_CHANGED: dict[str, Callable[[ir.Node], bool]] = {
    "AveragePool": lambda n: not _attribute(n, "ceil_mode", 0),
    "MaxPool": lambda n: not _attribute(n, "ceil_mode", 0),
    "LpPool": lambda n: not _attribute(n, "ceil_mode", 0),
    "GroupNormalization": lambda n: False,
    "GridSample": lambda n: False,
    "DFT": lambda n: False,
    "Pad": lambda n: _attribute(n, "mode", "constant") != "wrap",
    "Resize": lambda n: _attribute(n, "coordinate_transformation_mode", "half_pixel") != "half_pixel_symmetric",
}


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _fits(node: ir.Node, target: int, version: int) -> bool:
    """Whether a node of opset ``version`` means the same at ``target``, which is older."""
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        schema = schema_of(node.op_type, target)
        if schema_of(node.op_type, version).since_version <= target:
            return True
    except ValueError:
        return False
    return _alike(node, schema)


def means_the_same(node: ir.Node, old: int, new: int) -> bool:
    """Whether a node of opset ``old`` means the same at ``new``, which is newer."""
    if node.domain not in ("", "ai.onnx"):
        return True
    schema = schema_of(node.op_type, new)
    return schema.since_version <= old or (not schema.deprecated and _alike(node, schema))


def _alike(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    """Whether a node of another version fits the schema and means the same by it."""
    unchanged = _CHANGED.get(node.op_type)
    if unchanged is not None and not unchanged(node):
        return False
    if len(node.inputs) > schema.max_input or not schema.min_output <= len(node.outputs) <= schema.max_output:
        return False
    for name, attribute in node.attributes.items():
        if name not in schema.attributes and not _does_nothing(name, attribute.value):
            return False
    return _types_fit(node, schema)


def _does_nothing(name: str, value: Any) -> bool:
    """Whether an attribute that came later than an operator's older form has the value that means that form."""
    if name == "dilations":
        return all(d == 1 for d in value)
    return value in (0, "", None, 1 if name == "saturate" else 0)


def _types_fit(node: ir.Node, schema: Any) -> bool:
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    pairs = [(x, schema.inputs[min(i, len(schema.inputs) - 1)]) for i, x in enumerate(node.inputs)]
    pairs += [(y, schema.outputs[min(i, len(schema.outputs) - 1)]) for i, y in enumerate(node.outputs)]
    for value, formal in pairs:
        if value is None or not isinstance(value.type, ir.TensorType):
            continue
        name = f"tensor({value.type.dtype.name.lower()})"
        name = {"tensor(float32)": "tensor(float)", "tensor(float64)": "tensor(double)"}.get(name, name)
        if formal.type_str in allowed and name not in allowed[formal.type_str]:
            return False
    return True


def _drop_newer_defaults(node: ir.Node, target: int) -> None:
    if node.domain in ("", "ai.onnx"):
        known = schema_of(node.op_type, target).attributes
        for name in [n for n in node.attributes if n not in known]:
            del node.attributes[name]


def _write_down(node: ir.Node) -> None:
    """Forms that exist only above what runtimes load, in older operators."""
    if node.domain not in ("", "ai.onnx") or not isinstance(node.graph, ir.Graph):
        return
    if node.op_type == "Mod" and not _attribute(node, "fmod", 0) and _all_floats(node):
        op = Builder(node.graph, before=node)
        a, b = node.inputs
        remainder = op.Mod(a, b, fmod=1)
        apart = op.Less(op.Mul(op.Sign(remainder), op.Sign(b)), 0.0)
        _replace(node, op.Where(apart, op.Add(remainder, b), remainder))
    elif node.op_type == "SpaceToDepth" and _attribute(node, "mode", "DCR") == "CRD":
        _space_to_depth(node, Builder(node.graph, before=node))
    elif node.op_type == "SpaceToDepth":
        node.attributes.pop("mode", None)


def _all_floats(node: ir.Node) -> bool:
    return all(x is not None and is_float(x) for x in node.inputs)


def _space_to_depth(node: ir.Node, op: Builder) -> None:
    """Each channel's blocks stay together."""
    x, block = node.inputs[0], int(node.attributes["blocksize"].value)
    batch, channels, rows, columns = (op.Shape(x, start=i, end=i + 1) for i in range(4))
    rows, columns = op.Div(rows, [block]), op.Div(columns, [block])
    apart = op.Reshape(x, op.Concat(batch, channels, rows, [block], columns, [block], axis=0))
    moved = op.Transpose(apart, perm=[0, 1, 3, 5, 2, 4])
    whole = op.Concat(batch, op.Mul(channels, [block * block]), rows, columns, axis=0)
    _replace(node, op.Reshape(moved, whole))


# ----- older than 18 --------------------------------------------------------------------------------


def _take(node: ir.Node, name: str, default: Any = None) -> Any:
    attribute = node.attributes.pop(name, None)
    return default if attribute is None else attribute.value


def _set_inputs(node: ir.Node, values: list[ir.Value | None]) -> None:
    while values and values[-1] is None:
        values.pop()
    node.resize_inputs(len(values))
    for i, value in enumerate(values):
        node.replace_input_with(i, value)


def _axes_to_input(node: ir.Node, version: int, op: Builder) -> None:
    axes = _take(node, "axes")
    if axes is not None:
        _set_inputs(node, [node.inputs[0], op.constant(list(axes), ir.DataType.INT64)])


_upgrade(13, "Squeeze", "Unsqueeze", "ReduceSum")(_axes_to_input)
_upgrade(
    18,
    *("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)(_axes_to_input)


@_upgrade(18, "Split")
def _split(node: ir.Node, version: int, op: Builder) -> None:
    sizes = _take(node, "split")
    if sizes is not None:
        _set_inputs(node, [node.inputs[0], op.constant(list(sizes), ir.DataType.INT64)])
    elif len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


@_upgrade(11, "Clip")
def _clip(node: ir.Node, version: int, op: Builder) -> None:
    x = node.inputs[0]
    dtype = x.dtype if x is not None and x.dtype is not None else ir.DataType.FLOAT
    bounds: list[ir.Value | None] = []
    for name in ("min", "max"):
        bound = _take(node, name)
        with np.errstate(over="ignore"):  # the default bounds are float32's, beyond what float16 holds
            bounds.append(None if bound is None else op.constant(bound, dtype))
    _set_inputs(node, [x, *bounds])


@_upgrade(11, "Pad")
def _pad(node: ir.Node, version: int, op: Builder) -> None:
    x = node.inputs[0]
    dtype = x.dtype if x is not None and x.dtype is not None else ir.DataType.FLOAT
    pads, value = _take(node, "pads", ()), _take(node, "value", 0.0)
    _set_inputs(node, [x, op.constant(list(pads), ir.DataType.INT64), op.constant(value, dtype)])


@_upgrade(10, "Slice")
def _slice(node: ir.Node, version: int, op: Builder) -> None:
    parts = [_take(node, name) for name in ("starts", "ends", "axes")]
    _set_inputs(
        node, [node.inputs[0], *(None if p is None else op.constant(list(p), ir.DataType.INT64) for p in parts)]
    )


@_upgrade(10, "TopK")
def _topk(node: ir.Node, version: int, op: Builder) -> None:
    _set_inputs(node, [node.inputs[0], op.constant([_take(node, "k")], ir.DataType.INT64)])


@_upgrade(13, "Softmax", "LogSoftmax", "Hardmax")
def _flattening_softmax(node: ir.Node, version: int, op: Builder) -> None:
    axis = _take(node, "axis", 1)
    x, known = node.inputs[0], rank(node.inputs[0]) if node.inputs[0] is not None else None
    if known is not None and axis % known == known - 1:
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    flat = op.emit(node.op_type, [op.Flatten(x, axis=axis)], axis=-1)[0]
    _replace(node, op.Reshape(flat, op.Shape(x)))


@_upgrade(13, "Resize")
def _resize(node: ir.Node, version: int, op: Builder) -> None:
    if version >= 11:
        if _attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn":
            _tf_half_pixel(node)
        return
    _replace(node, _resized(op, node.inputs[0], node.inputs[1], str(_attribute(node, "mode", "nearest"))))


def _resized(op: Builder, x: ir.Value | None, scales: ir.Value | None, mode: str) -> ir.Value:
    """What Resize and Upsample did below opset 11: asymmetric coordinates, nearest rounded by direction."""
    if scales is None or mode != "nearest":
        return op.Resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    known = constant(scales)
    steps: list[tuple[Operand, str]] = [(op.Max(scales, 1.0), "floor"), (op.Min(scales, 1.0), "ceil")]
    if known is not None:
        parts = [np.maximum(known, 1), np.minimum(known, 1)]
        steps = [(op.constant(p, ir.DataType.FLOAT), s[1]) for p, s in zip(parts, steps, strict=True) if (p != 1).any()]
        steps = steps or [(scales, "floor")]
    y = x
    for factor, rounding in steps:
        y = op.Resize(y, None, factor, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode=rounding)
    assert y is not None
    return y


#: Roundings of the coordinate (x + 1/2) / scale by those of (x + 1/2) / scale - 1/2.
_TF_ROUNDINGS = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}


def _tf_half_pixel(node: ir.Node) -> None:
    rounding = _TF_ROUNDINGS.get(str(_attribute(node, "nearest_mode", "round_prefer_floor")))
    if _attribute(node, "mode", "nearest") != "nearest" or rounding is None:
        raise UnsupportedNodeError(
            label(node),
            describe(node),
            "coordinates tf_half_pixel_for_nn with this mode and rounding have no newer form",
            "export the model again at opset 13 or newer",
        )
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "half_pixel")
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", rounding)


@_upgrade(10, "Upsample")
def _upsample(node: ir.Node, version: int, op: Builder) -> None:
    scales = _take(node, "scales")
    factor = op.constant(list(scales), ir.DataType.FLOAT) if scales is not None else node.inputs[1]
    mode = _take(node, "mode", "nearest")
    _replace(node, _resized(op, node.inputs[0], factor, mode if isinstance(mode, str) else mode.decode()))


@_upgrade(14, "BatchNormalization")
def _batch_normalization(node: ir.Node, version: int, op: Builder) -> None:
    if not _take(node, "spatial", 1):
        raise UnsupportedNodeError(
            label(node),
            describe(node),
            "spatial=0 keeps statistics per position",
            "export the model again at opset 9 or newer",
        )
    training = any(y.name for y in node.outputs[1:])
    if any(y.uses() or y.is_graph_output() for y in node.outputs[3:]):
        raise UnsupportedNodeError(
            label(node),
            describe(node),
            "it runs in training mode, and its saved statistics are used",
            "export the model in inference (eval) mode",
        )
    node.resize_outputs(3 if training else 1)
    if training:
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)


@_upgrade(9, "Scan")
def _scan(node: ir.Node, version: int, op: Builder) -> None:
    _replace_all(node, by_batch(node, op))


@_upgrade(11, "Scatter")
def _scatter(node: ir.Node, version: int, op: Builder) -> None:
    axis = _take(node, "axis", 0)
    _replace(node, op.ScatterElements(*node.inputs, axis=axis))


@_upgrade(16, "RoiAlign")
def _roi_align(node: ir.Node, version: int, op: Builder) -> None:
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "output_half_pixel"
    )


def _replace(node: ir.Node, value: ir.Value) -> None:
    """Put ``value`` in the place of the node's only output, which keeps its name."""
    _replace_all(node, [value])


def _replace_all(node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Put ``values`` in the place of the node's outputs, which keep their names."""
    names = [old.name for old in node.outputs]
    for old, value in zip(node.outputs, values, strict=True):
        value.type, value.shape = old.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph = node.graph
    if graph is not None:
        graph.remove(node, safe=True)
    for name, value in zip(names, values, strict=True):
        value.name = name
