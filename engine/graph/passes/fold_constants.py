"""Evaluates what does not depend on any input, sizes above all; weights stay as they are.

1. A node of :data:`_EVALUATED` whose inputs are all small constants -> its result (at most `LIMIT` bytes, so that a
   transposed weight is not copied into the file, and a damaged one cannot ask for terabytes).
2. ``Shape(x)`` and ``Size(x)`` with known sizes, and integer arithmetic on partly known sizes (Gather, Slice,
   Concat, Cast, Squeeze, Unsqueeze, Reshape, Add, Sub, Mul, Div) -> the numbers, where they are known.
3. Reshape, Expand, ConstantOfShape and Resize by partly known sizes -> their output shape, symbols kept.
4. GroupNormalization and MeanVarianceNormalization, whose result the standard's inference does not type ->
   the type and shape of their operand.

Sizes found this way sharpen the shapes of what follows, which can make more sizes known: one pass over
the nodes in order does both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.graph.builder import schema_of
from onnxplain.engine.graph.captures import subgraphs
from onnxplain.engine.graph.infer import type_proto
from onnxplain.engine.graph.shapes import Dim, constant, dims, rank, set_dims, static_dims

#: Results above this many bytes are left to the runtime.
LIMIT = 1 << 16

#: What is evaluated: sizes are put together from these, and tables of constants. Others are left to the runtime,
#: because `onnx.reference` gets some of their forms wrong.
_EVALUATED = frozenset(
    {"Shape", "Size", "Gather", "GatherND", "Slice", "Concat", "Cast", "CastLike", "Squeeze", "Unsqueeze", "Reshape"}
    | {"Flatten", "Transpose", "Identity", "Expand", "Tile", "Range", "ConstantOfShape", "EyeLike", "Trilu", "NonZero"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Sin", "Cos"}
    | {"Floor", "Ceil", "Round", "Sign", "Max", "Min", "Sum", "Mean", "Clip", "Relu", "Sigmoid", "Tanh", "MatMul"}
    | {
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "And",
        "Or",
        "Xor",
        "Not",
        "Where",
        "IsNaN",
        "IsInf",
    }
    | {"ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ArgMax", "ArgMin", "CumSum"}
    | {"ScatterND", "ScatterElements", "Compress", "OptionalHasElement"}
)
#: Operators whose result has no more elements than what they read, whatever its shape turns out to be.
_NEVER_LARGER = {"NonZero", "Compress", "Unique", "Slice", "Squeeze", "Reshape", "Identity", "Cast", "Shape", "Size"}
_CONTROL = {"If", "Loop", "Scan", "SequenceMap"}

#: Content of an integer tensor of rank 0 or 1: a size where it is known.
Sizes = list[Dim]


class FoldConstantsPass(ir.passes.InPlacePass):
    """See the module's text. Requires nodes in order and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folder = _Folder(model)
        for node in list(model.graph):
            folder.visit(node)
        return ir.passes.PassResult(model, modified=folder.modified)


