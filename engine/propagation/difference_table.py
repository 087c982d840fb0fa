"""Which of DeepLIFT's rules serves which operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxplain.engine.backward import gradients
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.propagation import difference_parts as parts
from onnxplain.engine.propagation import difference_slopes as slopes
from onnxplain.engine.propagation.difference import Differences
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, Entry, GradientRule

#: A rule of differences: both passes first, then as a gradient rule.
Rule = Callable[..., Sequence[Contribution]]

#: Linear in all their active operands together. Where only some of the operands are: their numbers.
LINEAR: dict[str, tuple[int, ...] | None] = dict.fromkeys(
    (
        *("Add", "Sub", "Sum", "Mean", "Neg", "Identity", "Cast", "CastLike", "Where"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
        *("Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND", "Trilu", "ReverseSequence", "Compress"),
        *("CenterCropPad", "OneHot", "Pad", "Range", "TensorScatter", "Col2Im", "DFT", "AffineGrid"),
        *("ReduceSum", "ReduceMean", "CumSum", "AveragePool", "GlobalAveragePool"),
    )
)
LINEAR |= dict.fromkeys(("Resize", "Upsample", "MaxUnpool", "GridSample", "DequantizeLinear"), (0,))

#: Products, with the number of factors among their operands; linear in what is added to them.
PRODUCTS: dict[str, int] = {"Mul": 2, "MatMul": 2, "Gemm": 2, "Conv": 2, "ConvTranspose": 2, "STFT": 3, "Einsum": 2**31}

#: Functions of their first operand: piecewise linear ones, smooth ones, and smooth ones that scale with it.
PIECEWISE = frozenset({"Relu", "Abs", "Clip", "ThresholdedRelu", "Shrink"})
SMOOTH = frozenset({"Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Gelu", "HardSwish", "Mish"})
SMOOTH |= {"Swish", "Exp", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh"}
SMOOTH |= {"Atanh"}

OTHERS: dict[str, Rule] = {
    "Log": functools.partial(slopes.secant, relative=True),
    "Reciprocal": slopes.reciprocal,
    "Sqrt": slopes.square_root,
    "Softmax": slopes.softmax,
    "LogSoftmax": slopes.log_softmax,
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Max", "Min"), slopes.extremum),
}


def find(at: Differences, node: Primal, opset: int) -> Entry[GradientRule] | None:
    """The rule of differences for a node; None where the operator has not even a gradient.

    Raises:
        UnsupportedNodeError: An operand without gradient differs between both passes.
    """
    plain = gradients(node, opset)
    if plain is None:
        return None
    in_steps = [i for i, x in enumerate(node.inputs) if x in at.moving and not node.active(i)]
    if in_steps:
        if node.domain == "" and node.op_type == "Where" and in_steps == [0]:
            return Entry(functools.partial(slopes.where, at), broadcasts=True)
        x = node.inputs[in_steps[0]]
        raise node.unsupported(
            f"its operand {in_steps[0]} ('{x.name if x is not None else ''}') differs between input and baseline "
            "and has no gradient, so that no multiplier can carry the difference",
            "use quantisation='float_shadow'"
            if "QuantizeLinear" in node.op_type
            else "use integrated_gradients, or explain a tensor behind it",
        )
    if node.domain != "":
        return _averaged(at, node, at.options.points)
    if is_linear(node, at):
        return plain
    rule = _rule(node)
    if rule is not None:
        return Entry(functools.partial(rule, at))
    factors = _factors(node)
    if factors:
        return _averaged(at, node, (factors + 1) // 2, exact=True)
    return (
        _averaged(at, node, 1, exact=True)
        if node.op_type == "ReduceSumSquare"
        else _averaged(at, node, at.options.points)
    )


def is_linear(node: Primal, at: Differences | None = None) -> bool:
    """Whether a node of the default domain is linear (or affine) in its active operands together."""
    active = [i for i in range(len(node.inputs)) if node.active(i)]
    name = node.op_type
    if name in LINEAR:
        allowed = LINEAR[name]
        return allowed is None or all(i in allowed for i in active)
    if name in PRODUCTS:
        return _factors(node) <= 1
    if name == "Div":
        return active == [0]
    if name in ("ScatterElements", "ScatterND"):
        return node.attribute("reduction", "none") in ("none", "add")
    if name == "BatchNormalization":
        return all(i in (0, 2) for i in active) or active == [3]
    if name == "DeformConv":
        return active == [0]
    if name == "RoiAlign":
        return active == [0] and node.attribute("mode", "avg") == "avg"
    return False


def _factors(node: Primal) -> int:
    """How many factors of a product are active; a factor that stands twice counts twice."""
    count = PRODUCTS.get(node.op_type, 0)
    return sum(node.active(i) for i in range(min(count, len(node.inputs))))


def _rule(node: Primal) -> Rule | None:
    """The rule of an operator that has its own."""
    name = node.op_type
    alone = all(not node.active(i) for i in range(1, len(node.inputs)))
    if is_function(node):
        return functools.partial(slopes.secant, piecewise=name in PIECEWISE)
    if name == "Pow" and alone and dims(node.x(0)) == dims(node.y):
        return slopes.power
    definition = {"Div": parts.quotient, "Clip": parts.clip, "PRelu": parts.prelu}.get(
        name, parts.DEFINITIONS.get(name)
    )
    if definition is not None and len([y for y in node.outputs if node.is_active(y) and y.uses()]) <= 1:
        return functools.partial(parts.taken_apart, definition=definition)
    return OTHERS.get(name)


def is_function(node: Primal) -> bool:
    """Whether a node applies a function of one number, kinks included, to its first operand alone."""
    alone = all(not node.active(i) for i in range(1, len(node.inputs)))
    return node.domain == "" and alone and (node.op_type in PIECEWISE or node.op_type in SMOOTH)


def _averaged(at: Differences, node: Primal, points: int, exact: bool = False) -> Entry[GradientRule]:
    def rule(op: object, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
        return at.average(node, dy, points)

    if not exact:
        at.averaged.append(node)
    return Entry(rule)
