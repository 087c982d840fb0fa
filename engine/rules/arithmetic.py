"""Add, Mul, Pow, Max, Where, Clip and their like: elementwise operators of several operands that broadcast.

Rules give each operand's gradient in the result's shape; the walk sums it down to the operand's.

Kinks and ties, here and in the bias rules:

- Max, Min: operands that tie share the gradient evenly, as torch's maximum and minimum do.
- Clip: at a bound the gradient belongs to the bound, so that x gets 0 there, as in torch's relu6 and hardtanh.
- Pow: at base 0 the exponent's gradient is 0 and a zero exponent gives the base no gradient, as in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import cast_like, zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient, linear, of_degree


def constant_terms(op: Builder, node: Primal, scale: Sequence[float]) -> list[Bias]:
    """The operands that are added, times ``scale``, without being active: explicit biases.

    Infinite elements (attention masks) count as 0: nothing behind them has a gradient.
    """
    terms = []
    for index, (x, factor) in enumerate(zip(node.inputs, scale, strict=True)):
        if x is None or node.active(index):
            continue
        value = forms.finite(op, x)
        if factor != 1:
            value = op.Neg(value) if factor == -1 else op.Mul(value, factor)
        terms.append(Bias(value, "explicit", x.name or ""))
    return terms


# ----- sums -------------------------------------------------------------------------------------------


@gradient("Add", "Sum", broadcasts=True)
def add(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy, db = dy, ..."""
    return [dy] * len(node.inputs)


@bias("Add", "Sum")
def add_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return constant_terms(op, node, [1] * len(node.inputs))


