"""Small files: short names for what was added, and nothing that a runtime does not read."""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import PREFIX, names_of

#: What names of inner tensors begin with.
_SHORT = "e"


def compact(model: ir.Model) -> None:
    """Short names for what was added, and no sizes of inner tensors: half of a file without weights is names."""
    kept = {v.name for v in (*model.graph.inputs, *model.graph.outputs)}
    taken = names_of(model.graph)
    count = 0
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
            if added and value.name:
                name = f"{_SHORT}{count}"
                while name in taken:
                    count += 1
                    name = f"{_SHORT}{count}"
                value.name = name
                taken.add(name)
