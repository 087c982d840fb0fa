"""Layer-wise relevance propagation: what goes back through the walk is relevance instead of the adjoint.

Bach et al. 2015 (doi 10.1371/journal.pone.0130140); for attention and normalisation Achtibat et al. 2024
(AttnLRP, arXiv 2402.05602). One rule serves every operator that is linear in its operands: with the
operator's own gradient rule as vector-Jacobian product,

    R_in = x * J^T (R / stab(y)),        stab(y) = y + epsilon sign(y), sign(0) = 1

which is the epsilon rule for any rank, stride, padding or broadcast. A product of k active factors is
linear in each: k y stands below the line, and each factor gets its even share. What only moves elements
passes relevance as it passes gradients, what acts on each element by itself passes it unchanged,
and denominators, gates and geometry are held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.backward import gradients
from onnxplain.engine.broadcast import unbroadcast
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.layout import cast_like
from onnxplain.engine.propagation.gates import live_factors
from onnxplain.engine.propagation.layers import WEIGHTED, factors
from onnxplain.engine.propagation.ledger import Entry as Absorbed
from onnxplain.engine.propagation.ledger import enter, enter_difference, forget
from onnxplain.engine.propagation.normalized import NORMALIZATIONS, NORMALIZED, NORMALIZED_BIASES
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import BIAS, ZERO, Contribution, Entry, GradientRule

#: A rule of relevance: like a rule of gradients, with relevance in the place of adjoints.
RelevanceRule = Callable[..., Sequence[Contribution]]

BIASES = ("absorb", "ignore")
SOFTMAXES = ("taylor", "constant")
GATES = ("half", "signal")


@dataclass(frozen=True)
class Settings:
    """What the default rules may be told.

    Attributes:
        epsilon: Of the stabiliser.
        bias: ``absorb``: a bias takes its share of the relevance; ``ignore``: all goes to the operands.
        softmax: ``taylor``: ``R_in = x (R - p sum R)``; ``constant``: its result is held fixed.
        gates: Where one factor of a product is a sigmoid: ``half`` to each, or all to the ``signal``.
        batch_norm: ``epsilon`` or ``pass``.
    """

    epsilon: float = 1e-6
    bias: str = "absorb"
    softmax: str = "taylor"
    gates: str = "half"
    batch_norm: str = "epsilon"

    @property
    def held(self) -> frozenset[str]:
        """Operators whose results, as factors of a product, get no relevance."""
        held = {"Reciprocal"}
        held |= {"Softmax"} if self.softmax == "constant" else set()
        return frozenset(held | ({"Sigmoid", "HardSigmoid"} if self.gates == "signal" else set()))


# ----- what rules share -------------------------------------------------------------------------------


def stabiliser(op: Builder, z: ir.Value, epsilon: float) -> ir.Value:
    """``epsilon sign(z)`` with sign(0) = 1."""
    if z.dtype == ir.DataType.FLOAT and not op.portable:
        # 1 where z < 0, in one pass; see forms.step.
        negative = op.HardSigmoid(z, alpha=-(2.0**127), beta=0.0)
        return op.Sub(epsilon, op.Mul(negative, 2 * epsilon))
    return op.Where(op.Less(z, 0.0), op.constant(-epsilon, z.dtype), op.constant(epsilon, z.dtype))


def quotient(
    op: Builder, node: Primal, relevance: ir.Value, z: ir.Value, epsilon: float, sign: float = 1.0
) -> ir.Value:
    """``R / stab(z)`` in the shape of the node's result; what the stabiliser takes is entered, ``sign`` times."""
    small = stabiliser(op, z, epsilon)
    share = op.Div(relevance, op.Add(z, small))
    share.shape = node.y.shape
    enter(node, Absorbed(node.y, share, small, "implicit", "stabiliser", sign))
    return share


def given(node: Primal, parts: Mapping[int, ir.Value]) -> list[Contribution]:
    """Contributions by position; active operands that are not among them get no relevance."""
    return [parts.get(i, ZERO) if node.active(i) else None for i in range(len(node.inputs))]


