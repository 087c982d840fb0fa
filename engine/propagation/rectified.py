"""Backward rules at rectifiers: what DeconvNet, Guided Backpropagation and RectGrad put in the gradient's place.

All three differ from the gradient at ReLU alone (Springenberg et al. 2015, arXiv 1412.6806, figure 1;
Kim et al. 2019, arXiv 1902.04893). A Clip from 0 to a positive bound, ReLU6 among them, is a ReLU here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.backward import Adjoints, gradients
from onnxplain.engine.errors import OptionError
from onnxplain.engine.forms import indicator, step
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.propagation.composite import Composite, Predicate, everywhere
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, GradientRule, Table, only
from onnxplain.engine.rules.windows import spatial, window_of

#: Activations that these methods leave to the plain gradient; the result says so.
SMOOTH = frozenset({"Sigmoid", "Tanh", "Gelu", "Erf", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Softplus", "Mish"})
SMOOTH |= {"HardSigmoid", "HardSwish", "ThresholdedRelu", "Softsign", "Swish"}

#: From the node, its arriving adjoint and the gate of its plain gradient to what is passed on.
Rectify = Callable[[Builder, Primal, ir.Value], ir.Value]


def is_rectifier(node: Primal) -> bool:
    """ReLU, or a Clip from 0 to a positive constant (or to nothing)."""
    if node.domain != "":
        return False
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or node.optional(1) is None:
        return False
    low, high = node.constant(1), node.constant(2)
    above = node.optional(2) is None or (high is not None and bool(np.all(high > 0)))
    return low is not None and bool(np.all(low == 0)) and above


def _gate(op: Builder, node: Primal) -> ir.Value:
    """1 where the rectifier lets its operand through, else 0."""
    gate = step(op, node.y)
    if node.op_type == "Clip" and node.optional(2) is not None:
        gate = op.Mul(gate, indicator(op, op.Less(node.y, node.x(2)), node.y))
    return gate


def _table(name: str, passed_on: Rectify) -> Composite:
    def rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
        return only(node, passed_on(op, node, dy))

    table: Table[GradientRule] = Table(name)
    table.add(rule, "Relu", "Clip")
    return Composite([(is_rectifier, table)])


def guided() -> Composite:
    """dx = relu(dy) where x > 0, else 0."""
    return _table("guided backpropagation", lambda op, node, dy: op.Mul(op.Relu(dy), _gate(op, node)))


def deconvolution() -> Composite:
    """dx = relu(dy): the rectifier is applied to what comes back, whatever went forward."""
    return _table("deconvolution", lambda op, node, dy: op.Relu(dy))


def rectified(percentile: float | None, threshold: float, magnitude: bool) -> Composite:
    """dx = dy where y dy > tau, else 0.

    Args:
        percentile: tau is this percentile of y dy over the layer, per sample; None for a constant.
        threshold: The constant tau.
        magnitude: Compare |y dy| instead.
    """

    def passed_on(op: Builder, node: Primal, dy: ir.Value) -> ir.Value:
        product = op.Mul(node.y, dy)
        product.shape = node.y.shape
        if magnitude:
            product = op.Abs(product)
            product.shape = node.y.shape
        tau = threshold if percentile is None else _percentile(op, product, node.rank(), percentile)
        return op.Mul(dy, indicator(op, op.Greater(product, tau), dy))

    return _table("rectified gradient", passed_on)


def _percentile(op: Builder, x: ir.Value, rank: int, percentile: float) -> ir.Value:
    """The element nearest to that percentile of each sample, in x's rank: the k-th largest."""
    flat = op.Flatten(x, axis=1)
    known = dims(x)
    share = 1.0 - percentile / 100.0
    sizes = [d for d in known[1:] if isinstance(d, int)] if known is not None else []
    if known is not None and len(sizes) == len(known) - 1:
        k = op.constant([int(np.round(share * (int(np.prod(sizes)) - 1))) + 1], ir.DataType.INT64)
    else:
        count = op.Cast(op.Slice(op.Shape(flat), [1], [2]), to=ir.DataType.DOUBLE.value)
        k = op.Add(op.Cast(op.Round(op.Mul(op.Sub(count, 1.0), share)), to=ir.DataType.INT64.value), 1)
    largest, _ = op.emit("TopK", [flat, k], outputs=2, axis=1, sorted=0)
    return op.Reshape(op.ReduceMin(largest, [1], keepdims=1), [-1] + [1] * (rank - 1))


