"""CastLike -> Cast, wherever the type is known: of its second operand nothing but the type is read.

Left as it is, everything behind ``CastLike(1.0, x)`` would count as depending on x, and a constant that an
exporter wrote that way would be no parameter any more.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.captures import walk


class CastLikePass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in walk(model.graph):
            if node.op_type != "CastLike" or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
                continue
            like = node.inputs[1]
            if like is None or like.dtype in (None, ir.DataType.UNDEFINED):
                continue
            node.op_type = "Cast"
            node.attributes["to"] = ir.AttrInt64("to", like.dtype.value)
            node.resize_inputs(1)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
