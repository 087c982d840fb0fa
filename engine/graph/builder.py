"""Emits nodes: ``op.Mul(a, 2.0)`` appends a typed, uniquely named node and returns its output.

Every name is looked up in the ONNX schema of the graph's own opset first: an unknown operator or
attribute is an error at the line that wrote it, not a refusal by the runtime much later. Python
numbers become constants of the other operand's type, so that rules read like formulas and work in
float32 and float64 alike. Equal small constants are emitted once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.graph.captures import subgraphs

#: What a rule may hand to an operator: a value, nothing (an omitted optional input), or a number.
Operand = ir.Value | None | int | float | bool | Sequence[int] | Sequence[float] | np.ndarray[Any, Any]

#: Name prefix of everything that this package adds to a graph.
PREFIX = "onnxplain"


@functools.cache
def schema_of(op_type: str, opset: int, domain: str = "") -> onnx.defs.OpSchema:
    """The operator's schema at ``opset``.

    Raises:
        ValueError: The operator does not exist there.
    """
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        raise ValueError(f"operator {domain or 'ai.onnx'}::{op_type} does not exist at opset {opset}") from None


@dataclass(frozen=True)
class _Form:
    """What emitting needs of a schema, whose own fields are built anew each time they are read."""

    operands: tuple[str, ...]
    attributes: dict[str, str]

    def operand(self, index: int) -> str:
        """The type, or the type's variable, of the operand at ``index``; the last one repeats."""
        return self.operands[min(index, len(self.operands) - 1)]


@functools.cache
def _form(op_type: str, opset: int, domain: str) -> _Form:
    schema = schema_of(op_type, opset, domain)
    attributes: dict[str, Any] = dict(schema.attributes)
    return _Form(tuple(x.type_str for x in schema.inputs), {name: a.type.name for name, a in attributes.items()})


#: Makes an attribute of the kind that the schema names; without them each value's kind would be guessed.
_ATTRIBUTES: dict[str, Callable[[str, Any], ir.Attr]] = {
    "INT": lambda name, value: ir.AttrInt64(name, int(value)),
    "INTS": lambda name, value: ir.AttrInt64s(name, [int(v) for v in value]),
    "FLOAT": lambda name, value: ir.AttrFloat32(name, float(value)),
    "FLOATS": lambda name, value: ir.AttrFloat32s(name, [float(v) for v in value]),
    "STRING": lambda name, value: ir.AttrString(name, value),
    "GRAPH": ir.AttrGraph,
}


def _attribute(name: str, kind: str, value: Any) -> ir.Attr:
    if isinstance(value, ir.Attr):
        return value
    make = _ATTRIBUTES.get(kind)
    return make(name, value) if make is not None else ir.convenience.convert_attribute(name, value)


@functools.cache
def _output_dtype_plan(op_type: str, opset: int, domain: str) -> tuple[str | int | ir.DataType | None, ...]:
    """Per output: index of the input that has its type, a fixed type, or None where neither is known."""
    schema = schema_of(op_type, opset, domain)
    plan: list[str | int | ir.DataType | None] = []
    for output in schema.outputs:
        same = [i for i, x in enumerate(schema.inputs) if x.type_str == output.type_str]
        if same:
            plan.append(same[0])
        elif output.type_str.startswith("tensor("):
            plan.append(_DTYPE_BY_NAME.get(output.type_str))
        else:
            allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
            types = allowed.get(output.type_str, [])
            plan.append(_DTYPE_BY_NAME.get(types[0]) if len(types) == 1 else None)
    return tuple(plan)


_DTYPE_BY_NAME = {
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(double)": ir.DataType.DOUBLE,
    "tensor(int64)": ir.DataType.INT64,
    "tensor(int32)": ir.DataType.INT32,
    "tensor(bool)": ir.DataType.BOOL,
}


def names_of(graph: ir.Graph) -> set[str]:
    """Names of all values and nodes of the graph and of the graphs inside it."""
    taken = {v.name for v in (*graph.inputs, *graph.initializers.values()) if v.name}
    for node in graph:
        for value in node.outputs:
            if value.name:
                taken.add(value.name)
        if node.name:
            taken.add(node.name)
        for inner in subgraphs(node):
            taken |= names_of(inner)
    return taken