def pulled(op: Builder, node: Primal, wanted: Sequence[int], *dy: ir.Value | None) -> dict[int, ir.Value]:
    """Vector-Jacobian products of some operands, in their shapes, at constant denominators."""
    entry = _linear_form(op, node)
    if entry is None:
        raise node.unsupported("there is no gradient rule for this operator", "see 'onnxplain operators'")
    parts = entry.rule(op, node, *dy)
    found = {}
    for index in wanted:
        part = parts[index]
        value = part() if callable(part) else part
        if isinstance(value, ir.Value):
            found[index] = unbroadcast(op, value, node.x(index), node.y) if entry.broadcasts else value
    return found


def _linear_form(op: Builder, node: Primal) -> Entry[GradientRule] | None:
    """The gradient of a node as far as it is linear: normalisations at a constant denominator."""
    if node.domain != "" or node.op_type not in NORMALIZATIONS:
        return gradients(node, op.opset)
    if any(node.active(i) for i in range(1, len(node.inputs))):
        raise node.unsupported(
            "its scale or bias depends on what is explained", "export it without them, followed by Mul and Add"
        )
    return NORMALIZED.find(node.domain, node.op_type, node.version(op.opset))


def explicit_biases(op: Builder, node: Primal) -> list[tuple[str, ir.Value]]:
    """What the node adds to a product of its operands: name and value, broadcastable to its result."""
    table = NORMALIZED_BIASES if node.domain == "" and node.op_type in NORMALIZATIONS else BIAS
    entry = table.find(node.domain, node.op_type, node.version(op.opset))
    terms = list(entry.rule(op, node)) if entry is not None else []
    found = [(t.name, t.full(op)) for t in terms if t.kind == "explicit" and t.output == 0]
    added = node.ir.meta.get(_ADDED)
    return [*found, (added[0], added[1])] if added is not None else found


def total(op: Builder, values: Sequence[ir.Value]) -> ir.Value:
    """The sum of at least one value."""
    return values[0] if len(values) == 1 else op.Sum(*values)


# ----- a constant that is added behind a layer is its bias ----------------------------------------------

#: Key of a layer's ``meta``: name and value of the constant that the next node adds, and that node's result.
_ADDED = "onnxplain.added"


def takes_added(op: Builder, node: Primal) -> bool:
    """Whether an Add or Sub of a constant was handed over to the layer in front of it, as that layer's bias.

    Exporters write linear layers of more than two axes so. The layer's rule then sees bias and weights together.
    """
    if node.op_type not in ("Add", "Sub") or len(node.inputs) != 2 or node.active_count() != 1:
        return False
    index = 0 if node.active(0) else 1
    value = node.x(index)
    layer = value.producer()
    if layer is None or layer.domain != "" or layer.op_type not in WEIGHTED or (node.op_type == "Sub" and index):
        return False
    if _ADDED in layer.meta:  # by an earlier walk over the same nodes
        return layer.meta[_ADDED][2] is node.y
    if sum(x in node.inputs or node.is_active(x) for x in operands(layer)) != 1 or value.is_graph_output():
        return False
    if len(value.uses()) != 1 or value.shape is None or value.shape != node.y.shape or node.ir.graph is not layer.graph:
        return False
    constant = node.x(1 - index)
    shift = forms.finite(op, op.Neg(constant) if node.op_type == "Sub" else constant)
    shift.shape = constant.shape
    layer.meta[_ADDED] = (constant.name or "", shift, node.y)
    return True


def whole(node: Primal) -> ir.Value:
    """The node's result, with the constant that the next node adds where it counts as this one's bias."""
    added = node.ir.meta.get(_ADDED)
    return added[2] if added is not None else node.y


# ----- the epsilon rule ---------------------------------------------------------------------------------

#: Operands that carry data where the others are geometry or slopes, held fixed.
DATA = {"GridSample": (0,), "RoiAlign": (0,), "DeformConv": (0, 1, 3), "Resize": (0,), "PRelu": (0,)}


