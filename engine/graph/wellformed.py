"""Finds graphs that are no graphs: names that are not text, defined twice, or used and nowhere defined.

Nodes may stand in any order here; sorting is the passes' work. What is checked is what makes every later
step, and every runtime, fail with an error of its own kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import onnx

from onnxplain.engine.errors import ModelFileError


def check_structure(proto: onnx.ModelProto, name: str) -> None:
    """Check the model's graph, the graphs inside its nodes, and its functions.

    Raises:
        ModelFileError: Names are not text, doubly defined or undefined; the message names one.
    """
    for import_ in proto.opset_import:
        _text(import_.domain, name)
    _check_graph(proto.graph, frozenset(), name)
    for function in proto.functions:
        _unique([*function.input, *_results(function.node)], name)
        _check_nodes(function.node, frozenset(function.input) | frozenset(_results(function.node)), name)
        _known(function.output, frozenset(function.input) | frozenset(_results(function.node)), name)


def _check_graph(graph: onnx.GraphProto, outer: Set[str], name: str) -> None:
    inputs = [v.name for v in graph.input]
    weights = [*(t.name for t in graph.initializer), *(t.values.name for t in graph.sparse_initializer)]
    results = _results(graph.node)
    for each in (inputs, weights, [*set(inputs) | set(weights), *results]):
        _unique(each, name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            _text(dim.dim_param, name)
    inside = frozenset((*inputs, *weights, *results))
    _check_nodes(graph.node, outer | inside, name)
    # An outer value may be returned from a branch; at the top there is nothing outside.
    _known([v.name for v in graph.output], outer | inside, name)
    _unique([v.name for v in graph.output], name)


def _check_nodes(nodes: Iterable[onnx.NodeProto], defined: Set[str], name: str) -> None:
    for node in nodes:
        for text in (node.name, node.op_type, node.domain):
            _text(text, name)
        _known(node.input, defined, name)
        for attribute in node.attribute:
            _text(attribute.name, name)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_graph(graph, defined, name)


def _results(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    return [y for node in nodes for y in node.output if y]


def _text(value: object, name: str) -> None:
    if not isinstance(value, str):  # protobuf hands over bytes where a text does not decode
        raise ModelFileError(f"{name}: the name {value!r} is not UTF-8 (a damaged file); export or copy it again")


def _unique(names: Iterable[str], name: str) -> None:
    seen: set[str] = set()
    for each in names:
        _text(each, name)
        if each in seen or not each:
            raise ModelFileError(
                f"{name}: tensor '{each}' is defined {'twice' if each else 'without a name'}, so the graph has no meaning; "
                "export the model again"
            )
        seen.add(each)


def _known(names: Iterable[str], defined: Set[str], name: str) -> None:
    for each in names:
        _text(each, name)
        if each and each not in defined:
            raise ModelFileError(
                f"{name}: tensor '{each}' is used, and nothing computes or feeds it (a damaged file?); export the model again"
            )