# ----- what the authors' code adds ------------------------------------------------------------------------


def without_borders() -> tuple[Predicate, Table[GradientRule]]:
    """Before a convolution that keeps the size, the outermost cells of what comes back count as zero.

    Padding makes them large for no reason of the picture's; the authors of RectGrad drop them.
    """

    def rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
        spatial = list(range(2, node.rank()))
        inner = op.Slice(dy, [1] * len(spatial), [-1] * len(spatial), spatial)
        ones = [0, 0, *[1] * len(spatial)]
        cleared = op.Pad(inner, [*ones, *ones])
        cleared.shape = node.y.shape
        plain = gradients(node, op.opset)
        assert plain is not None
        return plain.rule(op, node, cleared)

    table: Table[GradientRule] = Table("without borders")
    table.add(rule, "Conv")
    return keeps_size, table


def keeps_size(node: Primal) -> bool:
    """A padded convolution of stride 1 whose result is as large as its operand; not where nothing would be left."""
    if node.domain != "" or node.op_type != "Conv":
        return False
    win = window_of(node)
    whole = [b + e == reach - 1 for b, e, reach in zip(win.begin, win.end, win.extents, strict=True)]
    small = any(isinstance(size, int) and size < 3 for size in spatial(node.y, win.rank))
    return any(win.pads) and all(whole) and all(s == 1 for s in win.strides) and not small


def proportional_pooling() -> tuple[Predicate, Table[GradientRule]]:
    """Max pooling hands back by share: each element of a window gets ``dy`` times it over the window's sum."""

    def rule(op: Builder, node: Primal, dy: ir.Value, *_: ir.Value | None) -> Sequence[Contribution]:
        names = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
        attributes = {n: node.attribute(n) for n in names}
        if any(d != 1 for d in attributes["dilations"] or ()):
            raise node.unsupported("its windows are dilated", "use proportional=False")
        attributes.pop("dilations")
        copy = ir.node("AveragePool", [node.x()], attributes={k: v for k, v in attributes.items() if v is not None})
        op.graph.append(copy)
        copy.name = op.unique_name(f"{node.name}/average")
        average = copy.outputs[0]
        average.name, average.type, average.shape = op.unique_name(f"{copy.name}:0"), node.y.type, node.y.shape
        share = op.Div(dy, op.Add(average, 1e-10))
        share.shape = node.y.shape
        pooled = Primal(copy, {node.x()})
        plain = gradients(pooled, op.opset)
        assert plain is not None
        (back,) = plain.rule(op, pooled, share)
        spread = back() if callable(back) else back
        assert isinstance(spread, ir.Value)
        return only(node, op.Mul(node.x(), spread))

    table: Table[GradientRule] = Table("proportional pooling")
    table.add(rule, "MaxPool")
    return everywhere, table


def describe_rectifiers(adjoints: Adjoints, method: str) -> list[str]:
    """What the user should know about where the rule held.

    Raises:
        OptionError: It held nowhere, so that the result would be a plain gradient under another name.
    """
    held = [n for n in adjoints.nodes if is_rectifier(n)]
    other = sorted({n.op_type for n in adjoints.nodes if n.op_type in SMOOTH and n.domain == ""})
    if not held:
        has = f"; its activations are {', '.join(other)}" if other else ""
        raise OptionError(
            f"{method} changes the gradient at ReLU, and there is none between the input and the target{has}; "
            "use method 'gradient' or 'input_x_gradient'"
        )
    if not other:
        return []
    return [f"the rule holds at {len(held)} ReLU; {', '.join(other)} keep their plain gradient"]
