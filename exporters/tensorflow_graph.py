"""From a traced TensorFlow function to an ONNX graph that keeps what the network has.

tf2onnx translates the operations. Its usual way first lets TensorFlow's optimiser drop biases that are
zero and multiply normalisations into weights, then merges equal weights; unless folding is asked for,
none of that happens here. What it translates wrongly is mended, what it cannot translate is an error
with the operation's name, and nodes and weights get the names that the layers have. tensorflow and
tf2onnx are imported inside the functions only.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from onnxplain.engine.errors import ExportError
from onnxplain.exporters.keras_layers import NORMALISATION_WEIGHTS, Layers

#: Steps of tf2onnx's optimiser that lose weights or layers.
_FOLDING_STEPS = ("merge_duplication",)
#: And the one that names things by addresses in memory, so that no two exports are the same.
_UNREPEATABLE_STEPS = ("einsum_optimizer",)
#: BatchNormalization as tf.nn writes it out.
_WRITTEN_OUT = re.compile(r"(^|/)batchnorm(_\d+)?/Rsqrt$")
_RESHAPING = ("Unsqueeze", "Squeeze", "Reshape", "Transpose")


@dataclass(frozen=True)
class Translation:
    """The graph, and how many layers of a kind the network had."""

    model: ir.Model
    before: Counter[str]


def translate(function: Any, opset: int, fold: bool, channels_first: Sequence[bool]) -> Translation:
    """An ONNX graph of a traced function; inputs and outputs in the function's order.

    Args:
        function: A concrete function of tensors that returns tensors, without variables to change.
        opset: 9 to 18.
        fold: Let TensorFlow's and tf2onnx's optimisers merge what they can.
        channels_first: By input, whether it is to be given as NCHW.

    Raises:
        ExportError: There are operations that ONNX, or tf2onnx, does not have.
    """
    try:
        graph_def, inputs, outputs = _frozen(function)
        before = Counter(BatchNormalization=sum(map(_normalises, graph_def.node)))
        proto, ranks = _through_tf2onnx(graph_def, inputs, outputs, opset, fold, channels_first)
        model = ir.from_proto(proto)
    except ExportError:
        raise
    except Exception as error:  # TensorFlow, tf2onnx and protobuf raise whatever they please
        raise ExportError(
            f"tf2onnx cannot translate the model: {type(error).__name__}: {' '.join(str(error).split())[:300]}; "
            "replace the layer that it names, or export with another opset"
        ) from error
    _own_weights(model)
    _forget_symbols(model)
    _order(model, inputs, outputs)
    _know_shapes(model, ranks)
    state_sizes(model)
    _refuse_unknown(model, opset)
    flatten_normalisations(model)
    RemoveUnusedNodesPass()(model)
    return Translation(model, before)


def _normalises(node: Any) -> bool:
    return node.op.startswith("FusedBatchNorm") or bool(_WRITTEN_OUT.search(node.name))


def _frozen(function: Any) -> tuple[Any, list[str], list[str]]:
    """The function's graph with variables and captured tensors as constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    graph_def = frozen.graph.as_graph_def(add_shapes=True)
    captured = {inner.op.name: outer for outer, inner in function.graph.captures if outer.dtype.name != "resource"}
    for node in graph_def.node:
        if node.op == "Placeholder" and node.name in captured:  # a tensor, as of a Normalization layer
            _make_constant(node, captured[node.name])
    inputs = [tensor.name for tensor in frozen.inputs if tensor.op.name not in captured]
    return graph_def, inputs, [tensor.name for tensor in frozen.outputs]


def _make_constant(node: Any, tensor: Any) -> None:
    import tensorflow as tf

    node.op = "Const"
    for key in list(node.attr):
        del node.attr[key]
    node.attr["dtype"].type = tensor.dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(tensor.numpy()))


