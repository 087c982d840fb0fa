"""Class activation maps' common ground: which tensor of the network they look at, and why that one.

The layer is the last feature map before the network gives up its places: further back it would see less
of the decision, further on there would be no map. Pooling and copying are stepped over, because the map
in front of them is the finer one.

On a sequence of tokens it is the last one of which the answer still reads the places: behind the last attention, a
classifier on the class token reads nothing else, and gradients at the patches are zero there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.axes import Joined, Unfolding
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import label
from onnxplain.engine.graph.shapes import dims, is_float
from onnxplain.engine.places import Labels, find_places, spatial_axes
from onnxplain.engine.reading import Reading, is_sequence
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.terms import placing

#: Stepped over on the way back: they make no new features.
_COPIES = {"MaxPool", "AveragePool", "LpPool", "Dropout", "Identity", "Cast", "Transpose", "Pad", "Resize"}


@dataclass(frozen=True)
class Layer:
    """The tensor that a class activation map is made of.

    Attributes:
        value: The tensor in the graph under construction.
        unfolding: How it, and its adjoint, are brought to one axis per place.
        reason: Why this one, in words.
    """

    value: ir.Value
    unfolding: Unfolding
    reason: str

    @property
    def labels(self) -> Labels:
        """Its axes, once it is brought to one axis per place."""
        return self.unfolding.labels

    def unfolded(self, op: Builder, value: ir.Value) -> ir.Value:
        """Emit a tensor of the layer's shape with one axis per place; a class token is left out."""
        return self.unfolding.apply(op, value)

    @property
    def places(self) -> list[int]:
        """Its spatial axes."""
        return list(spatial_axes(self.labels).values())

    @property
    def channels(self) -> list[int]:
        """Its axes that are neither batch nor places."""
        return [i for i in range(1, len(self.labels)) if i not in self.places]


def choose_layer(rewriter: Rewriter, source: ir.Value, labels: Labels, explained: ir.Value, name: str = "") -> Layer:
    """The named layer, or the last feature map before the places are lost.

    Args:
        rewriter: The graph.
        source: The attributed input, whose places count.
        labels: Its axes.
        explained: The tensor that the score is taken from.
        name: A tensor, or a node whose first result is meant; empty: chosen here.

    Raises:
        OptionError: No tensor between input and target has the input's places, or the named one has not.
    """
    wanted = set(spatial_axes(labels))
    if len(labels) < 3 or not wanted:
        raise OptionError(
            f"a class activation map needs feature maps, and '{source.name}' has no places beside its features; "
            "use a gradient method"
        )
    places = find_places(rewriter.forward_nodes, {source: labels})
    found = {v: way for v, axes in places.items() if (way := _way(v, axes, wanted)) is not None}
    used = _ancestors(explained)
    if name:
        return _named(rewriter, name, {v: way for v, way in found.items() if v in used})
    reading = Reading(explained, places)

    def usable(value: ir.Value) -> bool:
        return value in found and value in used and value in reading.whole

    feature_maps = [v for n in rewriter.forward_nodes for v in n.outputs if usable(v) and not _is_point(v, places[v])]
    dense = usable(explained)
    if dense:  # its own last layer makes the answer, the features are before it
        feature_maps = _before_prediction(feature_maps, explained)
    if not feature_maps:
        raise OptionError(
            f"no tensor between '{source.name}' and the target still has the input's places; name one with layer="
        )
    last = feature_maps[-1]
    if _has_tokens(places[last]):
        value = _tokens(feature_maps, reading)
        return Layer(value, found[value], _reason_of_tokens(value, places[value]))
    value = _in_front_of_copies(last, usable)
    users = [n for n in last.consumers() if any(y in used for y in n.outputs)]
    ends = f"'{label(users[-1])}' ({users[-1].op_type})" if users else "the output"
    what = "makes the prediction" if dense else "gives up its places"
    over = "" if value is last else f", pooling after it stepped over ('{last.name}')"
    reason = f"layer '{value.name}' {_sizes(value)}: the last feature map before {ends} {what}{over}"
    return Layer(value, found[value], reason)


def _way(value: ir.Value, labels: Labels, wanted: set[str]) -> Unfolding | None:
    return placing(value, labels, wanted) if len(labels) > 2 and is_float(value) else None


