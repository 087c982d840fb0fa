"""Which opset a file is stamped with: the working one, or a newer one on request.

Newer files are for runtimes that ask for them; nothing in the graph changes. Whatever is written has to load in
the oldest runtime that is supported, unless the model itself needs a newer opset.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.canonical import ir_version_for
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.passes.upgrade_opset import means_the_same
from onnxplain.engine.shipping.profiles import Profile

#: The newest opset that the oldest supported runtime loads (onnxruntime 1.19.2).
NEWEST_OPSET = 21


def stamp(model: ir.Model, opset: int, profile: Profile | None = None) -> None:
    """Stamp a model with a newer opset.

    Args:
        model: Changed in place.
        opset: From the model's own up to :data:`NEWEST_OPSET`.
        profile: What the file is for.

    Raises:
        OptionError: An older opset, one that the oldest runtime does not load, or an operator that means something
            else there.
    """
    own = model.graph.opset_imports.get("", 0)
    if opset == own:
        return
    if opset < own:
        raise OptionError(
            f"opset {opset} is not possible: the graph is written at opset {own}, and forms are only brought "
            f"upwards; give {own} to {NEWEST_OPSET}, or leave it out"
        )
    if opset > NEWEST_OPSET:
        raise OptionError(
            f"opset {opset} is not possible: the oldest supported runtime (onnxruntime 1.19.2) loads no file above "
            f"opset {NEWEST_OPSET}; give {own} to {NEWEST_OPSET}, or leave it out"
        )
    if profile is not None and profile.newest_opset and opset > profile.newest_opset:
        raise OptionError(
            f"opset {opset} is not possible for {profile.name}, which reads files up to opset {profile.newest_opset} "
            f"({profile.version}); give an older one, or leave it out"
        )
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not means_the_same(node, own, opset):
            raise OptionError(
                f"opset {opset} is not possible: {label(node)} ({describe(node)}) means something else there "
                f"than at {own}; leave it out"
            )
    for graph in (model.graph, *model.graph.subgraphs()):
        if "" in graph.opset_imports or graph is model.graph:
            graph.opset_imports[""] = opset
    model.ir_version = ir_version_for(model.graph.opset_imports)
