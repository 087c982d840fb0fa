"""Class activation maps' common ground: which tensor of the network they look at, and why that one.

The layer is the last feature map before the network gives up its places: further back it would see less
of the decision, further on there would be no map. Pooling and copying are stepped over, because the map
in front of them is the finer one.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.names import label
from onnxplain.engine.graph.shapes import dims, is_float
from onnxplain.engine.places import Labels, find_places, spatial_axes
from onnxplain.engine.rewrite import Rewriter

#: Stepped over on the way back: they make no new features.
_COPIES = {"MaxPool", "AveragePool", "LpPool", "Dropout", "Identity", "Cast", "Transpose", "Pad", "Resize"}


@dataclass(frozen=True)
class Layer:
    """The tensor that a class activation map is made of.

    Attributes:
        value: The tensor in the graph under construction.
        labels: Its axes.
        reason: Why this one, in words.
    """

    value: ir.Value
    labels: Labels
    reason: str

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
    used = _ancestors(explained)

    def usable(value: ir.Value) -> bool:
        found = places.get(value, ())
        return value in used and len(found) > 2 and wanted <= set(spatial_axes(found)) and is_float(value)

    if name:
        return _named(rewriter, name, places, usable)
    feature_maps = [v for n in rewriter.forward_nodes for v in n.outputs if usable(v) and not _is_point(v, places[v])]
    if usable(explained):  # a dense prediction: its own last layer makes the answer, the features are before it
        feature_maps = _before_prediction(feature_maps, explained)
    if not feature_maps:
        raise OptionError(
            f"no tensor between '{source.name}' and the target still has the input's places; name one with layer="
        )
    last = feature_maps[-1]
    value = _in_front_of_copies(last, usable)
    users = [n for n in last.consumers() if any(y in used for y in n.outputs)]
    ends = f"'{label(users[-1])}' ({users[-1].op_type})" if users else "the output"
    over = "" if value is last else f", pooling after it stepped over ('{last.name}')"
    reason = f"layer '{value.name}' {_sizes(value)}: the last feature map before {ends} gives up its places{over}"
    return Layer(value, places[value], reason)


def _named(rewriter: Rewriter, name: str, places: dict[ir.Value, Labels], usable: object) -> Layer:
    assert callable(usable)
    nodes = {label(n): n for n in rewriter.forward_nodes}
    value = nodes[name].outputs[0] if name in nodes else rewriter.value(name)
    if not usable(value):
        raise OptionError(
            f"layer='{name}' has not the input's places, or the target does not depend on it; "
            "name a feature map between input and target"
        )
    return Layer(value, places[value], f"layer '{value.name}' {_sizes(value)}: as asked for")


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
    return known is not None and all(known[a] == 1 for a in spatial_axes(labels).values())


def _in_front_of_copies(value: ir.Value, usable: object) -> ir.Value:
    assert callable(usable)
    node = value.producer()
    while node is not None and node.op_type in _COPIES and node.inputs[0] is not None and usable(node.inputs[0]):
        value = node.inputs[0]
        node = value.producer()
    return value


def _before_prediction(feature_maps: list[ir.Value], explained: ir.Value) -> list[ir.Value]:
    last = _in_front_of_copies(explained, lambda v: v in feature_maps)
    earlier = _ancestors(last) - {last}
    return [v for v in feature_maps if v in earlier]


def _sizes(value: ir.Value) -> str:
    known = dims(value) or ()
    return "(" + " x ".join("?" if d is None else str(d) for d in known[1:]) + ")"