@gradient("Sub", broadcasts=True)
def sub(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy, db = -dy."""
    return [dy, lambda: op.Neg(dy)]


@bias("Sub")
def sub_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return constant_terms(op, node, (1, -1))


@gradient("Mean", broadcasts=True)
def mean(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx_i = dy / n for n operands."""
    count = len(node.inputs)
    return [dy if count == 1 else op.Mul(dy, 1 / count)] * count


@bias("Mean")
def mean_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return constant_terms(op, node, [1 / len(node.inputs)] * len(node.inputs))


@gradient("Neg")
def neg(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = -dy."""
    return [op.Neg(dy)]


linear("Neg")

# ----- products ---------------------------------------------------------------------------------------


@gradient("Mul", broadcasts=True)
def mul(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy · b, db = dy · a."""
    a, b = node.x(0), node.x(1)
    return [lambda: op.Mul(dy, b), lambda: op.Mul(dy, a)]


@bias("Mul")
def mul_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return of_degree(op, node, node.active_count())


@gradient("Div", broadcasts=True)
def div(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy / b, db = -(dy / b) · y."""
    share = op.Div(dy, node.x(1))
    return [share, lambda: op.Neg(op.Mul(share, node.y))]


@bias("Div")
def div_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    return of_degree(op, node, int(node.active(0)) - int(node.active(1)))


@gradient("Mod", broadcasts=True)
def mod(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy, db = -dy · q with the whole quotient q = (a - y) / b, truncated or floored as the node does it."""
    a, b = node.x(0), node.x(1)
    return [dy, lambda: op.Neg(op.Mul(dy, op.Round(op.Div(op.Sub(a, node.y), b))))]


@bias("Mod")
def mod_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y = a - q b with q constant: what does not come from an active operand."""
    if node.active(0) and node.active(1):
        return []
    return [Bias(op.Sub(node.y, node.x(0)) if node.active(0) else node.x(0), "implicit")]


# ----- powers -----------------------------------------------------------------------------------------


def _number(node: Primal, index: int) -> float | None:
    """An operand that is one constant number, else None."""
    array = node.constant(index)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _power_slope(op: Builder, node: Primal) -> ir.Value:
    """e · a^(e - 1), 0 where e = 0; the cheapest form for the usual constant exponents."""
    a, y, number = node.x(0), node.y, _number(node, 1)
    if number == 0:
        return zeros_like(op, y)
    if number == 2:
        return op.Mul(a, 2.0)
    if number in (0.5, -0.5):  # a^(-1/2) = 1/y, and y/a = a^(-3/2)
        return op.Div(0.5, y) if number > 0 else op.Mul(op.Div(y, a), -0.5)
    if number == -1:
        return op.Neg(op.Mul(y, y))
    if number is not None:
        return op.Mul(op.Pow(a, op.constant(number - 1, a.dtype)), number)
    e = cast_like(op, node.x(1), a)
    slope = op.Mul(op.Pow(a, op.Sub(e, 1.0)), e)
    known = node.constant(1)
    return slope if known is not None and np.all(known != 0) else op.Where(op.Equal(e, 0.0), 0.0, slope)


def _guarded_log(op: Builder, a: ir.Value) -> ir.Value:
    """log a, and 0 at 0; NaN below, where a power has no derivative by its exponent."""
    return op.Log(op.Where(op.Equal(a, 0.0), 1.0, a))


@gradient("Pow", broadcasts=True)
def power(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy · e · a^(e - 1), de = dy · y · log a."""
    a, e = node.x(0), node.x(1)

    def to_base() -> ir.Value:
        return dy if _number(node, 1) == 1 else op.Mul(dy, _power_slope(op, node))

    def to_exponent() -> ir.Value:
        return cast_like(op, op.Mul(op.Mul(dy, node.y), _guarded_log(op, a)), e)

    return [to_base, to_exponent]


@bias("Pow")
def power_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y · (1 - e - e log a): without e where the base, without e log a where the exponent is held fixed."""
    number = _number(node, 1)
    if number in (0, 1, 2) and not node.active(1):
        return of_degree(op, node, int(number))
    e = cast_like(op, node.x(1), node.x(0))
    factor = op.Sub(1.0, e) if node.active(0) else None
    if node.active(1):
        grown = op.Mul(e, _guarded_log(op, node.x(0)))
        factor = op.Sub(1.0 if factor is None else factor, grown)
    assert factor is not None, "a node on the path has an active operand"
    return [Bias(op.Mul(node.y, factor), "implicit")]


# ----- choices ----------------------------------------------------------------------------------------


def _finite_constant(node: Primal, index: int) -> bool:
    array = node.constant(index)
    return array is not None and bool(np.isfinite(array).all())


def _shares(op: Builder, node: Primal) -> list[ir.Value]:
    """Per operand of Max or Min: 1 where it is chosen, its even share where it ties, else 0."""
    inputs = [node.x(i) for i in range(len(node.inputs))]
    if len(inputs) == 2 and (_finite_constant(node, 0) or _finite_constant(node, 1)):
        # One difference tells; of two infinite operands it would be NaN.
        a, b = inputs if node.op_type == "Max" else inputs[::-1]
        return [forms.half_step(op, op.Sub(a, b)), forms.half_step(op, op.Sub(b, a))]
    hits = [forms.indicator(op, op.Equal(x, node.y), node.y) for x in inputs]
    if len(hits) == 1:
        return hits
    count = op.Sum(*hits)
    return [op.Div(hit, count) for hit in hits]


@gradient("Max", "Min", broadcasts=True)
def extremum(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx_i = dy / k where x_i is one of the k operands that equal y, else 0."""
    shares = _shares(op, node)
    return [op.Mul(dy, share) if node.active(i) else None for i, share in enumerate(shares)]


@bias("Max", "Min")
def extremum_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """The constants where they are chosen."""
    shares = _shares(op, node)
    terms = []
    for i, share in enumerate(shares):
        known = node.constant(i)
        if not node.active(i) and not (known is not None and not known.any()):
            terms.append(Bias(op.Mul(share, forms.finite(op, node.x(i))), "implicit"))
    return terms


@gradient("Where", broadcasts=True)
def where(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """da = dy where the condition holds, db = dy where it does not."""
    condition = node.x(0)
    return [None, lambda: op.Where(condition, dy, 0.0), lambda: op.Where(condition, 0.0, dy)]


@bias("Where")
def where_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """The constants where they are chosen; infinite ones (masks) count as 0."""
    terms = []
    for i in (1, 2):
        x, known = node.x(i), node.constant(i)
        if node.active(i) or (known is not None and not known[np.isfinite(known)].any()):
            continue
        value = forms.finite(op, x)
        chosen = op.Where(node.x(0), value, 0.0) if i == 1 else op.Where(node.x(0), 0.0, value)
        terms.append(Bias(chosen, "explicit", x.name or ""))
    return terms


# ----- Clip -------------------------------------------------------------------------------------------


def _bound(node: Primal, index: int, sign: int) -> ir.Value | None:
    """The bound, or None where it is left out or a constant that bounds nothing (the type's largest number)."""
    number = _number(node, index)
    x = node.optional(index)
    if number is not None and x is not None and sign * number >= np.finfo((x.dtype or ir.DataType.FLOAT).numpy()).max:
        return None
    return x


def _inside(op: Builder, node: Primal) -> ir.Value | None:
    """1 where x went through; None where it does so everywhere.

    Read from y, which keeps the runtime's fusion of Conv and Clip: y differs from both bounds exactly where
    x lies strictly between them.
    """
    low, high = _bound(node, 1, -1), _bound(node, 2, 1)
    if low is None and high is None:
        return None
    if high is None and _number(node, 1) == 0:
        return forms.step(op, node.y)
    return forms.between(op, node.y, low, high)


def _at_low(op: Builder, node: Primal) -> ir.Value:
    low, high = node.x(1), node.optional(2)
    held = op.LessOrEqual(node.y, low)
    return forms.indicator(op, held if high is None else op.And(held, op.Less(node.y, high)), node.y)


def _at_high(op: Builder, node: Primal) -> ir.Value:
    """Where both bounds coincide or cross, the upper one wins: y = min(max(x, low), high)."""
    return forms.indicator(op, op.GreaterOrEqual(node.y, node.x(2)), node.y)


@gradient("Clip", broadcasts=True)
def clip(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy where low < y < high, else 0; dlow = dy where y is low, dhigh = dy where y is high."""

    def to_x() -> ir.Value:
        gate = _inside(op, node)
        return dy if gate is None else op.Mul(dy, gate)

    to_bounds: list[Contribution] = [lambda: op.Mul(dy, _at_low(op, node)), lambda: op.Mul(dy, _at_high(op, node))]
    return [to_x, *to_bounds[: len(node.inputs) - 1]]


@bias("Clip")
def clip_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """The bound where it holds: y minus the parts that went through active operands."""
    if not node.active(1) and not node.active(2) and _passes_zero(node):
        return []
    high = _number(node, 2)
    low_is_zero = _bound(node, 1, -1) is None or _number(node, 1) == 0
    if node.active_count() == 1 and node.active(0) and low_is_zero and high and _bound(node, 2, 1) is not None:
        held = forms.reached(op, node.y, node.x(2), high)
        held.shape = node.y.shape
        return [Bias(held, "implicit", factor=high)]
    makers = (_inside, _at_low, _at_high)
    gates = [make(op, node) for i, make in enumerate(makers) if node.active(i)]
    found = [gate for gate in gates if gate is not None]
    if len(found) < len(gates) or len(found) == sum(x is not None for x in node.inputs):
        return []
    through = found[0] if len(found) == 1 else op.Add(*found)
    value = op.Mul(node.y, op.Sub(1.0, through))
    value.shape = node.y.shape
    return [Bias(value, "implicit")]


def _passes_zero(node: Primal) -> bool:
    """Whether every bound that there is is a constant 0, as in a ReLU: homogeneous of degree 1."""
    bounds = [(i, _bound(node, i, sign)) for i, sign in ((1, -1), (2, 1))]
    return all(x is None or _number(node, i) == 0 for i, x in bounds)
