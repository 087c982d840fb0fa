"""What is known of a value's type and shape: static sizes, symbols, or nothing.

A size is an ``int``, a ``str`` (a symbol: equal symbols are equal sizes) or ``None`` (unknown).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

Dim = int | str | None
Dims = tuple[Dim, ...]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def is_float(value: ir.Value) -> bool:
    """Whether the value is a float tensor, the only kind that has a gradient."""
    return isinstance(value.type, ir.TensorType) and value.type.dtype in FLOATS


def is_container(value: ir.Value | None) -> bool:
    """Whether the value is a sequence or an optional."""
    return value is not None and isinstance(value.type, (ir.SequenceType, ir.OptionalType))


def dims(value: ir.Value) -> Dims | None:
    """Sizes of the value, or None where not even the rank is known."""
    if value.const_value is not None:
        return tuple(int(d) for d in value.const_value.shape.numpy())
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def rank(value: ir.Value) -> int | None:
    """Number of axes, or None."""
    known = dims(value)
    return None if known is None else len(known)


def static_dims(value: ir.Value) -> tuple[int, ...] | None:
    """Sizes when all of them are known numbers, else None."""
    known = dims(value)
    if known is None or not all(isinstance(d, int) for d in known):
        return None
    return tuple(int(d) for d in known if isinstance(d, int))


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Content of an initializer, or None for anything computed or fed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def set_dims(value: ir.Value, sizes: Sequence[Dim]) -> None:
    """Record the sizes of a value."""
    value.shape = ir.Shape(list(sizes))


def same(a: Dim, b: Dim) -> bool:
    """Whether two sizes are known to be equal."""
    return a is not None and a == b


def batched_inputs(inputs: Sequence[ir.Value]) -> list[str]:
    """Names of a model's inputs whose first axis is the batch; the others are fed whole.

    Where some inputs leave their first size open, those; in a model of fixed sizes, the inputs whose first size is
    that of the first input.
    """
    sizes = {v.name or "": dims(v) for v in inputs}
    first = {n: known[0] if known else None for n, known in sizes.items() if known != ()}
    if any(not isinstance(size, int) for size in first.values()):
        return [n for n, size in first.items() if not isinstance(size, int)]
    return [n for n, size in first.items() if size == next(iter(first.values()))]
