"""Which rule of relevance serves which operator, where nobody asks for another one.

Every operator is in one of the lists here. One that is not (an operator of a plug-in) keeps the first-order
Taylor share ``x * J^T (R / stab(y))``, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.backward import Adjoints, Lookup, gradients
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.propagation.ledger import Entry as Absorbed
from onnxplain.engine.propagation.ledger import enter
from onnxplain.engine.propagation.relevance import (
    DATA,
    RelevanceRule,
    Settings,
    converted,
    epsilon_rule,
    log_sum_rule,
    pass_on,
    product_rule,
    reduced_product_rule,
    softmax_rule,
    stabiliser,
    structural,
    sum_rule,
    taylor_rule,
)
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, Entry, GradientRule, Table, only

#: Functions of one operand, element by element; normalisations that are a scale at a fixed denominator.
ELEMENTWISE = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Shrink", "Clip", "Abs", "Neg"),
        *("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Mish", "Swish", "Gelu", "Softplus", "Softsign", "Erf"),
        *("Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asin", "Acos", "Atan"),
        *("Asinh", "Acosh", "Atanh", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Identity"),
        *("Pow", "Mod", "LRN", "LpNormalization"),
    }
)

#: Linear in their active operands jointly, or products of them; some homogeneous of degree 1. Normalisations are
#: linear at a constant denominator.
LINEAR = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "DeformConv", "AveragePool", "GlobalAveragePool"),
        *("ReduceSum", "ReduceMean", "CumSum", "Resize", "Col2Im", "DFT", "STFT", "AffineGrid", "GridSample"),
        *("RoiAlign", "LpPool", "GlobalLpPool", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        *("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"),
        "MeanVarianceNormalization",
    }
)

#: Relevance goes where the element came from: movers, choices of the largest, and what shares out by itself.
MOVERS = frozenset(
    {
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "DepthToSpace"),
        *("SpaceToDepth", "Pad", "Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND", "Trilu"),
        *("ReverseSequence", "Compress", "CenterCropPad", "OneHot", "ScatterElements", "ScatterND"),
        *(
            "MaxRoiPool",
            "Unique",
            "TensorScatter",
            "Where",
            "MaxPool",
            "GlobalMaxPool",
            "MaxUnpool",
            "ReduceMax",
            "ReduceMin",
            "TopK",
        ),
        *("ReduceLogSumExp", "If", "Loop", "Scan"),
    }
)

#: Left with their first-order Taylor share; the result says so.
TAYLOR = frozenset({"LogSoftmax", "CumProd", "Det", "Range"})


def _extremum(settings: Settings) -> RelevanceRule:
    """Max, Min: to the larger one; a constant bound is an activation function."""
    return lambda op, node, *r: (pass_on if node.active_count() == 1 else structural)(op, node, *r)


def _quotient(settings: Settings) -> RelevanceRule:
    """Div: to the numerator; to the denominator where that alone is active (1/x)."""
    return lambda op, node, *r: pass_on(op, node, *r)


def _scattering(settings: Settings) -> RelevanceRule:
    """ScatterElements, ScatterND: sums by the epsilon rule, anything else moves."""
    linear = epsilon_rule(settings)
    return lambda op, node, *r: (linear if node.attribute("reduction", "none") == "add" else structural)(op, node, *r)


def default_table(settings: Settings) -> Table[GradientRule]:
    """The rules of relevance for all operators, as ``settings`` have them."""
    table: Table[GradientRule] = Table("relevance")
    table.add(pass_on, *sorted(ELEMENTWISE - {"Cast", "CastLike"}), "Div")
    table.add(converted, "Cast", "CastLike")
    table.add(epsilon_rule(settings), *sorted(LINEAR))
    table.add(structural, *sorted(MOVERS - {"ScatterElements", "ScatterND"}))
    table.add(_scattering(settings), "ScatterElements", "ScatterND")
    table.add(sum_rule(settings), "Add", "Sub", "Sum", "Mean")
    table.add(product_rule(settings), "Mul")
    table.add(_extremum(settings), "Max", "Min")
    table.add(softmax_rule(settings), "Softmax")
    table.add(log_sum_rule, "ReduceLogSum")
    table.add(reduced_product_rule(settings), "ReduceProd")
    table.add(pass_on if settings.batch_norm == "pass" else epsilon_rule(settings), "BatchNormalization")
    table.add(taylor_rule(settings), *sorted(TAYLOR))
    return table


def default_relevance(settings: Settings) -> Lookup:
    """The lookup of relevance for every node that has a gradient."""
    table, other = default_table(settings), Entry(taylor_rule(settings))

    def lookup(node: Primal, opset: int) -> Entry[GradientRule] | None:
        found = table.find(node.domain, node.op_type, node.version(opset))
        if found is not None:
            return found
        return other if gradients(node, opset) is not None else None

    return lookup


def left_to_taylor(adjoints: Adjoints) -> list[str]:
    """Operators of a walk that no rule of relevance serves, sorted."""
    known = {op_type for _, op_type in default_table(Settings()).operators()} - TAYLOR
    return sorted({n.op_type for n in adjoints.nodes if n.domain or n.op_type not in known})


def held_fixed(adjoints: Adjoints) -> list[str]:
    """Operators of a walk whose geometry or slope is active and gets no relevance, sorted."""
    found = [n for n in adjoints.nodes if n.domain == "" and n.op_type in DATA]
    return sorted({n.op_type for n in found if n.active_count() > sum(n.active(i) for i in DATA[n.op_type])})


# ----- the other reading: a modified gradient -------------------------------------------------------------

#: Non-linearities whose derivative is replaced by the secant to the origin.
NON_LINEAR = frozenset(
    ELEMENTWISE - {"Cast", "CastLike", "Identity", "Neg", "QuantizeLinear", "DequantizeLinear", "Mod"}
)

#: Those that are not 0 at 0, so that the secant has no bound there.
UNBOUNDED = frozenset(
    {"Sigmoid", "HardSigmoid", "Softplus", "Exp", "Log", "Cos", "Cosh", "Acos", "Acosh", "Reciprocal"}
)

#: Operators that are not linear and keep their plain gradient in this reading.
_KEPT = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization"})
_KEPT |= {"GroupNormalization", "MeanVarianceNormalization", "ReduceLogSumExp", "ReduceLogSum", "ReduceProd"}


def secant_table(epsilon: float) -> Table[GradientRule]:
    """``dx = dy y / (x + epsilon sign x)`` at every elementwise non-linearity.

    epsilon-LRP as a modified gradient (Ancona et al. 2018, arXiv 1711.06104, proposition 1).
    """

    def rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
        x = node.x()
        if sum(node.active(i) for i in range(len(node.inputs))) > 1 or not node.active(0):
            plain = gradients(node, op.opset)
            assert plain is not None
            return plain.rule(op, node, dy)
        small = stabiliser(op, x, epsilon)
        slope = op.Div(node.y, op.Add(x, small))
        slope.shape = node.y.shape
        enter(node, Absorbed(node.y, dy, op.Mul(slope, small), "implicit", "stabiliser"))
        return only(node, op.Mul(dy, slope))

    table: Table[GradientRule] = Table("secant")
    table.add(rule, *sorted(NON_LINEAR))
    return table


def describe_secants(adjoints: Adjoints) -> list[str]:
    """What the user should know about where the secant held, and where not."""
    found = {n.op_type for n in adjoints.nodes if n.domain == ""}
    products = {n.op_type for n in adjoints.nodes if n.op_type in ("Mul", "Div", "MatMul") and n.active_count() > 1}
    notes = []
    if kept := sorted((found & _KEPT) | products):
        notes.append(
            f"{', '.join(kept)} keep their plain gradient: the modified gradient is defined by elementwise functions"
        )
    if loose := sorted(found & UNBOUNDED):
        notes.append(f"{', '.join(loose)} are not 0 at 0, where their secant has no bound; mode='layerwise' has")
    return notes
