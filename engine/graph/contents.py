"""What integer tensors hold, as far as it is sizes: numbers and symbols, followed from node to node.

The standard's inference follows them through a graph, and stops where it knows no shape: behind every Loop. What a
pass finds out about a Loop's results is carried on by this, so that an Expand or Reshape behind it, whose operand is
computed from those sizes, has a known rank and the batch in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.shapes import Dim, Dims, constant, dims, set_dims

#: Longest tensor that is taken for sizes.
_LIMIT = 16

#: How the standard's inference begins the symbols that it makes up.
_MADE_UP = "unk__"


class Contents:
    """Content per value, filled node by node in the order of the graph."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Dims] = {}

    def of(self, value: ir.Value | None) -> Dims | None:
        """The content of a vector or a single number; None where it is not known at all."""
        if value is None:
            return None
        array = constant(value)
        if array is None:
            return self._known.get(value)
        if array.ndim > 1 or array.size > _LIMIT or array.dtype.kind not in "iuf":
            return None
        return tuple(int(v) if np.isfinite(v) and int(v) == v else None for v in array.reshape(-1).tolist())

    def learn(self, node: ir.Node) -> None:
        """Note what the node's result holds, and the sizes of its result where they follow from contents."""
        if node.domain != "" or not node.inputs or not node.outputs:
            return
        self._known.pop(node.outputs[0], None)
        if node.op_type in _HOLDS:
            found = _HOLDS[node.op_type](self, node)
            if found is not None and len(found) <= _LIMIT:
                self._known[node.outputs[0]] = found
        elif node.op_type in _SIZES:
            sizes = _SIZES[node.op_type](self, node)
            if sizes is not None:
                improve(node.outputs[0], sizes)


def improve(value: ir.Value, found: Dims) -> bool:
    """Take over the sizes that say more than those that are known; whether there were any."""
    known = dims(value)
    if known is not None and len(known) != len(found):
        return False
    merged = (
        found if known is None else tuple(b if _rank(b) > _rank(a) else a for a, b in zip(known, found, strict=True))
    )
    if merged == known:
        return False
    set_dims(value, merged)
    return True


def complete(value: ir.Value) -> bool:
    """Whether type and sizes are known, each a number or a symbol of the model's own."""
    known = dims(value)
    return value.type is not None and known is not None and all(_rank(d) > 1 for d in known)


def _rank(size: Dim) -> int:
    """How much a size says."""
    if size is None:
        return 0
    return 3 if isinstance(size, int) else 1 if size.startswith(_MADE_UP) else 2


# ----- contents ---------------------------------------------------------------------------------------


def _shape(contents: Contents, node: ir.Node) -> Dims | None:
    x = node.inputs[0]
    known = dims(x) if x is not None else None
    start, end = (node.attributes[n].as_int() if n in node.attributes else None for n in ("start", "end"))
    return None if known is None else known[slice(start, end)]


def _same(contents: Contents, node: ir.Node) -> Dims | None:
    return contents.of(node.inputs[0])


def _cast(contents: Contents, node: ir.Node) -> Dims | None:
    return None if node.attributes["to"].as_int() == ir.DataType.BOOL else contents.of(node.inputs[0])


def _one(contents: Contents, node: ir.Node) -> Dims | None:
    """A single number stays what it is when axes come or go; a longer vector would have two."""
    held = contents.of(node.inputs[0])
    return held if held is not None and len(held) == 1 else None


def _slice(contents: Contents, node: ir.Node) -> Dims | None:
    held, bounds = contents.of(node.inputs[0]), [contents.of(x) for x in list(node.inputs)[1:]]
    if held is None or any(b is None or len(b) != 1 or not isinstance(b[0], int) for b in bounds):
        return None
    start, end, step = (*(b[0] for b in bounds[:2] if b), bounds[3][0] if len(bounds) > 3 and bounds[3] else 1)
    if step != 1 or not isinstance(start, int) or not isinstance(end, int):
        return None
    return held[start:end]


def _gather(contents: Contents, node: ir.Node) -> Dims | None:
    held, index = contents.of(node.inputs[0]), contents.of(node.inputs[1])
    if held is None or index is None:
        return None
    places = [i for i in index if isinstance(i, int) and -len(held) <= i < len(held)]
    return tuple(held[i] for i in places) if len(places) == len(index) else None


def _concat(contents: Contents, node: ir.Node) -> Dims | None:
    parts = [contents.of(x) for x in node.inputs]
    return None if None in parts else tuple(d for part in parts if part is not None for d in part)


def _number(function: Callable[[int, int], int]) -> Callable[[Contents, ir.Node], Dims | None]:
    def held(contents: Contents, node: ir.Node) -> Dims | None:
        a, b = (contents.of(x) for x in list(node.inputs)[:2])
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        size = max(len(a), len(b))
        pairs = zip(a * (size // len(a) if a else 0), b * (size // len(b) if b else 0), strict=False)
        return tuple(function(x, y) if isinstance(x, int) and isinstance(y, int) else None for x, y in pairs)

    return held


def _product(contents: Contents, node: ir.Node) -> Dims | None:
    held = contents.of(node.inputs[0])
    if held is None:
        return None
    numbers = [d for d in held if isinstance(d, int)]
    return (prod(numbers) if len(numbers) == len(held) else None,)


_HOLDS: dict[str, Callable[[Contents, ir.Node], Dims | None]] = {
    "Shape": _shape,
    "Identity": _same,
    "Cast": _cast,
    "Squeeze": _one,
    "Unsqueeze": _one,
    "Slice": _slice,
    "Gather": _gather,
    "Concat": _concat,
    "Add": _number(lambda a, b: a + b),
    "Sub": _number(lambda a, b: a - b),
    "Mul": _number(lambda a, b: a * b),
    "ReduceProd": _product,
}

# ----- sizes ------------------------------------------------------------------------------------------


def _filled(contents: Contents, node: ir.Node) -> Dims | None:
    return contents.of(node.inputs[0])


def _expanded(contents: Contents, node: ir.Node) -> Dims | None:
    x, asked = node.inputs[0], contents.of(node.inputs[1])
    known = dims(x) if x is not None else None
    if known is None or asked is None:
        return None
    count = max(len(known), len(asked))
    own, wanted = ((*[1] * (count - len(part)), *part) for part in (known, asked))
    return tuple(a if b == 1 or a == b else b if a == 1 else None for a, b in zip(own, wanted, strict=True))


def _reshaped(contents: Contents, node: ir.Node) -> Dims | None:
    x, asked = node.inputs[0], contents.of(node.inputs[1])
    known = dims(x) if x is not None else None
    if asked is None:
        return None
    copies = "allowzero" not in node.attributes or not node.attributes["allowzero"].as_int()
    if any(d == 0 for d in asked) and copies and known is None:
        return tuple(None if d in (0, -1) else d for d in asked)
    sizes = [known[i] if d == 0 and copies and known and i < len(known) else d for i, d in enumerate(asked)]
    return tuple(None if d == -1 else d for d in sizes)


_SIZES: dict[str, Callable[[Contents, ir.Node], Dims | None]] = {
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Reshape": _reshaped,
}
