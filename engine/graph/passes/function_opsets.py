"""Functions of the model that are written for another opset than the model itself.

The standard lets the two differ where every operator of the body is the same at both. Such a body is stamped with
the model's opset, so that it can be taken in; where an operator's form or meaning changed, the model is refused by
the function's and the operator's name: the runtime would read one for the other.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedVersionError
from onnxplain.engine.graph.builder import schema_of
from onnxplain.engine.graph.captures import walk

#: Operators whose meaning changed under an unchanged form.
_REDEFINED = {
    "Softmax", "LogSoftmax", "Hardmax", "BatchNormalization", "GroupNormalization", "Resize", "Upsample", "RoiAlign",
    "Dropout", "Scan", "Split",
}  # fmt: skip


class FunctionOpsetsPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        wanted = model.graph.opset_imports.get("", 0)
        modified = False
        for function in model.functions.values():
            own = function.opset_imports.get("", wanted)
            if own == wanted or not wanted:
                continue
            for node in walk(function):
                if node.domain in ("", "ai.onnx") and not _same(node, own, wanted):
                    raise UnsupportedVersionError(
                        f"function '{function.domain}::{function.name}' of the model is written for opset {own} and the "
                        f"model for {wanted}, and {node.op_type} is not the same at both; export the model with one opset, or "
                        "convert it with onnx.version_converter after onnx.inliner"
                    )
            function.opset_imports[""] = wanted
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _same(node: ir.Node, own: int, wanted: int) -> bool:
    """Whether the node says at opset ``wanted`` what it says at its own."""
    try:
        here, there = (schema_of(node.op_type, version) for version in (own, wanted))
    except ValueError:
        return False
    if here.since_version == there.since_version:
        return True
    if node.op_type in _REDEFINED or [x.name for x in here.outputs] != [x.name for x in there.outputs]:
        return False
    return _fits(node, there) and _prefix([x.name for x in here.inputs], [x.name for x in there.inputs])


def _fits(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    return len(node.inputs) <= schema.max_input and all(name in schema.attributes for name in node.attributes)


def _prefix(first: list[str], second: list[str]) -> bool:
    return all(a == b for a, b in zip(first, second, strict=False))
