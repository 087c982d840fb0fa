"""Small files: short names of what lies inside, and nothing that a runtime does not read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx_ir as ir

from onnxplain.engine.graph.builder import PREFIX, names_of

#: What names of inner tensors begin with.
_SHORT = "e"


def compact(model: ir.Model, *, keep_names: bool = False) -> None:
    """Short names of inner tensors, and no sizes of them: half of a file without weights is names.

    The model's own nodes, weights, inputs and outputs keep theirs.

    Args:
        model: Changed in place.
        keep_names: Keep those of the model's own inner tensors as well.
    """
    kept = {v.name for v in (*model.graph.inputs, *model.graph.outputs)}
    short = _names(names_of(model.graph))
    for node in model.graph.all_nodes():
        added = (node.name or "").startswith(PREFIX) or (node.name or "").endswith("/again")
        if added:
            node.name = None
        node.doc_string = None
        node.metadata_props.clear()  # exporters note stack traces there
        for value in node.outputs:
            if value.name in kept or value.is_graph_output():
                continue
            value.shape = value.type = None
            value.metadata_props.clear()
            if value.name and (added or not keep_names):
                value.name = next(short)
    for graph in model.graphs():
        for weight in list(graph.initializers.values()):
            if (weight.name or "").startswith(PREFIX) and not weight.is_graph_output():
                weight.name = next(short)


def _names(taken: set[str]) -> Iterator[str]:
    """Short names that are free."""
    return (name for name in map(f"{_SHORT}{{}}".format, itertools.count()) if name not in taken)
