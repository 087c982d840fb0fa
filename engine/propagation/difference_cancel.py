"""RevealCancel: DeepLIFT's rule that keeps positive and negative parts of a difference apart.

In front of an activation the difference Δz is a sum of positive parts P and negative ones M. The rule lets
each act alone and on top of the other (Shrikumar et al. 2017, arXiv 1704.02685, section 3.5.3):

    Δy+ = ½ [s(z0 + P) - s(z0)] + ½ [s(z) - s(z0 + M)]        m+ = Δy+ / P
    Δy- = ½ [s(z0 + M) - s(z0)] + ½ [s(z) - s(z0 + P)]        m- = Δy- / M

so that parts that cancel are seen. Here the two parts are carried as their sum Δz = P + M and their spread
S = P - M. The sum goes back as any multiplier does, a = (m+ + m-)/2. The spread is a forward tensor of its
own: behind a layer with weights W, of differences d, it is |W| |d|, and what is linear without changing
signs acts on it as on anything else. It goes back with h = (m+ - m-)/2, by plain gradients, to |d|, and so
gives every d of the layer's operand the further multiplier sign(d) · |W|' h. Together that is the paper's
rule: where w d > 0 an operand gets m+ w, where w d < 0 it gets m- w, and at d = 0 the mean of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from onnxplain.engine.backward import backward, gradients
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.replay import copy_node, replay_node
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.propagation.difference import Differences
from onnxplain.engine.propagation.difference_table import is_function
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, Entry, GradientRule, only

#: Layers with weights, whose parts are what each weight makes of each difference.
DENSE, CONVOLUTIONS = frozenset({"Gemm", "MatMul"}), frozenset({"Conv", "ConvTranspose"})
WEIGHTED = DENSE | CONVOLUTIONS

#: Without weights of their own: elements stay single, or are added up with weights that are not negative.
_SINGLE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast", "Expand", "Slice"})
_SINGLE |= {"Split", "Gather", "Tile", "DepthToSpace", "SpaceToDepth", "Concat", "Pad", "Neg"}
_ADDING = frozenset({"Add", "Sub", "Sum", "Mean", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})
_SCALING = frozenset({"Mul", "Div", "BatchNormalization"})

#: A part is nothing where it is less than this share of the spread: rounding.
_NOTHING = 1e-6


@dataclass
class Cancelling(Differences):
    """Differences with RevealCancel in front of activations; Rescale everywhere else.

    Attributes:
        behind: Behind which layers: ``all``, or ``dense`` ones alone (the authors' default for genomics, where
            BatchNormalization and added constants are looked through).
        extras: Further multipliers of values, from the spreads that they are part of.
    """

    behind: Literal["all", "dense"] = "all"
    extras: dict[ir.Value, list[ir.Value]] = field(default_factory=dict)
    revealed: list[Primal] = field(default_factory=list)
    _spreads: dict[ir.Value, ir.Value | None] = field(default_factory=dict)
    _bases: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __call__(self, node: Primal, opset: int) -> Entry[GradientRule] | None:
        entry = super().__call__(node, opset)
        if entry is None:
            return None
        spread = self.spread(node.x()) if is_function(node) and self._chosen(node.x()) else None
        rule = entry.rule if spread is None else self._cancelling(spread)

        def with_extras(op: Builder, at: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
            return rule(op, at, *(self.finished(y, d) for y, d in zip(at.outputs, dy, strict=False)))

        return Entry(with_extras, broadcasts=entry.broadcasts and spread is None)

    def finished(self, value: ir.Value, multiplier: ir.Value | None) -> ir.Value | None:
        """A value's multiplier once all that depends on it was visited."""
        parts = self.extras.pop(value, [])
        if multiplier is None or not parts:
            return multiplier
        total = self.op.Sum(multiplier, *parts)
        total.shape = value.shape
        return total

    # ----- the rule -------------------------------------------------------------------------------

    def _cancelling(self, spread: ir.Value) -> GradientRule:
        def rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
            z, y, y0 = node.x(), node.y, self.twin(node.y)
            delta = self.delta(z)
            parts = [op.Mul(emit(delta, spread), 0.5) for emit in (op.Add, op.Sub)]
            alone = []
            for part in parts:
                place = op.Add(self.twin(z), part)
                place.shape = z.shape
                alone.append(copy_node(op, node.ir, {z: place}).outputs[0])
            changes = []
            for own, other in (alone, alone[::-1]):
                changes.append(op.Mul(op.Add(op.Sub(own, y0), op.Sub(y, other)), 0.5))
            least = op.Mul(spread, _NOTHING)
            slopes = []
            for part, change in zip(parts, changes, strict=True):
                nothing = op.LessOrEqual(op.Abs(part), least)
                slopes.append(op.Where(nothing, 0.0, op.Div(change, op.Where(nothing, 1.0, part))))
            half = op.Mul(dy, 0.5)
            apart = op.Mul(half, op.Sub(*slopes))
            apart.shape = z.shape
            self._send(spread, apart)
            self.revealed.append(node)
            return only(node, op.Mul(half, op.Add(*slopes)))

        return rule

    def _send(self, spread: ir.Value, multiplier: ir.Value) -> None:
        """From a spread back to the differences that it is made of."""
        nodes, ends = self._made_of(spread)
        found = backward(self.op, nodes, {spread: multiplier}, ends, gradients).of
        for magnitude in ends:
            value = self._bases[magnitude]
            extra = self.op.Mul(found[magnitude], self.op.Sign(self.delta(value)))
            extra.shape = value.shape
            self.extras.setdefault(value, []).append(extra)

    def _made_of(self, spread: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
        """The nodes that compute a spread from magnitudes, in topological order, and those magnitudes."""
        nodes: dict[ir.Node, None] = {}
        ends: dict[ir.Value, None] = {}

        def visit(value: ir.Value) -> None:
            node = value.producer()
            if value in self._bases:
                ends[value] = None
            elif node is not None and node not in nodes:
                for x in node.inputs:
                    if x is not None:
                        visit(x)
                nodes[node] = None

        visit(spread)
        return list(nodes), list(ends)

    def _chosen(self, value: ir.Value) -> bool:
        """Whether the layer in front of an activation is one that the rule is asked for."""
        if self.behind == "all":
            return True
        node = value.producer()
        while node is not None and node.op_type in (*_SINGLE, *_SCALING, "Add", "Sub"):
            moved = [x for x in node.inputs if x is not None and x in self.moving]
            node = moved[0].producer() if len(moved) == 1 else None
        return node is not None and node.op_type in DENSE

    # ----- spreads --------------------------------------------------------------------------------

    def spread(self, value: ir.Value) -> ir.Value | None:
        """Sum of the magnitudes of a difference's parts, in the value's shape; None where it has but one part."""
        if value not in self._spreads:
            found = self._make(value)
            if found is not None:
                found.shape = value.shape
            self._spreads[value] = found
        return self._spreads[value]

    def _magnitude(self, value: ir.Value) -> ir.Value:
        """The spread, or the magnitude of a difference of one part, which multipliers end at."""
        return self.spread(value) or self._base(value)

    def _base(self, value: ir.Value) -> ir.Value:
        """|d|, where multipliers of spreads end."""
        magnitude = self.op.Abs(self.delta(value))
        magnitude.shape = value.shape
        self._bases[magnitude] = value
        return magnitude

    def _make(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        if node is None or (node.domain or "") != "":
            return None
        moved = [i for i, x in enumerate(node.inputs) if x is not None and x in self.moving]
        if node.op_type in WEIGHTED:
            return self._weighted(node, moved)
        if node.op_type in _SCALING:
            return self._scaled(node, moved)
        if node.op_type in _ADDING or node.op_type in _SINGLE:
            return self._carried(node, moved, value)
        return None

    def _weighted(self, node: ir.Node, moved: list[int]) -> ir.Value | None:
        """|W| |d|, without the added parameter."""
        if len(moved) != 1 or moved[0] > 1:
            return None
        (index,) = moved
        x, weights = node.inputs[index], node.inputs[1 - index]
        if x is None or weights is None:
            return None
        inputs: list[ir.Value | None] = [self._base(x), self._absolute(weights)]
        return self._copy(node, inputs if index == 0 else inputs[::-1])

    def _absolute(self, value: ir.Value) -> ir.Value:
        found = self.op.Abs(value)
        known = dims(value)
        found.shape = None if known is None else ir.Shape(list(known))
        return found

    def _scaled(self, node: ir.Node, moved: list[int]) -> ir.Value | None:
        """|c| times the spread of an operand that has one; a single part stays single."""
        index = moved[0]
        x = node.inputs[index]
        assert x is not None
        if len(moved) != 1 or self.spread(x) is None or (node.op_type != "Mul" and index != 0):
            return None
        inputs: list[ir.Value | None] = list(node.inputs)
        inputs[index] = self.spread(x)
        if node.op_type == "BatchNormalization":
            _, scale, shift, mean, _ = (v for v in node.inputs if v is not None)
            inputs[1:4] = [self._absolute(scale), self.op.Mul(shift, 0.0), self.op.Mul(mean, 0.0)]
        else:
            other = node.inputs[1 - index]
            assert other is not None
            inputs[1 - index] = self._absolute(other)
        return self._copy(node, inputs)

    def _carried(self, node: ir.Node, moved: list[int], value: ir.Value) -> ir.Value | None:
        """What is added up or moved around: the same with the spreads, and with 0 for what is constant."""
        taken = list(dict.fromkeys(x for i, x in enumerate(node.inputs) if i in moved and x is not None))
        adds = node.op_type not in _SINGLE and not (node.op_type in ("Add", "Sub", "Sum") and len(moved) == 1)
        if not adds and all(self.spread(x) is None for x in taken):
            return None
        if node.op_type == "Neg":
            return self.spread(taken[0])
        inputs: list[ir.Value | None] = []
        for i, x in enumerate(node.inputs):
            floats = x is not None and x.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
            if i in moved and x is not None:
                inputs.append(self._magnitude(x))
            elif floats and x is not None and node.op_type in (*_ADDING, "Concat", "Pad"):
                inputs.append(self._zeros(x))
            else:
                inputs.append(x)
        if node.op_type == "Sub":
            return self.op.Add(*inputs)
        return self._copy(node, inputs, list(node.outputs).index(value))

    def _zeros(self, x: ir.Value) -> ir.Value:
        found = self.op.Mul(x, 0.0)
        known = dims(x)
        found.shape = None if known is None else ir.Shape(list(known))
        return found

    def _copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], output: int = 0) -> ir.Value:
        """The node on other operands; operands that are not given (biases) are left out."""
        copy = replay_node(self.op, node, [*inputs, *([None] * (len(node.inputs) - len(inputs)))])
        return copy.outputs[output]