def _shared(node: Primal, settings: Settings) -> tuple[list[int], int]:
    """Positions of the operands that get relevance, and the number of factors among them."""
    wanted = [i for i in DATA.get(node.op_type, range(len(node.inputs))) if node.active(i)]
    if node.op_type in WEIGHTED:
        live = live_factors(node, factors(node), settings.held)
        held = set(factors(node)) - set(live)
        return [i for i in wanted if i not in held], max(1, len(live))
    if node.op_type in _PRODUCTS:
        return wanted, max(1, sum(i in wanted for i in _PRODUCTS[node.op_type]))
    return wanted, 2 if node.op_type == "ReduceSumSquare" else 1


#: Positions of the factors of further products.
_PRODUCTS = {"DeformConv": (0, 1), "STFT": (0, 2)}


def _weight(node: Primal, index: int, count: int) -> int:
    """How much an operand's own share counts: what is added to a product of several factors gets all of it."""
    added = index not in (_PRODUCTS.get(node.op_type) or factors(node)) and (
        node.op_type in WEIGHTED or node.op_type in _PRODUCTS
    )
    return count if added else 1


def epsilon_rule(settings: Settings) -> RelevanceRule:
    """``R_in = x * J^T (R / stab(y))``, for whatever is linear in its operands or a product of them."""

    def rule(op: Builder, node: Primal, *relevance: ir.Value | None) -> Sequence[Contribution]:
        arriving = relevance[0]
        if arriving is None or any(r is not None for r in relevance[1:]):
            raise node.unsupported(
                "relevance arrives at a result beside its first one, which no rule shares out",
                "use a gradient method, or export the operator written out",
            )
        wanted, count = _shared(node, settings)
        biases = explicit_biases(op, node)
        z = whole(node)
        if settings.bias == "ignore" and biases:
            z = op.Sub(z, total(op, [b for _, b in biases]))
        share = quotient(op, node, arriving, z if count == 1 else op.Mul(z, float(count)), settings.epsilon)
        if settings.bias == "absorb":
            for name, value in biases:
                enter(node, Absorbed(node.y, share, value, "explicit", name, float(count)))
        parts = pulled(op, node, wanted, share)
        weighed = {
            i: op.Mul(part, float(k)) if (k := _weight(node, i, count)) > 1 else part for i, part in parts.items()
        }
        return given(node, {i: op.Mul(node.x(i), part) for i, part in weighed.items()})

    return rule


def taylor_rule(settings: Settings) -> RelevanceRule:
    """The epsilon rule for what is not linear: what linearity leaves over is absorbed, and entered."""
    linear = epsilon_rule(settings)

    def rule(op: Builder, node: Primal, *relevance: ir.Value | None) -> Sequence[Contribution]:
        if len([y for y in node.outputs if node.is_active(y)]) > 1:
            raise node.unsupported(
                "no rule of relevance serves an operator of several results", "use a gradient method"
            )
        contributions = linear(op, node, *relevance)
        forget(node)
        passed = {i: part for i, part in enumerate(contributions) if isinstance(part, ir.Value)}
        assert relevance[0] is not None
        enter_difference(op, node, relevance[0], passed, "implicit", "non-linearity")
        return contributions

    return rule


# ----- passing on ---------------------------------------------------------------------------------------


def pass_on(op: Builder, node: Primal, *relevance: ir.Value | None) -> Sequence[Contribution]:
    """R_in = R: to the operand that an elementwise function is a function of."""
    arriving = relevance[0]
    assert arriving is not None
    active = [i for i in DATA.get(node.op_type, range(len(node.inputs))) if node.active(i)][:1]
    return given(node, {i: unbroadcast(op, arriving, node.x(i), node.y) for i in active})


def converted(op: Builder, node: Primal, *relevance: ir.Value | None) -> Sequence[Contribution]:
    """R_in = R, in the operand's own type."""
    arriving = relevance[0]
    assert arriving is not None
    return given(node, {0: cast_like(op, arriving, node.x())})


