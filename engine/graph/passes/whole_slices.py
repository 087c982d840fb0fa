"""Slices leave out the axes of which they take all.

Exporters of TensorFlow write ``x[:, 4:]`` with a start and an end for every axis. The standard's inference does not
see that an open size stays what it was, and the batch would be lost from sight behind such a Slice.

1. An axis that is taken from its start to its end in steps of one is left out.
2. A Slice that takes all of every axis is an Identity.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.shapes import constant

#: Ends from here on mean the end of the axis.
_END = int(np.iinfo(np.int32).max)

#: Start, end, axis and step of one axis.
_Bounds = tuple[int, int, int, int]


class WholeSlicesPass(ir.passes.InPlacePass):
    """See the module's text. Requires constants as initializers."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken: set[str] | None = None
        for node in list(walk(model.graph)):
            if node.op_type != "Slice" or node.domain not in ("", "ai.onnx") or not isinstance(node.graph, ir.Graph):
                continue
            bounds = _bounds(node)
            kept = [one for one in bounds if not (one[0] == 0 and one[1] >= _END and one[3] == 1)]
            if len(kept) == len(bounds):
                continue
            taken = names_of(model.graph) if taken is None else taken
            op = Builder(node.graph, before=node, taken=taken)
            node.resize_inputs(5 if kept else 1)
            if not kept:
                node.op_type = "Identity"
                continue
            for i, column in enumerate(zip(*kept, strict=True)):
                node.replace_input_with(1 + i, op.constant(np.asarray(column, np.int64)))
        return ir.passes.PassResult(model, modified=taken is not None)


def _bounds(node: ir.Node) -> list[_Bounds]:
    """What is taken, axis by axis; empty where the file does not tell it in numbers."""
    known = [None if x is None else constant(x) for x in list(node.inputs)[1:]]
    if len(known) < 2 or any(k is None and x is not None for k, x in zip(known, list(node.inputs)[1:], strict=True)):
        return []
    starts, ends = ([int(v) for v in k.reshape(-1)] if k is not None else [] for k in known[:2])
    axes = known[2] if len(known) > 2 and known[2] is not None else np.arange(len(starts))
    steps = known[3] if len(known) > 3 and known[3] is not None else np.ones(len(starts))
    rows = zip(starts, ends, (int(a) for a in axes.reshape(-1)), (int(s) for s in steps.reshape(-1)), strict=False)
    return list(rows)
