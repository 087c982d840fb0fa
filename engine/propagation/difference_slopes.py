"""DeepLIFT's rules for functions of one number, for maxima, for Softmax and for choices by a condition."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine import forms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import copy_node
from onnxplain.engine.propagation.difference import Differences, active_operands, by_position
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, only

# ----- functions of one number ------------------------------------------------------------------------


def secant(
    at: Differences, op: Builder, node: Primal, dy: ir.Value, *, piecewise: bool = False, relative: bool = False
) -> Sequence[Contribution]:
    """m = dy · (y - y0) / (x - x0); the plain slope where x and x0 are (nearly) equal.

    Args:
        at: Both passes.
        op: Where to emit.
        node: The node; its first operand alone depends on the input.
        dy: Multiplier of its result.
        piecewise: The function is piecewise linear.
        relative: Its scale is that of x: the threshold is a share of it.
    """
    x, delta = node.x(0), at.delta(node.x(0))
    bound = at.options.bound(x.dtype, piecewise)
    if bound == 0:
        near = op.Equal(delta, 0.0)
    else:
        scale = op.Mul(op.Max(op.Abs(x), op.Abs(at.twin(x))), bound) if relative else bound
        near = op.LessOrEqual(op.Abs(delta), scale)
    slope = op.Div(at.delta(node.y), op.Where(near, 1.0, delta))
    return only(node, op.Where(near, _plain(at, node, dy, bound), op.Mul(dy, slope)))


def _plain(at: Differences, node: Primal, dy: ir.Value, bound: float) -> ir.Value:
    """dy times the derivative at the midpoint or at the reference; where both are x itself, there."""
    x = node.x(0)
    if bound == 0:
        return at.pull(node.ir, [dy], [x])[x]
    if at.options.fallback == "reference":
        place = at.twin(x)
        copy = at.twin(node.y).producer()
        assert copy is not None, "the twin of a computed value is computed"
    else:
        place = at.between(x, 0.5)
        copy = copy_node(at.op, node.ir, {x: place})
    return at.pull(copy, [dy], [place])[place]


def reciprocal(at: Differences, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """1/x - 1/x0 = -(x - x0) y y0: m = -dy · y · y0, which loses no digits."""
    return only(node, op.Neg(op.Mul(op.Mul(dy, node.y), at.twin(node.y))))


def square_root(at: Differences, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """√x - √x0 = (x - x0) / (√x + √x0): m = dy / (y + y0); where both are 0, 0 times the difference is meant."""
    total = op.Add(node.y, at.twin(node.y))
    return only(node, op.Div(dy, op.Where(op.Equal(total, 0.0), 1.0, total)))


def power(at: Differences, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """x² - x0² = (x - x0)(x + x0), and so on; other constant exponents by the secant."""
    x, x0, y, y0 = node.x(0), at.twin(node.x(0)), node.y, at.twin(node.y)
    known = node.constant(1)
    number = float(known.reshape(-1)[0]) if known is not None and known.size == 1 else None
    if number == 1:
        return only(node, dy)
    if number == 2:
        return only(node, op.Mul(dy, op.Add(x, x0)))
    if number == 3:
        return only(node, op.Mul(dy, op.Add(op.Mul(op.Add(x, x0), x), op.Mul(x0, x0))))
    if number == 0.5:
        return square_root(at, op, node, dy)
    if number == -1:
        return reciprocal(at, op, node, dy)
    if number == -0.5:
        # With r = x^(-1/2): r - r0 = -(x - x0) r² r0² / (r + r0).
        both = op.Mul(y, y0)
        return only(node, op.Neg(op.Div(op.Mul(dy, op.Mul(both, both)), op.Add(y, y0))))
    return secant(at, op, node, dy, relative=True)


# ----- maxima -----------------------------------------------------------------------------------------


def extremum(at: Differences, op: Builder, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
    """y - y0 is credited to the winners of the pass whose extreme is the more extreme one.

    That winner moved at least as far as the extreme did, so that its multiplier (credit over its own
    difference) lies in [0, 1]. It is what captum and DeepSHAP do at MaxPool, for any maximum or minimum.
    """
    seed = dy[0]
    assert seed is not None, "an extreme's indices have no adjoint"
    lowest = node.op_type in ("Min", "ReduceMin")
    y, y0 = node.y, at.twin(node.y)
    further = op.LessOrEqual(y, y0) if lowest else op.GreaterOrEqual(y, y0)
    credit = op.Mul(seed, at.delta(y))
    for value in (further, credit):
        value.shape = y.shape
    twin = y0.producer()
    assert twin is not None, "the twin of a computed value is computed"
    wanted = active_operands(node)
    here = at.pull(node.ir, [op.Where(further, credit, 0.0)], wanted)
    there = at.pull(twin, [op.Where(further, 0.0, credit)], [at.twin(x) for x in wanted])
    plain = at.pull(node.ir, [seed], wanted)
    found = {}
    for x in wanted:
        equal = op.Equal(at.delta(x), 0.0)
        slope = op.Div(op.Add(here[x], there[at.twin(x)]), op.Where(equal, 1.0, at.delta(x)))
        found[x] = op.Where(equal, plain[x], slope)
        found[x].shape = x.shape
    return by_position(node, found)


# ----- Softmax ----------------------------------------------------------------------------------------


def _mean_probability(at: Differences, op: Builder, node: Primal) -> ir.Value:
    """The logarithmic mean of both passes' probabilities: (p - p0) / (log p - log p0), between p and p0.

    Logarithms are x - logsumexp(x), which stay finite where p is 0; masks of -inf have p = 0 in both passes.
    """
    axis = int(node.attribute("axis", -1))

    def logs(x: ir.Value) -> ir.Value:
        return op.Sub(forms.finite(op, x), op.ReduceLogSumExp(x, [axis], keepdims=1))

    y, y0 = node.y, at.twin(node.y)
    if node.op_type == "LogSoftmax":
        y, y0 = op.Exp(y), op.Exp(y0)
    apart = op.Sub(logs(node.x(0)), logs(at.twin(node.x(0))))
    near = op.LessOrEqual(op.Abs(apart), at.options.bound(y.dtype, piecewise=False))
    mean = op.Mul(op.Add(y, y0), 0.5)
    return op.Where(near, mean, op.Div(op.Sub(y, y0), op.Where(near, 1.0, apart)))


def softmax(at: Differences, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """m = s · (dy - Σ s dy / Σ s) with s the logarithmic mean of y and y0.

    y_i - y0_i = s_i (Δx_i - ΔL) with L = logsumexp(x); both passes sum to one, so ΔL = Σ s Δx / Σ s. Exact, and
    like the gradient the multipliers of a row sum to 0: a shift of all x is credited with nothing.
    """
    axes = [int(node.attribute("axis", -1))]
    s = _mean_probability(at, op, node)
    along = op.Div(op.ReduceSum(op.Mul(s, dy), axes, keepdims=1), op.ReduceSum(s, axes, keepdims=1))
    return only(node, op.Mul(s, op.Sub(dy, along)))


def log_softmax(at: Differences, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """y = x - L: m = dy - (s / Σ s) · Σ dy, in the terms of :func:`softmax`."""
    axes = [int(node.attribute("axis", -1))]
    s = _mean_probability(at, op, node)
    share = op.Div(s, op.ReduceSum(s, axes, keepdims=1))
    return only(node, op.Sub(dy, op.Mul(share, op.ReduceSum(dy, axes, keepdims=1))))


# ----- choices ----------------------------------------------------------------------------------------


def where(at: Differences, op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """A condition that differs between both passes, as in x > 0 ? x : 0.

    Each side gets what the mean of both gates lets through. What the change of the gate itself makes is shared
    in proportion to how far each side moved; of a ReLU written like that, the secant is what comes out.
    """
    gate, gate0 = (forms.indicator(op, c, dy) for c in (node.x(0), at.twin(node.x(0))))
    mean = op.Mul(op.Add(gate, gate0), 0.5)
    moved = {i: at.delta(node.x(i)) for i in (1, 2) if node.active(i)}
    shares = {1: mean, 2: op.Sub(1.0, mean)}
    through = [op.Mul(shares[i], d) for i, d in moved.items()]
    rest = op.Sub(at.delta(node.y), through[0] if len(through) == 1 else op.Add(*through))
    sizes = [op.Abs(d) for d in moved.values()]
    size = sizes[0] if len(sizes) == 1 else op.Add(*sizes)
    rate = op.Div(rest, op.Where(op.Equal(size, 0.0), 1.0, size))
    parts: list[Contribution] = [None, None, None]
    for i, d in moved.items():
        parts[i] = op.Mul(dy, op.Add(shares[i], op.Mul(rate, op.Sign(d))))
    return parts