def structural(op: Builder, node: Primal, *relevance: ir.Value | None) -> Sequence[Contribution]:
    """As the gradient: relevance goes to where an element came from."""
    entry = gradients(node, op.opset)
    assert entry is not None
    if node.op_type not in _MIXING or len(node.outputs) > 1:
        parts = list(entry.rule(op, node, *relevance))
        if entry.broadcasts:
            return given(node, {i: unbroadcast(op, v, node.x(i), node.y) for i, v in _values(node, parts).items()})
        return parts
    assert relevance[0] is not None
    found = pulled(op, node, [i for i in range(len(node.inputs)) if node.active(i)], *relevance)
    enter_difference(op, node, relevance[0], found, "explicit", "constant")
    return given(node, found)


def _values(node: Primal, parts: Sequence[Contribution]) -> dict[int, ir.Value]:
    found = {}
    for index, part in enumerate(parts):
        value = part() if callable(part) and node.active(index) else part
        if isinstance(value, ir.Value):
            found[index] = value
    return found


#: Structural operators whose result may hold constants, which keep the relevance that falls on them.
_MIXING = {
    "Where",
    "Concat",
    "Pad",
    "ScatterElements",
    "ScatterND",
    "TensorScatter",
    "OneHot",
    "CenterCropPad",
    "Trilu",
}
_MIXING |= {"MaxUnpool", "MaxRoiPool"}


# ----- sums and products of two -------------------------------------------------------------------------


def sum_rule(settings: Settings) -> RelevanceRule:
    """Add, Sub, Sum, Mean: the epsilon rule; a constant behind a layer is left to that layer."""
    linear = epsilon_rule(settings)

    def rule(op: Builder, node: Primal, *relevance: ir.Value | None) -> Sequence[Contribution]:
        if takes_added(op, node) or (settings.bias == "ignore" and node.active_count() == 1):
            return pass_on(op, node, *relevance)
        return linear(op, node, *relevance)

    return rule


def product_rule(settings: Settings) -> RelevanceRule:
    """Mul: half to each factor; all to the signal where the other factor is a denominator, or its own gate."""

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        if node.active_count() == 1:
            return pass_on(op, node, relevance)
        live = live_factors(node, (0, 1), settings.held)
        part = relevance if len(live) == 1 else op.Mul(relevance, 0.5)
        part.shape = node.y.shape
        return given(node, {i: unbroadcast(op, part, node.x(i), node.y) for i in live})

    return rule


def log_sum_rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
    """ReduceLogSum: the logarithm passes, the sum shares out: x times the gradient."""
    (part,) = pulled(op, node, [0], relevance).values()
    shared = op.Mul(node.x(), part)
    enter_difference(op, node, relevance, {0: shared}, "implicit", "non-linearity")
    return given(node, {0: shared})


def reduced_product_rule(settings: Settings) -> RelevanceRule:
    """ReduceProd: an even share to each of the n factors."""

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        share = quotient(op, node, relevance, node.y, settings.epsilon)
        parts = pulled(op, node, [0], share)
        count = op.CastLike(op.Div(op.Size(node.x()), op.Size(node.y)), share)
        return given(node, {0: op.Div(op.Mul(node.x(), parts[0]), count)})

    return rule


# ----- softmax --------------------------------------------------------------------------------------------


def softmax_rule(settings: Settings) -> RelevanceRule:
    """R_in = x (R - p sum R), or nothing where its result is held fixed."""

    def rule(op: Builder, node: Primal, relevance: ir.Value) -> Sequence[Contribution]:
        if settings.softmax == "constant":
            enter_difference(op, node, relevance, {}, "implicit", "softmax")
            return [ZERO]
        axis, x = int(node.attribute("axis", -1)), forms.finite(op, node.x())
        kept = op.Mul(node.y, op.ReduceSum(relevance, [axis], keepdims=1))
        part = op.Mul(x, op.Sub(relevance, kept))
        part.shape = node.x().shape
        enter_difference(op, node, relevance, {0: part}, "implicit", "softmax")
        return [part]

    return rule
