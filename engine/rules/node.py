"""The forward node as a rule sees it: operands, attributes with defaults, what is known of shapes.

A rule never touches the graph object behind it, so it cannot depend on how graphs are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph import shapes
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import captured
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import Dims

#: A reverse walk: builder, nodes, seeds, wanted values -> adjoint per value.
Walk = Callable[[Builder, Sequence[ir.Node], Mapping[ir.Value, ir.Value], Sequence[ir.Value]], dict[ir.Value, ir.Value]]


def no_walk(*_: Any) -> dict[ir.Value, ir.Value]:
    """In the place of a walk where no rule goes on inside a node's graphs."""
    raise AssertionError("this node was not visited by a walk")


class Primal:
    """One forward node.

    Attributes:
        inputs: Operands in the operator's order, None where an optional one is left out; after them the
            values of outer graphs that the node's own graphs (branches, bodies) read.
        outputs: Results in the operator's order.
        op_type, domain, name: As in the file; ``name`` falls back to the first output's.
        walk: The reverse walk that asked, for rules that go on inside the node's graphs.
    """

    __slots__ = ("_active", "inputs", "ir", "name", "op_type", "outputs", "walk")

    def __init__(self, node: ir.Node, active: AbstractSet[ir.Value], walk: Walk = no_walk) -> None:
        self.ir = node
        self.op_type = node.op_type
        self.name = label(node)
        self.inputs = (*node.inputs, *captured(node))
        self.walk = walk
        self.outputs = tuple(node.outputs)
        self._active = active

    @property
    def domain(self) -> str:
        """The operator's domain; the default one is the empty string."""
        return "" if self.ir.domain == "ai.onnx" else self.ir.domain

    def version(self, opset: int) -> int:
        """The version at which the operator is meant: its own domain's, ``opset`` being the default domain's."""
        return opset if self.domain == "" else self.ir.version or 1

    def x(self, index: int = 0) -> ir.Value:
        """The operand at ``index``; an error of the rule, not of the user, where it is left out."""
        value = self.optional(index)
        if value is None:
            raise self.unsupported(
                f"its input {index} is missing", "the model is malformed; check it with onnx.checker"
            )
        return value

    def optional(self, index: int) -> ir.Value | None:
        """The operand at ``index``, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def y(self) -> ir.Value:
        """The first result."""
        return self.outputs[0]

    def active(self, index: int) -> bool:
        """Whether the operand depends, differentiably, on what is differentiated."""
        value = self.optional(index)
        return value is not None and value in self._active

    def is_active(self, value: ir.Value) -> bool:
        """The same for any value, those inside the node's graphs included."""
        return value in self._active

    def active_count(self) -> int:
        """Number of operands that are active."""
        return sum(value in self._active for value in self.inputs if value is not None)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute; tuples for lists, ``str`` for strings."""
        attribute = self.ir.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value

    def dims(self, index: int = 0) -> Dims | None:
        """Sizes of an operand as far as they are known; None where not even the rank is."""
        return shapes.dims(self.x(index))

    def rank(self, index: int = 0) -> int:
        """Number of axes of an operand.

        Raises:
            UnsupportedNodeError: It is not known.
        """
        known = shapes.rank(self.x(index))
        if known is None:
            origin = _of_unknown_rank(self.x(index))
            if origin is None or origin.domain in ("", "ai.onnx"):
                hint = "give the model's inputs fixed ranks"
            else:
                origin_name = f"'{label(origin)}' ({describe(origin)})"
                hint = f"declare what {origin_name}, from which it comes, returns: onnxplain.rules.result"
            raise self.unsupported(f"the rank of its input {index} is known only at run time", hint)
        return known

    def axis(self, default: int = -1, index: int = 0) -> int:
        """The ``axis`` attribute, counted from the front."""
        axis = int(self.attribute("axis", default))
        return axis if axis >= 0 else axis + self.rank(index)

    def constant(self, index: int) -> np.ndarray | None:
        """Content of an operand that is an initializer, else None."""
        return shapes.constant(self.optional(index))

    def unsupported(self, reason: str, hint: str = "") -> UnsupportedNodeError:
        """The error to raise when the rule cannot serve this very node."""
        return UnsupportedNodeError(self.name, describe(self.ir), reason, hint)


def _of_unknown_rank(value: ir.Value) -> ir.Node | None:
    """The first node on the way to a value whose result has no rank although its operands do."""
    node = value.producer()
    while node is not None:
        before = next((x for x in node.inputs if x is not None and shapes.rank(x) is None), None)
        if before is None or before.producer() is None:
            return node
        node = before.producer()
    return None