def _through_tf2onnx(
    graph_def: Any,
    inputs: list[str],
    outputs: list[str],
    opset: int,
    fold: bool,
    channels_first: Sequence[bool],
) -> tuple[Any, dict[str, int]]:
    """The ONNX model, and the ranks that TensorFlow knows."""
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    if fold:
        with tf.Graph().as_default(), tf.device("/cpu:0"):
            tf.import_graph_def(graph_def, name="")
            graph_def = tf_loader.tf_optimize(inputs, outputs, graph_def)
    with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
        tf.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=graph):
            translated = tfonnx.process_tf_graph(
                graph,
                continue_on_error=True,  # what it lacks is looked for in the result
                opset=opset,
                custom_op_handlers={"Erfc": (_erfc, [])},
                inputs_as_nchw=[name for name, first in zip(inputs, channels_first, strict=True) if first],
                input_names=inputs,
                output_names=outputs,
            )
    left_out = _UNREPEATABLE_STEPS if fold else (*_UNREPEATABLE_STEPS, *_FOLDING_STEPS)
    steps = {name: step for name, step in optimizer._get_optimizers().items() if name not in left_out}
    if not fold:
        steps["remove_back_to_back"] = _without_fusion(steps["remove_back_to_back"])
    try:
        made = optimizer.optimize_graph(translated, catch_errors=False, optimizers=steps)
    except Exception:  # a step that fails is left out then; each works on a copy, which takes its time
        made = optimizer.optimize_graph(translated, catch_errors=True, optimizers=steps)
    return made.make_model("onnxplain"), dict(_ranks(made))


def _ranks(graph: Any) -> Iterator[tuple[str, int]]:
    for node in graph.get_nodes():
        for name in node.output:
            shape = graph.get_shape(name)
            if shape is not None:
                yield name, len(shape)
        for body in (node.get_body_graphs() or {}).values():
            yield from _ranks(body)


def _without_fusion(step: Any) -> Any:
    """tf2onnx's step that drops pairs of transposes and casts, without its merging of layers."""
    from tf2onnx.optimizer import back_to_back_optimizer as module

    class Pairs(step):  # type: ignore[misc]  # a class of an untyped package
        def _optimize(self, graph: Any) -> Any:
            table = module._func_map
            merging = {kinds: table.pop(kinds) for kinds in list(table) if "BatchNormalization" in kinds}
            try:
                return super()._optimize(graph)
            finally:
                table.update(merging)

    return Pairs


def _forget_symbols(model: ir.Model) -> None:
    """tf2onnx gives each open axis a name of its own, by a counter that never starts again."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            if value.shape is not None and not value.shape.is_static():
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])


def _know_shapes(model: ir.Model, ranks: Mapping[str, int]) -> None:
    """Shapes by ONNX's rules; where they lose the rank, as behind a loop, TensorFlow's."""
    for again in (False, True):
        if again:
            values = (value for node in model.graph.all_nodes() for value in node.outputs)
            lost = [value for value in values if value.shape is None and value.name in ranks]
            if not lost:
                return
            for value in lost:
                value.shape = ir.Shape([None] * ranks[value.name or ""])
        with contextlib.suppress(Exception):  # a graph above 2 GB, or operators that are refused later
            ShapeInferencePass(data_prop=True)(model)


def _own_weights(model: ir.Model) -> None:
    """Weights apart from the protobuf that they came in, so that they can be renamed."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)


