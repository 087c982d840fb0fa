"""Finds where integers become floats: embedding lookups, in the two forms in which models have them, and pixels.

1. Gather of rows of a constant table;
2. a product with the constant table, of what is one where an integer equals a constant and zero elsewhere (one-hot);
3. a model's one integer input that is cast to floats as it is, or dequantised: a picture of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxplain.engine.graph.shapes import Dim, constant, dims, is_float, rank

#: Operators that do not change what is one and what is zero.
_KEEPING = {"Cast", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Expand", "Flatten", "Transpose"}

#: Operators that make floats of integers, number by number, and those that only move numbers.
_CONVERTING = {"Cast", "CastLike", "DequantizeLinear"}
_MOVING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}
_INTEGERS = frozenset(
    {
        *(ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16, ir.DataType.UINT32),
        *(ir.DataType.INT32, ir.DataType.UINT64, ir.DataType.INT64, ir.DataType.BOOL),
    }
)


def lookups(graph: Iterable[ir.Node]) -> list[ir.Node]:
    """The nodes that look up, the largest table first."""
    found = []
    for node in graph:
        table = _table(node)
        if table is not None:
            found.append(((dims(table) or (0,))[0], node))
    return [node for _, node in sorted(found, key=lambda f: -(f[0] if isinstance(f[0], int) else 0))]


def conversions(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that make floats of the one integer input; none where there are several (ids and masks)."""
    inputs = [v for v in graph.inputs if dims(v) != ()]
    if len(inputs) != 1 or inputs[0].dtype not in _INTEGERS:
        return []
    found, queue = [], [inputs[0]]
    while queue:
        for node in dict.fromkeys(queue.pop(0).consumers()):
            if node.graph is not graph or node.domain:
                continue
            if node.op_type in _CONVERTING and is_float(node.outputs[0]):
                found.append(node)
            elif node.op_type in _MOVING:
                queue.append(node.outputs[0])
    return found


def indices_of(node: ir.Node) -> ir.Value | None:
    """What a lookup takes its rows by: integers, or the one-hot form of them."""
    return node.inputs[0 if node.op_type == "MatMul" else 1]


def _table(node: ir.Node) -> ir.Value | None:
    """The constant table of a lookup; None where the node is none."""
    if node.op_type not in ("Gather", "MatMul") or node.domain or len(node.inputs) < 2:
        return None
    table, ids = node.inputs[:2] if node.op_type == "Gather" else node.inputs[1::-1]
    if table is None or ids is None or not is_float(table) or constant(table) is None or rank(table) != 2:
        return None
    if node.op_type == "MatMul":
        return table if _one_hot(ids, (dims(table) or (None,))[0]) else None
    return table if constant(ids) is None else None


def _one_hot(value: ir.Value, rows: Dim) -> bool:
    """Whether a value compares one integer per place with ``rows`` constants."""
    node = value.producer()
    while node is not None and node.op_type in _KEEPING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.domain:
        return False
    if node.op_type == "OneHot":
        return constant(node.inputs[0]) is None
    if node.op_type != "Equal":
        return False
    integers = [x for x in node.inputs if x is not None and not is_float(x) and x.dtype != ir.DataType.BOOL]
    known = [array for x in integers if (array := constant(x)) is not None]
    return len(integers) == 2 and len(known) == 1 and known[0].shape[-1:] == (rows,)