class _Folder:
    def __init__(self, model: ir.Model) -> None:
        self.opset = model.graph.opset_imports.get("", 18)
        self.ir_version = model.ir_version
        self.sizes: dict[ir.Value, Sizes] = {}
        self.dirty: set[ir.Value] = set()
        self.modified = False

    def visit(self, node: ir.Node) -> None:
        for graph in subgraphs(node):
            for inner in list(graph):
                self.visit(inner)
        if node.domain != "" or node.op_type in _CONTROL:
            return
        if any(x in self.dirty for x in node.inputs if x is not None):
            self._infer(node)
        if node.op_type in ("GroupNormalization", "MeanVarianceNormalization"):
            self._like_operand(node)
        if self._evaluate(node):
            return
        sizes = self._partial(node)
        if sizes is not None:
            if all(isinstance(d, int) for d in sizes):
                dtype = (node.outputs[0].dtype or ir.DataType.INT64).numpy()
                if all(abs(d) <= np.iinfo(dtype).max for d in sizes if isinstance(d, int)):
                    self._replace(node, np.asarray(sizes, dtype).reshape(() if rank(node.outputs[0]) == 0 else -1))
                return
            self.sizes[node.outputs[0]] = sizes
        self._shape_from_sizes(node)

    # ----- constants -----------------------------------------------------------------------------

    def _evaluate(self, node: ir.Node) -> bool:
        """Case 1."""
        if node.op_type not in _EVALUATED or len(node.outputs) != 1:
            return False
        values = [constant(x) for x in node.inputs]
        if any(v is None and x is not None for v, x in zip(values, node.inputs, strict=True)):
            return False
        if not node.inputs or any(v is not None and v.nbytes > LIMIT for v in values) or not self._is_small(node):
            return False
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                result = self._run(node, values)
        except Exception:
            return False
        if not isinstance(result, np.ndarray) or result.nbytes > LIMIT or result.dtype.kind in "OU":
            return False
        self._replace(node, result)
        return True

    def _is_small(self, node: ir.Node) -> bool:
        """Whether the result is known beforehand to be small; a damaged file may ask for terabytes."""
        if static_dims(node.outputs[0]) is None:
            self._infer(node)
        known = static_dims(node.outputs[0])
        return math.prod(known) <= LIMIT if known is not None else node.op_type in _NEVER_LARGER

    def _run(self, node: ir.Node, values: Sequence[np.ndarray | None]) -> object:
        proto = ir.to_proto(node)
        names = [f"i{i}" if v is not None else "" for i, v in enumerate(values)]
        del proto.input[:], proto.output[:]
        proto.input.extend(names)
        proto.output.append("y")
        feeds = {n: v for n, v in zip(names, values, strict=True) if v is not None}
        inputs = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
        ]
        output = onnx.helper.make_empty_tensor_value_info("y")
        graph = onnx.helper.make_graph([proto], "fold", inputs, [output])
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))
        return next(iter(evaluator.run(None, feeds)))

    def _replace(self, node: ir.Node, result: np.ndarray) -> None:
        old, graph = node.outputs[0], node.graph
        if old.is_graph_output() or not isinstance(graph, ir.Graph):
            return
        name = old.name or "folded"
        tensor = ir.tensor(result, name=name)
        new = ir.Value(name=name, shape=ir.Shape(result.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        old.replace_all_uses_with(new)
        graph.remove(node, safe=True)
        graph.register_initializer(new)
        self.dirty.add(new)
        self.modified = True

    # ----- sizes ---------------------------------------------------------------------------------

    def _content(self, value: ir.Value | None) -> Sizes | None:
        if value is None:
            return None
        if value in self.sizes:
            return self.sizes[value]
        array = constant(value)
        if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
            return None
        return [int(v) for v in array.reshape(-1)]

    def _partial(self, node: ir.Node) -> Sizes | None:
        """Case 2: the content of the node's output as far as it is known."""
        if node.op_type == "Size":
            sizes = static_dims(node.inputs[0]) if node.inputs[0] is not None else None
            return None if sizes is None else [int(np.prod(sizes))]
        rule = _PARTIAL.get(node.op_type)
        if rule is None:
            return None
        if node.op_type == "Shape":
            x = node.inputs[0]
            known = dims(x) if x is not None else None
            if known is None:
                return None
            start, end = node.attributes.get("start"), node.attributes.get("end")
            return list(known[start.value if start else 0 : end.value if end else None])
        contents = [self._content(x) for x in node.inputs if x is not None]
        if not contents or any(c is None for c in contents):
            return None
        return rule(node, [c for c in contents if c is not None])

    def _shape_from_sizes(self, node: ir.Node) -> None:
        """Case 3."""
        place = _SIZES_AT.get(node.op_type)
        if place is None or place >= len(node.inputs):
            return
        if node.op_type == "Resize" and not _resizes_to_all(node):
            return
        sizes = self._content(node.inputs[place])
        x = node.inputs[0]
        if sizes is None or x is None:
            return
        if node.op_type == "Reshape":
            allow_zero = node.attributes.get("allowzero")
            sizes = _reshaped(sizes, dims(x), copies=allow_zero is None or not allow_zero.value)
        elif node.op_type == "Expand":
            known = dims(x)
            if known is None:
                return
            sizes = _broadcast(sizes, known)
        if any(isinstance(d, int) and d < 0 for d in sizes):
            return
        self._sharpen(node.outputs[0], sizes)

    def _like_operand(self, node: ir.Node) -> None:
        """Case 4."""
        x, y = node.inputs[0], node.outputs[0]
        if x is None:
            return
        if y.type is None and x.type is not None:
            y.type = x.type
            self.dirty.add(y)
        known = dims(x)
        if known is not None:
            self._sharpen(y, known)

    def _sharpen(self, value: ir.Value, found: Sequence[Dim]) -> None:
        known = dims(value)
        if known is not None and len(known) == len(found):
            found = [
                new if new is not None and not isinstance(old, int) else old
                for old, new in zip(known, found, strict=True)
            ]
        if known is None or tuple(found) != known:
            set_dims(value, found)
            self.dirty.add(value)

    def _infer(self, node: ir.Node) -> None:
        """Infer the node's output shapes again after one of its inputs became better known."""
        try:
            schema = schema_of(node.op_type, self.opset)
            types = {x.name: type_proto(x) for x in node.inputs if x is not None and x.name}
            data = {
                x.name: onnx.numpy_helper.from_array(array)
                for x in node.inputs
                if x is not None and x.name and (array := constant(x)) is not None and array.nbytes <= LIMIT
            }
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                ir.to_proto(node),
                types,
                data,
                None,
                [onnx.helper.make_opsetid("", self.opset)],
                self.ir_version,
            )
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, KeyError):
            return  # less is known; what is known stays right
        for value in node.outputs:
            proto = found.get(value.name or "")
            if proto is not None and value.type is None and proto.tensor_type.elem_type:
                value.type = ir.TensorType(ir.DataType(proto.tensor_type.elem_type))
                self.dirty.add(value)
            if proto is not None and proto.tensor_type.HasField("shape"):
                self._sharpen(
                    value,
                    [
                        d.dim_value if d.HasField("dim_value") else d.dim_param or None
                        for d in proto.tensor_type.shape.dim
                    ],
                )