#: What makes the tokens that an attention, or a classifier, reads.
_NORMALIZATIONS = {"LayerNormalization", "RMSNormalization", "BatchNormalization"}
#: What an attention applies to them first: queries, keys and values in one product.
_LINEAR = {"MatMul", "Gemm", "Add", "Reshape", "Transpose"}


def _has_tokens(labels: Labels) -> bool:
    """Whether this is a sequence of tokens with features, rather than the feature maps of a series."""
    tokens = sum(is_sequence(axis) for axis in labels)
    return any(isinstance(axis, Joined) for axis in labels) or (tokens == 1 and (len(labels) > 3 or labels[-1] is None))


def _is_row_of_tokens(labels: Labels) -> bool:
    return len(labels) == 3 and labels[0] == "batch" and is_sequence(labels[1])


def _tokens(feature_maps: list[ir.Value], reading: Reading) -> ir.Value:
    """The last tokens; in front of what is linear in them, where those are normalised, as an attention reads them."""
    rows = [v for v in feature_maps if _is_row_of_tokens(reading.places[v])]
    last = (rows or feature_maps)[-1]
    value, node = last, last.producer()
    while node is not None and node.op_type in _LINEAR:
        carried = [x for x in node.inputs if x is not None and x in reading.whole and x in reading.places]
        if len(carried) != 1:
            break
        value, node = carried[0], carried[0].producer()
    return value if node is not None and node.op_type in _NORMALIZATIONS and value in feature_maps else last


def _reason_of_tokens(value: ir.Value, labels: Labels) -> str:
    extra = sum(axis.before + axis.after for axis in labels if isinstance(axis, Joined))
    left = f", {extra} token{'s' if extra > 1 else ''} without a place left out" if extra else ""
    return f"layer '{value.name}' {_sizes(value)}: the last tokens of which the answer reads the places{left}"


def _named(rewriter: Rewriter, name: str, usable: Mapping[ir.Value, Unfolding]) -> Layer:
    nodes = {label(n): n for n in rewriter.forward_nodes}
    value = nodes[name].outputs[0] if name in nodes else rewriter.value(name)
    if value not in usable:
        raise OptionError(
            f"layer='{name}' has not the input's places, or the target does not depend on it; "
            "name a feature map between input and target"
        )
    return Layer(value, usable[value], f"layer '{value.name}' {_sizes(value)}: as asked for")


def _ancestors(value: ir.Value) -> set[ir.Value]:
    """All values that a value depends on, itself among them."""
    found: set[ir.Value] = set()
    queue = [value]
    while queue:
        current = queue.pop()
        if current not in found:
            found.add(current)
            node = current.producer()
            queue += [x for x in node.inputs if x is not None] if node is not None else []
    return found


def _is_point(value: ir.Value, labels: Labels) -> bool:
    """Whether every place axis has size one: a pooled map has labels and no places."""
    known = dims(value)
    if known is None or any(isinstance(axis, Joined) for axis in labels):
        return False
    return all(known[a] == 1 for a in spatial_axes(labels).values())


def _in_front_of_copies(value: ir.Value, usable: object) -> ir.Value:
    assert callable(usable)
    node = value.producer()
    while node is not None and node.op_type in _COPIES and node.inputs[0] is not None and usable(node.inputs[0]):
        value = node.inputs[0]
        node = value.producer()
    return value


#: Operators that apply weights: of a dense prediction the last one makes the answer.
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}


def _before_prediction(feature_maps: list[ir.Value], explained: ir.Value) -> list[ir.Value]:
    """What the last layer with weights reads, and what is before it; behind it are shapes, scales and activations."""
    last, node = explained, explained.producer()
    while node is not None and node.op_type not in _LAYERS:
        carried = [x for x in node.inputs if x in feature_maps]
        if len(carried) != 1 or carried[0] is None:
            break
        last, node = carried[0], carried[0].producer()
    earlier = _ancestors(last) - {last}
    return [v for v in feature_maps if v in earlier]


def _sizes(value: ir.Value) -> str:
    known = dims(value) or ()
    return "(" + " x ".join("?" if d is None else str(d) for d in known[1:]) + ")"
