"""One gradient for every operator that only moves elements, whatever says where to.

The operator itself is run on the numbers 1..N of its operand's elements; what comes out says for each
element of the result which element of the operand it is, 0 where it is none (fill). Adding the adjoint
up at those places is the gradient. It serves run-time operands, repeated and dropped elements alike; the
rules use it where no cheaper form is known.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import END, cast_like, count_of, reshape_like, shape_of, widened

#: Runs the operator on another tensor of its operand's shape.
Move = Callable[[ir.Value], ir.Value]


def moved(op: Builder, x: ir.Value, dy: ir.Value, move: Move) -> ir.Value:
    """Gradient of an operator that moves the elements of ``x``; ``dy`` is its result's adjoint."""
    count = count_of(op, x)
    numbers = op.Reshape(op.Range(1, op.Add(count, 1), 1), shape_of(op, x))
    places = op.Reshape(move(numbers), [-1])
    dy = widened(op, dy)
    slots = op.ConstantOfShape(
        op.Reshape(op.Add(count, 1), [1]), value=ir.tensor([0], dtype=dy.dtype or ir.DataType.FLOAT)
    )
    total = op.ScatterElements(slots, places, op.Reshape(dy, [-1]), axis=0, reduction="add")
    return reshape_like(op, cast_like(op, op.Slice(total, [1], [END], [0]), x), x)
