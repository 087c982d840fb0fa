"""Scan of opset 8, which goes through every sample of a batch by itself, in the form that followed it.

1. A Scan over the batch, with a Scan over the steps of one sample as its body: states and sequences of all
   samples are what the outer one goes through.
2. Lengths per sample: sequences are cut to theirs, and what is collected is filled up with zeros again.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims, set_dims


def by_batch(node: ir.Node, op: Builder) -> list[ir.Value]:
    """Emit the two Scans in front of ``node`` and give its results.

    Args:
        node: A Scan whose first input is the lengths, or left out.
        op: Builder at the working opset, in front of the node.
    """
    scanned = node.attributes["num_scan_inputs"].as_int()
    lengths, *whole = node.inputs
    states = len(whole) - scanned
    name = node.name or "scan"
    graph = ir.Graph([], [], nodes=[], opset_imports={"": op.opset}, name=op.unique_name(f"{name}/sample"))
    inner = op.inside(graph)
    items = [_item(inner, graph, x, f"{name}/item") for x in whole if x is not None]
    length = None if lengths is None else inner.Reshape(_item(inner, graph, lengths, f"{name}/length"), [1])
    steps = [x if length is None else inner.Slice(x, [0], length, [0]) for x in items[states:]]
    directions = node.attributes.get("directions")
    results = inner.emit(
        "Scan",
        [*items[:states], *steps],
        outputs=len(node.outputs),
        body=node.attributes["body"].as_graph().clone(allow_outer_scope_values=True),
        num_scan_inputs=scanned,
        scan_input_directions=None if directions is None else list(directions.as_ints()),
    )
    for i, (value, old) in enumerate(zip(results, node.outputs, strict=True)):
        value.type = old.type
        graph.outputs.append(value if length is None or i < states else _filled(inner, value, items[states]))
    given = [x for x in (*whole, lengths) if x is not None]
    return op.emit("Scan", given, outputs=len(node.outputs), body=graph, num_scan_inputs=len(given))


def _item(op: Builder, graph: ir.Graph, whole: ir.Value, stem: str) -> ir.Value:
    """What one sample has of a value: an input of the outer body."""
    value = ir.Value(name=op.unique_name(stem), type=whole.type)
    known = dims(whole)
    if known:
        set_dims(value, known[1:])
    graph.inputs.append(value)
    return value


def _filled(op: Builder, kept: ir.Value, sequence: ir.Value) -> ir.Value:
    missing = op.Sub(op.Shape(sequence, start=0, end=1), op.Shape(kept, start=0, end=1))
    value = op.Pad(kept, op.Concat([0], missing, axis=0), None, [0])
    value.type = kept.type
    return value