class Builder:
    """Appends nodes to ``graph``.

    Args:
        graph: Where nodes and constants go.
        before: Node in front of which to insert; the end of the graph when omitted. Passes that
            rewrite in place need it, the reverse walk does not.
        taken: Names that are in use; those of ``graph`` by default. Builders of one model share it.

    Attributes:
        portable: Emit only forms that every known runtime computes alike, where a faster one is onnxruntime's alone.
        lacks: Operators that the provider aimed at does not run, and where there is another form it is emitted;
            a result that it does not return stands behind a slash: ``MaxPool/Indices``.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node | None = None, taken: set[str] | None = None) -> None:
        self.graph = graph
        self.opset = graph.opset_imports.get("", 18)
        self.before = before
        self.portable = False
        self.lacks: Collection[str] = frozenset()
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._taken = taken
        self._counters: dict[str, int] = {}
        self._outer: Builder | None = None

    def inside(self, graph: ir.Graph) -> Builder:
        """A builder for a graph inside this one: names differ from those out here, where its constants live."""
        inner = Builder(graph, taken=self._names())
        inner.opset, inner._outer, inner.portable, inner.lacks = self.opset, self, self.portable, self.lacks
        return inner

    # ----- names -------------------------------------------------------------------------------

    def _names(self) -> set[str]:
        if self._taken is None:
            self._taken = names_of(self.graph)
        return self._taken

    def unique_name(self, stem: str) -> str:
        """A value name that the graph does not have yet: ``stem`` itself where it is free."""
        taken = self._names()
        name = stem
        while name in taken:
            count = self._counters[stem] = self._counters.get(stem, 0) + 1
            name = f"{stem}_{count}"
        taken.add(name)
        return name

    # ----- constants ---------------------------------------------------------------------------

    def constant(self, array: Any, dtype: ir.DataType | None = None, name: str | None = None) -> ir.Value:
        """An initializer with the given content; small unnamed ones are shared."""
        if self._outer is not None:
            return self._outer.constant(array, dtype, name)
        data = np.asarray(array, dtype=None if dtype is None else dtype.numpy())
        if dtype is None and data.dtype.kind == "i":
            data = data.astype(np.int64)
        key = (data.dtype.str, data.shape, data.tobytes()) if data.nbytes <= 256 and name is None else None
        if key is not None and key in self._constants:
            return self._constants[key]
        label = self.unique_name(name or f"{PREFIX}/constant_{len(self._constants)}")
        data = np.ascontiguousarray(data) if data.ndim else data
        # ir.tensor first asks what it was given, against protocols: most of the time that a constant takes.
        tensor = ir.tensor(data, name=label) if data.dtype.kind in "OSU" else ir.Tensor(data, name=label)
        value = ir.Value(name=label, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        if key is not None:
            self._constants[key] = value
        return value

    def _operands(self, inputs: Sequence[Operand], form: _Form) -> list[ir.Value | None]:
        """Values as they are; numbers as constants of the type that the other operands give them."""
        if all(x is None or isinstance(x, ir.Value) for x in inputs):
            return list(inputs)  # type: ignore[arg-type]
        likes = {
            form.operand(i): x.dtype for i, x in enumerate(inputs) if isinstance(x, ir.Value) and x.dtype is not None
        }
        return [
            x if x is None or isinstance(x, ir.Value) else self._number(x, form.operand(i), likes)
            for i, x in enumerate(inputs)
        ]

    def _number(self, x: Any, formal: str, likes: dict[str, ir.DataType]) -> ir.Value:
        dtype = likes.get(formal) or _DTYPE_BY_NAME.get(formal)
        if dtype is None and isinstance(x, (bool, int, list, tuple)):
            dtype = ir.DataType.BOOL if isinstance(x, bool) else ir.DataType.INT64
        return self.constant(x, dtype)

    # ----- nodes -------------------------------------------------------------------------------

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Operand],
        outputs: int = 1,
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> list[ir.Value]:
        """Append one node and return all its outputs.

        Raises:
            ValueError: The operator, or one of the attributes, does not exist at the graph's opset.
        """
        form = _form(op_type, self.opset, domain)
        attributes = {k: v for k, v in attributes.items() if v is not None}
        for key in attributes:
            if key not in form.attributes:
                raise ValueError(f"operator {op_type} has no attribute '{key}' at opset {self.opset}")
        values = self._operands(inputs, form)
        while values and values[-1] is None:
            values.pop()
        made = [_attribute(key, form.attributes[key], value) for key, value in attributes.items()]
        node = ir.Node(domain, op_type, values, made, num_outputs=outputs)
        node.name = self.unique_name(name or f"{PREFIX}/{op_type}_{len(self._names())}")
        self._type_outputs(node, attributes)
        for i, value in enumerate(node.outputs):
            value.name = node.name if i == 0 else self.unique_name(f"{node.name}:{i}")
        if self.before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.before, node)
        return list(node.outputs)

    def _type_outputs(self, node: ir.Node, attributes: dict[str, Any]) -> None:
        if node.op_type == "Cast":
            node.outputs[0].type = ir.TensorType(ir.DataType(attributes["to"]))
            return
        if node.op_type == "ConstantOfShape":
            value = attributes.get("value")
            node.outputs[0].type = ir.TensorType(value.dtype if value is not None else ir.DataType.FLOAT)
            return
        plan = _output_dtype_plan(node.op_type, self.opset, node.domain)
        for i, value in enumerate(node.outputs):
            source = plan[min(i, len(plan) - 1)]
            if isinstance(source, ir.DataType):
                value.type = ir.TensorType(source)
            elif isinstance(source, int):
                like = node.inputs[source] if source < len(node.inputs) else None
                if like is not None and like.dtype is not None:
                    value.type = ir.TensorType(like.dtype)

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        """``op.Conv(x, w, strides=[2, 2])``: one node, its first output."""
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def call(*inputs: Operand, name: str | None = None, **attributes: Any) -> ir.Value:
            return self.emit(op_type, inputs, name=name, **attributes)[0]

        return call
