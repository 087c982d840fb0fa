"""Forms of opset 6, which says in attributes what opset 7 sees in the shapes, in the form of opset 7.

1. ``broadcast`` and ``axis`` of Add, Mul, Pow, Less, And, ...: the second operand's axes begin at ``axis`` of the
   first -> axes of size 1 behind them, which broadcast as in NumPy. ``broadcast`` of Gemm goes.
2. ``is_test`` of BatchNormalization and Dropout: goes where it is set; without it they are in training mode, which
   is refused where a gradient passes (as an error that names the node).
3. A slope per channel of PRelu -> axes of size 1 behind it.
4. Upsample's two scales -> one list of four; ``output_sequence`` of recurrent operators goes.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import dims, rank

Change = Callable[[ir.Node, Builder], None]
_CHANGES: dict[str, Change] = {}


def from_opset_six(node: ir.Node, op: Builder) -> None:
    """Bring one node from opset 6 to 7; ``op`` emits in front of it.

    Raises:
        UnsupportedNodeError: There is no such form.
    """
    change = _CHANGES.get(node.op_type)
    if change is not None and node.domain in ("", "ai.onnx"):
        change(node, op)


def _change(*op_types: str) -> Callable[[Change], Change]:
    def register(function: Change) -> Change:
        _CHANGES.update(dict.fromkeys(op_types, function))
        return function

    return register


def _number(node: ir.Node, name: str, default: int | None) -> int | None:
    attribute = node.attributes.pop(name, None)
    return default if attribute is None else int(attribute.as_int())


def _unsupported(node: ir.Node, reason: str) -> UnsupportedNodeError:
    return UnsupportedNodeError(label(node), describe(node), reason, "export the model again at opset 9 or newer")


def _with_trailing_axes(node: ir.Node, op: Builder, index: int, count: int) -> None:
    """Append ``count`` axes of size 1 to an operand."""
    value = node.inputs[index]
    known = rank(value) if value is not None else None
    if count and known is not None:
        node.replace_input_with(index, op.Unsqueeze(value, [known + i for i in range(count)]))


@_change("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def _broadcast(node: ir.Node, op: Builder) -> None:
    wanted, axis = _number(node, "broadcast", 0), _number(node, "axis", None)
    if not wanted or axis is None:
        return
    ranks = [rank(x) if x is not None else None for x in node.inputs]
    large, small = ranks[0], ranks[1]
    if large is None or small is None:
        raise _unsupported(node, "its operands' ranks are known only at run time, and it broadcasts by an axis")
    _with_trailing_axes(node, op, 1, large - axis % large - small)


@_change("Gemm")
def _gemm(node: ir.Node, op: Builder) -> None:
    _number(node, "broadcast", 0)


@_change("RNN", "GRU", "LSTM")
def _recurrent(node: ir.Node, op: Builder) -> None:
    _number(node, "output_sequence", 0)


@_change("BatchNormalization", "Dropout")
def _test_mode(node: ir.Node, op: Builder) -> None:
    if not _number(node, "is_test", 0):
        raise _unsupported(node, "it runs in training mode (is_test is not set)")
    if node.op_type == "BatchNormalization":
        node.resize_outputs(1)


@_change("PRelu")
def _prelu(node: ir.Node, op: Builder) -> None:
    x, slope = node.inputs
    known = dims(slope) if slope is not None else None
    count = rank(x) if x is not None else None
    if known is None or len(known) != 1 or known[0] == 1:
        return
    if count is None:
        raise _unsupported(node, "its operand's rank is known only at run time, and it has a slope per channel")
    _with_trailing_axes(node, op, 1, max(count - 2, 0))


@_change("Upsample")
def _upsample(node: ir.Node, op: Builder) -> None:
    scales = [node.attributes.pop(name, None) for name in ("height_scale", "width_scale")]
    if all(s is not None for s in scales):
        factors = [1.0, 1.0, *(float(s.as_float()) for s in scales if s is not None)]
        node.attributes["scales"] = ir.AttrFloat32s("scales", factors)