#: Which operand says the sizes of the result.
_SIZES_AT = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3}


def _resizes_to_all(node: ir.Node) -> bool:
    """Whether the operand holds the size of every axis as it will be."""
    policy = node.attributes.get("keep_aspect_ratio_policy")
    return "axes" not in node.attributes and (policy is None or policy.value == "stretch")


def _reshaped(sizes: Sizes, source: Sequence[Dim] | None, copies: bool = True) -> Sizes:
    """Sizes after Reshape: 0 copies (where it does), one -1 is what is left where that can be told."""
    result = list(sizes)
    for i, d in enumerate(sizes):
        if d == 0 and copies:
            result[i] = source[i] if source is not None and i < len(source) else None
    if -1 not in result:
        return result
    at = result.index(-1)
    rest = result[:at] + result[at + 1 :]
    result[at] = None
    if source is None:
        return result
    left = list(source)
    for d in rest:
        if isinstance(d, str) and d in left:
            left.remove(d)
        elif not isinstance(d, int):
            return result
    if all(isinstance(d, int) for d in left):
        numbers = [d for d in rest if isinstance(d, int)]
        total, part = int(np.prod([d for d in left if isinstance(d, int)])), int(np.prod(numbers))
        if part and total % part == 0:
            result[at] = total // part
    else:
        # One open size on the left: it is what -1 stands for when the numbers on both sides agree.
        open_sizes = [d for d in left if not isinstance(d, int)]
        numbers_left = int(np.prod([d for d in left if isinstance(d, int)]))
        if len(open_sizes) == 1 and numbers_left == int(np.prod([d for d in rest if isinstance(d, int)])):
            result[at] = open_sizes[0]
    return result


def _broadcast(sizes: Sizes, source: Sequence[Dim]) -> Sizes:
    count = max(len(sizes), len(source))
    a = [1] * (count - len(sizes)) + list(sizes)
    b = [1] * (count - len(source)) + list(source)
    return [y if x == 1 else x if y == 1 or x == y else x if isinstance(x, int) else y if isinstance(y, int) else None
            for x, y in zip(a, b, strict=True)]  # fmt: skip


# ----- arithmetic on partly known sizes -------------------------------------------------------------

PartialRule = Callable[[ir.Node, list[Sizes]], Sizes | None]


def _gather(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    data, indices = inputs
    if any(not isinstance(i, int) or not -len(data) <= i < len(data) for i in indices):
        return None
    return [data[i] for i in indices if isinstance(i, int)]


def _slice(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    data, *rest = inputs
    if any(not isinstance(v, int) for part in rest for v in part) or len(inputs) < 3:
        return None
    starts, ends = rest[0], rest[1]
    step = rest[3][0] if len(rest) > 3 else 1
    start, end = starts[0], ends[0]
    if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return data[start : (None if end < -len(data) and step < 0 else end) : step]
    return None


def _concat(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    return [d for part in inputs for d in part]


def _first(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    return inputs[0]


def _cast(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    return inputs[0] if node.attributes["to"].value in (ir.DataType.INT64.value, ir.DataType.INT32.value) else None


def _reshape(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    return inputs[0] if rank(node.outputs[0]) in (0, 1) else None


def _arithmetic(function: Callable[[int, int], int]) -> PartialRule:
    def rule(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
        a, b = inputs
        if len(a) != len(b):
            a, b = (a * len(b), b) if len(a) == 1 else (a, b * len(a))
        if len(a) != len(b):
            return None
        return [
            function(x, y) if isinstance(x, int) and isinstance(y, int)
            else x if node.op_type in ("Mul", "Div") and y == 1
            else y if node.op_type == "Mul" and x == 1
            else None
            for x, y in zip(a, b, strict=True)
        ]  # fmt: skip

    return rule


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _divide(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    return None if 0 in inputs[1] else _arithmetic(_truncated)(node, inputs)


_PARTIAL: dict[str, PartialRule] = {
    "Shape": _first,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _cast,
    "Squeeze": _first,
    "Unsqueeze": lambda node, inputs: inputs[0] if rank(node.outputs[0]) in (0, 1) else None,
    "Reshape": _reshape,
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _divide,
}