def _order(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Insist on the function's inputs and outputs, and bring them into its order."""
    by_name = {value.name: value for value in model.graph.inputs}
    surplus = sorted(str(name) for name in set(by_name) - set(inputs))
    if surplus:
        raise ExportError(
            f"the translated graph has inputs that the model has not: {', '.join(surplus)}; they are tensors that the "
            "model uses without owning them: make them weights, or constants"
        )
    missing = [name for name in inputs if name not in by_name]
    if missing:
        raise ExportError(f"the model does not use its input {', '.join(missing)}; leave it out")
    model.graph.inputs[:] = [by_name[name] for name in inputs]
    found = {value.name: value for value in model.graph.outputs}
    if set(found) != set(outputs):
        raise ExportError("the translated graph lacks outputs of the model; return tensors that it computes")
    model.graph.outputs[:] = [found[name] for name in outputs]


# ----- mending ----------------------------------------------------------------------------------------


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Erfc(x), for which ONNX has no operator and tf2onnx no translation, as 1 - Erf(x)."""
    import numpy as np
    from tf2onnx import utils

    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    one = graph.make_const(utils.make_name(f"{name}/one"), np.ones((), utils.map_onnx_to_numpy_type(dtype)))
    (x,), (y,) = list(node.input), list(node.output)
    graph.remove_node(name)
    erf = graph.make_node("Erf", [x], shapes=[shape], dtypes=[dtype], name=utils.make_name(f"{name}/erf"))
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=[y], shapes=[shape], dtypes=[dtype], name=name)


def state_sizes(model: ir.Model) -> None:
    """Give a Reshape its sizes as numbers where all but one are known, in place of a computation from Shape."""
    for node in list(model.graph):
        if node.op_type != "Reshape" or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        shape, sizes = node.outputs[0].shape, node.inputs[1]
        if shape is None or sizes.const_value is not None or sizes.producer() is None:
            continue
        numbers = [size if isinstance(size, int) else -1 for size in shape]
        if numbers.count(-1) <= 1 and 0 not in numbers:
            name = f"{node.name}/shape"
            known = ir.Value(name=name, const_value=ir.tensor(numbers, dtype=ir.DataType.INT64, name=name))
            model.graph.register_initializer(known)
            node.replace_input_with(1, known)


def _replace(old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Put ``new`` in the place of ``old``; the last one's output takes over."""
    before, after = old.outputs[0], new[-1].outputs[0]
    name, graph = before.name, old.graph
    assert graph is not None  # it was found in one
    after.shape, after.type = before.shape, before.type
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    graph.insert_before(old, new)
    graph.remove(old, safe=True)
    after.name = name


def flatten_normalisations(model: ir.Model) -> None:
    """Take away the axes of length 1 that a BatchNormalization of two axes was given to be traced."""
    for node in list(model.graph):
        if node.op_type != "BatchNormalization":
            continue
        start, end = node.inputs[0], node.outputs[0]
        up, down = [], []
        while start is not None and (maker := start.producer()) is not None and maker.op_type in _RESHAPING:
            if len(start.uses()) != 1 or start.is_graph_output():
                break
            up.append(maker)
            start = maker.inputs[0]
        while len(end.uses()) == 1 and not end.is_graph_output():
            (use,) = end.uses()
            if use.node.op_type not in _RESHAPING or use.idx != 0:
                break
            down.append(use.node)
            end = use.node.outputs[0]
        if start is None or start.shape is None or end.shape is None or len(start.shape) != 2 or len(end.shape) != 2:
            continue
        if not up or not down or start.shape[1] != end.shape[1]:
            continue
        attributes = [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()]
        flat = ir.Node("", node.op_type, [start, *node.inputs[1:]], attributes, num_outputs=1, name=node.name)
        _replace(down[-1], [flat])
        for gone in (*reversed(down[:-1]), node, *up):
            model.graph.remove(gone, safe=True)


def _refuse_unknown(model: ir.Model, opset: int) -> None:
    import onnx

    unknown: dict[str, str] = {}
    for node in model.graph.all_nodes():
        try:
            onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            unknown.setdefault(node.op_type, node.name or "")
    if unknown:
        named = ", ".join(f"{kind} ({name})" for kind, name in sorted(unknown.items()))
        raise ExportError(
            f"ONNX has no operator for what the model does: {named}; replace the layer, or move text and tables out of it"
        )


# ----- names ------------------------------------------------------------------------------------------


def name_by_layers(model: ir.Model, layers: Layers) -> None:
    """Call nodes, their outputs and weights what the framework calls them.

    Nodes are ``layer/operation``, an output is named like its node, weights are ``layer/kernel`` and so on.
    """
    places = {id(node): layers.place(node.name or "")[0] for node in model.graph.all_nodes()}
    taken = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    for graph in (model.graph, *model.graph.subgraphs()):
        _order_weights(graph)
    for value in list(model.graph.initializers.values()):
        value.name = _free(_weight(value, places, layers), taken)
        if value.const_value is not None:
            value.const_value.name = value.name
    node_names: set[str | None] = set()
    # The framework's own operations come first: what tf2onnx adds to one is called after it.
    for node in sorted(model.graph.all_nodes(), key=lambda node: _added(node.name)):
        public = _tidy(layers.public(node.name or "")) or node.op_type
        if node.op_type == "Identity":  # which of several tf2onnx leaves is chance
            public = f"{places[id(node)]}/Identity".lstrip("/")
        elif _added(node.name) and public != node.op_type:
            public = f"{public}/{node.op_type}"
        node.name = _free(public, node_names)
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            for index, value in enumerate(node.outputs):
                if graph is not model.graph or not value.is_graph_output():
                    value.name = _free(f"{node.name}:{index}" if index else node.name or "", taken)
    for number, graph in enumerate(model.graph.subgraphs()):
        graph.name = f"body_{number}"
        _order_twins(graph)
        for value in (*graph.inputs, *graph.initializers.values()):
            numbered = re.match(r"(const_|axes_const|cond__|new_shape)", value.name or "")
            value.name = _free("constant" if numbered else _tidy(layers.public(value.name or "loop")), taken)
            if value.const_value is not None:
                value.const_value.name = value.name


def _order_twins(body: ir.Graph) -> None:
    """Of two outputs of a body, one the Identity of the other, the plain one first: tf2onnx leaves it to chance."""
    outputs = list(body.outputs)
    for node in body:
        twins = (node.inputs[0], node.outputs[0])
        if node.op_type == "Identity" and twins[0] in outputs and twins[1] in outputs:
            first, second = sorted(outputs.index(value) for value in twins if value is not None)
            outputs[first], outputs[second] = twins[0] or outputs[first], twins[1]
    body.outputs[:] = outputs


def _order_weights(graph: ir.Graph) -> None:
    """Weights in the order in which the nodes use them; tf2onnx leaves it to chance."""
    rank: dict[str, int] = {}
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None:
                rank.setdefault(value.name or "", len(rank))
    ordered = sorted(graph.initializers.items(), key=lambda item: rank.get(item[0], len(rank)))
    graph.initializers.clear()
    for _, value in ordered:
        graph.register_initializer(value)


def _weight(value: ir.Value, places: dict[int, str], layers: Layers) -> str:
    uses = sorted(value.uses(), key=lambda use: use.idx)
    layer = places.get(id(uses[0].node), "") if uses else ""
    if uses and uses[0].node.op_type == "BatchNormalization" and 1 <= uses[0].idx <= 4:
        own = NORMALISATION_WEIGHTS[uses[0].idx - 1]
        if own in layers.weights.get(layer, {}):
            return f"{layer}/{own}" if layer else own
    array = value.const_value.numpy() if value.const_value is not None else None
    name = layers.weight_name(array, layer) if array is not None and array.dtype.kind not in "OSU" else None
    if name is None and re.match(r"const_fold_opt__|new_shape__|axes_const__", value.name or "") and layer:
        return f"{layer}/constant"
    return name or _tidy(layers.public(value.name or "constant"))


def _added(name: str | None) -> bool:
    """Whether tf2onnx made the node: it numbers its own."""
    return re.search(r"__\d+$", name or "") is not None


def _tidy(name: str) -> str:
    """Without tf2onnx's counters and TensorFlow's output numbers."""
    return re.sub(r"(__\d+)+$", "", re.sub(r":\d+$", "", name)).removesuffix("/resource")


def _free(name: str, taken: set[str | None]) -> str:
    number, free = 1, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free
