"""The order in which overrides are asked, and what they leave to the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tiny_models import model, node

from onnxplain.engine.backward import gradients
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.loading import load
from onnxplain.engine.propagation.composite import Composite, everywhere
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, GradientRule, Table
from onnxplain.engine.session.session import Session


def scaled(name: str, factor: float, *op_types: str) -> Table[GradientRule]:
    """A table whose rule multiplies what comes back by a number."""

    def rule(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
        return [op.Mul(dy, factor)]

    table: Table[GradientRule] = Table(name)
    table.add(rule, *op_types)
    return table


def walk(composite: Composite) -> Any:
    """``y = relu(tanh(relu(x)))`` at x = 1; its adjoint at x."""
    proto = model(
        [node("Relu", "x", "a"), node("Tanh", "a", "b"), node("Relu", "b", "y")], {"x": ["N", 1]}, {"y": ["N", 1]}
    )
    rewriter = Rewriter(load(proto).canonical)
    seed = rewriter.seed()
    adjoints = rewriter.backward(seed, [rewriter.value("x")], composite)
    name = rewriter.add_output("dx", adjoints.of[rewriter.value("x")])
    feeds = {"x": np.ones((1, 1), np.float32), "target": np.zeros(1, np.int64)}
    return Session(rewriter.finish(), None).run(feeds)[name][0, 0]


SLOPE = 1 - np.tanh(1.0) ** 2


def test_nodes_that_no_pair_serves_keep_their_gradient() -> None:
    np.testing.assert_allclose(walk(Composite([])), SLOPE, rtol=1e-5)
    np.testing.assert_allclose(walk(Composite([(everywhere, scaled("a", 3.0, "Relu"))])), 9 * SLOPE, rtol=1e-5)
    np.testing.assert_allclose(walk(Composite([(everywhere, scaled("a", 3.0, "Tanh"))])), 3.0, rtol=1e-5)


def test_the_first_pair_that_has_a_rule_serves() -> None:
    first = (lambda n: n.name == "a_node", scaled("first", 2.0, "Relu"))
    tanh = (everywhere, scaled("tanh", 5.0, "Tanh"))
    rest = (everywhere, scaled("rest", 7.0, "Relu", "Tanh"))
    np.testing.assert_allclose(walk(Composite([first, tanh, rest])), 2.0 * 5.0 * 7.0, rtol=1e-6)
    np.testing.assert_allclose(walk(Composite([rest, first, tanh])), 7.0**3, rtol=1e-6)


def test_a_composite_may_stand_on_another() -> None:
    inner = Composite([(everywhere, scaled("inner", 2.0, "Relu"))])
    outer = Composite([(lambda n: n.name == "y_node", scaled("outer", 3.0, "Relu"))], inner)
    np.testing.assert_allclose(walk(outer), 6.0 * SLOPE, rtol=1e-5)
    assert inner.fallback is gradients
