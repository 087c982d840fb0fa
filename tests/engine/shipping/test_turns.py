"""Values of the graph at other points: states, lists and replaced tables, in a loop and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.model import to_proto
from onnxplain.engine.method import Plan, Subject
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.shipping.staging import STAGING, Staging
from onnxplain.engine.shipping.turns import MOST_WRITTEN, Points, Turn, at_points, over_turns, per_sample, summed

Array = np.ndarray[Any, Any]
W = np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]], np.float32)
X = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.25]], np.float32)


def square_plan(points: Any = "loop") -> Plan:
    """``y = (x w)^2``, explained for class 1."""
    proto = model([node("MatMul", "x w", "p"), node("Mul", "p p", "y")], {"x": ["N", 3]}, {"y": ["N", 2]}, {"w": W})
    rewriter = Rewriter(ox.load(proto).canonical)
    seed = rewriter.seed(fixed=1)
    value = rewriter.value("x")
    plan = Plan(rewriter, seed, [Subject("x", value, ("batch", None), False)])
    plan.memo[STAGING] = Staging(points, ["x"])
    return plan


def run(plan: Plan, **values: ir.Value) -> dict[str, Array]:
    names = {key: plan.rewriter.add_output(key, value) for key, value in values.items()}
    proto = to_proto(plan.rewriter.finish())
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names.values()), {"x": X}), strict=True))


def scaled(plan: Plan, factors: Sequence[float]) -> Any:
    """Points ``factor x``."""
    table = plan.rewriter.op.constant(np.array(factors), ir.DataType.FLOAT)

    def at(op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return {"x": op.Mul(plan.subjects[0].value, op.Gather(table, turn, axis=0))}

    return at


def score(x: Array) -> Array:
    return np.asarray((x @ W)[:, 1] ** 2)


@pytest.mark.parametrize("points", ["loop", "batched", 2])
def test_gradients_add_up_and_scores_are_listed(points: Any) -> None:
    plan, factors = square_plan(points), [0.0, 0.5, 2.0]
    gradient, clean = plan.gradients()["x"], plan.seed.score
    gradient.shape = plan.subjects[0].value.shape
    (total,) = summed(plan, 3, scaled(plan, factors), [gradient], lambda turn: [turn.of(gradient)], [gradient])

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        return [turn.op.Add(turn.states[0], turn.of(clean))], [turn.of(clean)]

    last, listed = over_turns(plan, 3, scaled(plan, factors), [clean], step, [per_sample(plan)], [per_sample(plan)])
    found = run(plan, total=total, last=last, listed=listed)
    slope = 2 * (X @ W)[:, 1:] * W[:, 1]
    np.testing.assert_allclose(found["total"], sum(factors) * slope, rtol=1e-6)
    expected = np.stack([score(f * X) for f in factors])
    np.testing.assert_allclose(found["listed"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["last"], expected.sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("points", ["loop", "batched"])
def test_points_may_depend_on_what_was_before(points: Any) -> None:
    """Three steps of descent, each from where the last one has ended."""
    plan = square_plan(points)
    x = plan.subjects[0].value
    gradient = plan.gradients()["x"]

    def at(op: Builder, turn: ir.Value, states: Sequence[ir.Value]) -> Points:
        return {"x": states[0]}

    def step(turn: Turn) -> tuple[Sequence[ir.Value], Sequence[ir.Value]]:
        return [turn.op.Sub(turn.states[0], turn.op.Mul(turn.of(gradient), 0.01))], []

    begin = plan.rewriter.op.Add(x, 0.0)
    begin.shape = x.shape
    (end,) = over_turns(plan, 3, at, [gradient], step, [begin], ahead=False)
    z = X.astype(np.float64)
    for _ in range(3):
        z = z - 0.01 * 2 * (z @ W)[:, 1:] * W[:, 1]
    np.testing.assert_allclose(run(plan, end=end)["end"], z, rtol=1e-5)


@pytest.mark.parametrize("points", ["loop", "batched"])
def test_tables_may_be_replaced(points: Any) -> None:
    plan = square_plan(points)
    op, x = plan.rewriter.op, plan.subjects[0].value
    own = op.constant(np.full(3, 7.0), x.dtype, name="own")
    product = op.Mul(x, own)
    product.shape = x.shape
    rows = op.constant(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), x.dtype)
    (total,) = summed(
        plan, 2, scaled(plan, [1.0, 1.0]), [product], lambda turn: [turn.of(product)], [product],
        swap=lambda inner, turn: {own: inner.Gather(rows, turn, axis=0)},
    )  # fmt: skip
    np.testing.assert_allclose(run(plan, total=total)["total"], X * [11.0, 22.0, 33.0], rtol=1e-6)


def test_a_number_of_turns_that_is_known_when_it_runs() -> None:
    plan = square_plan("auto")
    op = plan.rewriter.op
    count = op.Squeeze(op.Shape(plan.subjects[0].value, start=0, end=1), [0])
    (total,) = summed(plan, count, scaled(plan, [1.0, 2.0]), [plan.seed.score], lambda t: [t.of(plan.seed.score)],
                      [per_sample(plan)])  # fmt: skip
    np.testing.assert_allclose(run(plan, total=total)["total"], score(X) + score(2 * X), rtol=1e-6)


def test_one_point_without_a_loop() -> None:
    plan = square_plan()
    zero = plan.rewriter.op.Mul(plan.subjects[0].value, 3.0)
    (found,) = at_points(plan, {"x": zero}, [plan.seed.score])
    np.testing.assert_allclose(run(plan, found=found)["found"], score(3 * X), rtol=1e-6)


def test_many_turns_are_a_loop_of_their_own_accord() -> None:
    for count, loops in ((3, 0), (MOST_WRITTEN + 1, 1)):
        plan = square_plan("auto")
        at = scaled(plan, [1.0] * count)
        summed(plan, count, at, [plan.seed.score], lambda t: [t.of(plan.seed.score)], [per_sample(plan)])  # noqa: B023
        assert sum(n.op_type == "Loop" for n in plan.rewriter.graph) == loops
