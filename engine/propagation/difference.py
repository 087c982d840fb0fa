"""DeepLIFT's walk: multipliers of differences from a reference, on two forward passes in one graph.

Every value v of the model has a twin, its value on the baseline. Where the gradient's walk carries dy/dv,
this one carries a multiplier m with the promise that is kept node by node, and so by the whole network:

    sum over operands of <m_k, p_k - p0_k>  =  <m_y, y - y0>          (summation to delta)

Rules per kind of operator (Shrikumar et al. 2017, arXiv 1704.02685; Lundberg and Lee 2017, arXiv 1705.07874):

- linear in what depends on the input: the plain gradient;
- functions of one number: the slope of the secant, the Rescale rule (:mod:`.difference_slopes`);
- maxima: credit to the winners of the pass that has the larger maximum (likewise);
- Softmax: its gradient at the logarithmic mean of both results (likewise);
- what is made of such (normalisations, quotients): taken apart (:mod:`.difference_parts`);
- products and everything else: the plain gradient averaged over the straight line between the operands of
  both passes, which the fundamental theorem of calculus makes keep the sum. Gauss points make that exact
  for products; for the rest it is as exact as the residual says.

An operand that has no gradient and still differs between both passes (a condition, an index) leaves a part
that no multiplier can carry: such a node is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxplain.engine.backward import backward, gradients
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.replay import copy_node
from onnxplain.engine.quadrature import quadrature
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import ZERO, Contribution, Entry, GradientRule

#: Where the slope of a secant of no length is taken.
FALLBACKS = ("midpoint", "reference")

#: Points between both passes for operators without a rule of their own.
POINTS = 16


@dataclass(frozen=True)
class Options:
    """How slopes are taken where both passes nearly agree.

    Attributes:
        fallback: ``midpoint`` of both operands, or at the ``reference``.
        threshold: ``|z - z0|`` up to which it is; None: 0 for piecewise linear functions, whose secants lose no
            digits, and for others the square root of the type's precision, where the secant loses half of them.
        points: Gauss points for operators without a rule of their own.
    """

    fallback: str = "midpoint"
    threshold: float | None = None
    points: int = POINTS

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACKS:
            raise OptionError(f"fallback={self.fallback!r} is not possible; choose one of {', '.join(FALLBACKS)}")
        if self.threshold is not None and not self.threshold >= 0:
            raise OptionError(f"threshold={self.threshold} must be a number from 0 on, or None")
        if self.points < 1:
            raise OptionError(f"points={self.points} must be at least 1")

    def bound(self, dtype: ir.DataType | None, piecewise: bool) -> float:
        """The threshold for values of a type."""
        if self.threshold is not None:
            return self.threshold
        return 0.0 if piecewise else float(np.sqrt(np.finfo((dtype or ir.DataType.FLOAT).numpy()).eps))


#: Finds the rule for a node; None means that there is none.
Rules = Callable[["Differences", Primal, int], Entry[GradientRule] | None]


@dataclass
class Differences:
    """Both forward passes, as rules see them.

    Attributes:
        op: Builder at the end of the graph.
        twins: The value on the baseline, for every value that depends on the input.
        moving: The values of the model that differ between both passes, whether by a gradient or in steps.
        rules: Which rule serves which node: :func:`onnxplain.engine.propagation.difference_table.find`.
        options: How secants are taken.
        averaged: Nodes that were served by averaging at ``options.points`` points.
    """

    op: Builder
    twins: dict[ir.Value, ir.Value]
    moving: set[ir.Value]
    rules: Rules
    options: Options = field(default_factory=Options)
    averaged: list[Primal] = field(default_factory=list)
    _deltas: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def twin(self, value: ir.Value) -> ir.Value:
        """The value on the baseline; itself where it does not depend on the input."""
        return self.twins.get(value, value)

    def delta(self, value: ir.Value) -> ir.Value:
        """Its difference from the value on the baseline."""
        if value not in self._deltas:
            found = self.op.Sub(value, self.twin(value))
            found.shape = value.shape
            self._deltas[value] = found
        return self._deltas[value]

    def between(self, value: ir.Value, share: float) -> ir.Value:
        """The point that far on the way from the baseline's value."""
        found = self.op.Add(self.twin(value), self.op.Mul(self.delta(value), share))
        if share == 0.5:
            found = self.op.Mul(self.op.Add(value, self.twin(value)), 0.5)
        found.shape = value.shape
        return found

    # ----- the lookup of the walk -------------------------------------------------------------------

    def __call__(self, node: Primal, opset: int) -> Entry[GradientRule] | None:
        """The rule for ``node``; None where it has not even a gradient."""
        return self.rules(self, node, opset)

    def finished(self, value: ir.Value, multiplier: ir.Value | None) -> ir.Value | None:
        """A value's multiplier once all that depends on it was visited."""
        return multiplier

    # ----- what rules are made of -------------------------------------------------------------------

    def pull(
        self, node: ir.Node, seeds: Sequence[ir.Value | None], wanted: Iterable[ir.Value]
    ) -> dict[ir.Value, ir.Value]:
        """Plain gradients at one node (of either pass, or a copy with other operands) by operand."""
        given = {y: d for y, d in zip(node.outputs, seeds, strict=False) if d is not None}
        return backward(self.op, [node], given, list(dict.fromkeys(wanted)), gradients).of

    def average(self, node: Primal, dy: Sequence[ir.Value | None], points: int) -> Sequence[Contribution]:
        """The plain gradient averaged over Gauss points between the operands of both passes."""
        active = active_operands(node)
        parts: dict[ir.Value, list[ir.Value]] = {}
        for share, weight in zip(*quadrature("gauss_legendre", points), strict=True):
            places = {x: self.between(x, float(share)) for x in active}
            copy = copy_node(self.op, node.ir, places)
            found = self.pull(copy, dy, places.values())
            for x, place in places.items():
                if place in found:
                    part = found[place] if weight == 1 else self.op.Mul(found[place], float(weight))
                    parts.setdefault(x, []).append(part)
        return by_position(node, {x: p[0] if len(p) == 1 else self.op.Sum(*p) for x, p in parts.items()})


def active_operands(node: Primal) -> list[ir.Value]:
    """Operands with a gradient, each once."""
    return list(dict.fromkeys(x for i, x in enumerate(node.inputs) if x is not None and node.active(i)))


def by_position(node: Primal, found: Mapping[ir.Value, ir.Value]) -> Sequence[Contribution]:
    """Multipliers by operand as a rule gives them; an operand that stands twice has all of it at its first place."""
    left = dict(found)
    return [left.pop(x, ZERO) if x is not None and node.active(i) else None for i, x in enumerate(node.inputs)]


#: Operators that read sizes alone.
_SIZES = frozenset({"Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike"})


def moving_values(nodes: Iterable[ir.Node], sources: Iterable[ir.Value]) -> set[ir.Value]:
    """Everything that may change when the sources change their values but not their sizes."""
    moving = set(sources)
    for node in nodes:
        if (node.domain or "") == "" and node.op_type in _SIZES:
            continue
        if any(x in moving for x in operands(node)):
            moving.update(node.outputs)
    return moving


def leading_to(nodes: Sequence[ir.Node], value: ir.Value, sources: Container[ir.Value] = ()) -> list[ir.Node]:
    """The nodes that a value is computed by from the sources, in topological order."""
    needed, found = {value}, []
    for node in reversed(nodes):
        if any(y in needed and y not in sources for y in node.outputs):
            needed.update(operands(node))
            found.append(node)
    return found[::-1]
