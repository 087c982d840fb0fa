"""Rules of elementwise arithmetic with broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from rule_cases import Case, case, check, parametrize, uniform
from single_node import bias_of, gradient_of

from onnxplain.engine.vjp import vjp

positive = uniform(0.3, 2.0)
#: Elements of a mask, of both kinds in every row.
MASK = np.array([[True, False, True, False], [False, True, True, True], [True, True, False, False]])


def scalar(value: float) -> np.ndarray[Any, Any]:
    return np.asarray(value, np.float64)


CASES = [
    case("Add", a=(2, 3, 4), b=(2, 3, 4), batch=False),
    case("Add", a=(2, 3, 4), b=(3, 1)),
    case("Add", a=(2, 1, 4), b=(2, 3, 1), batch=False),
    case("Add", a=(2, 3), b=(4, 2, 3), batch=False),
    case("Sub", a=(2, 3, 4), b=(4,)),
    case("Sub", a=(3, 4), b=(2, 1, 4), batch=False),
    case("Sum", a=(2, 3)),
    case("Sum", a=(2, 3, 4), b=(3, 1), c=(4,)),
    case("Sum", a=(3, 4), b=(2, 1, 4), c=(1,), d=(2, 3, 1), batch=False),
    case("Mean", a=(2, 3)),
    case("Mean", a=(2, 3, 4), b=(3, 1), c=(4,)),
    case("Neg", x=(2, 3)),
    case("Mul", a=(2, 3, 4), b=(2, 1, 4), batch=False),
    case("Mul", a=(2, 3, 4), b=(3, 1)),
    case("Div", a=(2, 3, 4), b=(3, 1)),
    case("Div", a=(3, 1), b=(2, 3, 4), batch=False),
    case("Mod", a=(2, 3, 4), b=(3, 1), draw=uniform(0.7, 0.9), fmod=1),
    case("Mod", a=(2, 3, 4), b=np.array([[0.3], [-0.4], [0.25]]), draw=uniform(0.65, 0.74), fmod=1),
    case("Mod", a=np.array([[-5.3, 2.8], [4.9, -3.1]]), b=(2, 2), draw=uniform(0.9, 1.1), fmod=1, batch=False),
    case("Pow", a=(2, 3, 4), e=(3, 1), draw=positive),
    case("Pow", a=(3, 1), e=(2, 3, 4), draw=positive, batch=False),
    *(case("Pow", a=(2, 3), e=scalar(e), name=f"Pow-a**{e}") for e in (0, 1, 2, 3, -1, -2)),
    *(case("Pow", a=(2, 3), e=scalar(e), draw=positive, name=f"Pow-a**{e}") for e in (0.5, -0.5, 2.2, -1.7)),
    case("Pow", a=(2, 3), e=np.array(3, np.int64), name="Pow-int64-scalar"),
    case("Pow", a=(2, 3), e=np.array([0, 1, 3], np.int32), name="Pow-int32-with-zero"),
    case("Pow", a=(2, 3), e=np.array([-1, 2, 3], np.int64), name="Pow-int64"),
    case("Pow", a=(2, 3), e=np.array([[2.0, 4.0, 1.0]]), name="Pow-even-exponents-of-negatives"),
    case("Pow", a=scalar(2.5), e=(2, 3), name="Pow-constant-base", batch=False),
    case("Pow", a=np.array([2.0, 0.0, 1.0]), e=(2, 3), draw=positive, name="Pow-base-with-zero", batch=False),
    case("Max", a=(2, 3)),
    case("Max", a=(2, 3, 4), b=(2, 3, 4), batch=False),
    case("Max", a=(2, 3, 4), b=(3, 1)),
    case("Max", a=(2, 3, 4), b=(4,), c=(3, 1)),
    case("Max", a=(2, 3, 4), b=scalar(0.0), name="Max-relu"),
    case("Max", a=scalar(0.3), b=(2, 3, 4), name="Max-constant-first", batch=False),
    case("Max", a=(2, 3), b=np.array([-np.inf, 0.4, -0.2]), name="Max-infinite-constant"),
    case("Max", a=(2, 3), b=scalar(-0.5), c=np.array([0.2, -1.0, 0.1]), name="Max-two-constants"),
    case("Min", a=(2, 3)),
    case("Min", a=(2, 3, 4), b=(3, 1)),
    case("Min", a=(2, 3, 4), b=(4,), c=(3, 1)),
    case("Min", a=(2, 3, 4), b=scalar(0.3), name="Min-constant"),
    case("Min", a=np.array([0.3, -0.2]), b=(3, 2), name="Min-constant-first", batch=False),
    case("Where", c=MASK, a=(2, 3, 4), b=(3, 1), batch=False),
    case("Where", c=MASK, a=(4,), b=(2, 3, 4), batch=False),
    case("Where", c=MASK[:, :1], a=(3, 4), b=(), batch=False),
    case("Where", c=MASK, a=(2, 3, 4), b=scalar(0.0), name="Where-zero", batch=False),
    case("Where", c=MASK, a=np.full((3, 4), 7.0), b=(3, 4), name="Where-constant-first", batch=False),
    case("Clip", x=(2, 3, 4)),
    case("Clip", x=(2, 3, 4), low=scalar(0.0), high=scalar(0.6), name="Clip-relu6"),
    case("Clip", x=(2, 3, 4), low=scalar(0.0), name="Clip-relu"),
    case("Clip", x=(2, 3, 4), low=None, high=scalar(0.0), name="Clip-upper-zero"),
    case("Clip", x=(2, 3, 4), low=None, high=scalar(0.5), name="Clip-upper"),
    case("Clip", x=(2, 3, 4), low=scalar(-0.5), name="Clip-lower"),
    case("Clip", x=(2, 3, 4), low=scalar(-np.inf), high=scalar(0.4), name="Clip-infinite-bound"),
    case("Clip", x=(2, 3, 4), low=scalar(0.4), high=scalar(-0.4), name="Clip-crossed", wrt=("x",)),
    case("Clip", x=(2, 3, 4), opset=7, attributes={"min": -0.2, "max": 0.6}, name="Clip-attributes"),
    case("Clip", x=(4, 3), low=(), high=(), name="Clip-all-active"),
    case("Clip", x=(4, 3), low=(), name="Clip-low-active"),
    case("Clip", x=(4, 3), low=None, high=(), name="Clip-high-active"),
    case("Clip", x=(4, 3), low=(), high=scalar(0.9), name="Clip-low-active-high-constant"),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


# ----- kinks, ties, infinities ----------------------------------------------------------------------


def _gradients(op_type: str, arrays: dict[str, Any], wrt: list[str], constants: tuple[str, ...] = ()) -> Any:
    return gradient_of(op_type, {k: np.asarray(v, np.float32) for k, v in arrays.items()}, wrt, constants)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_ties_share_evenly(op_type: str) -> None:
    two = _gradients(op_type, {"a": [1.0, 2.0], "b": [1.0, 2.0]}, ["a", "b"])
    np.testing.assert_array_equal([two["a"], two["b"]], 0.5)
    constant = _gradients(op_type, {"a": [0.0, 3.0], "b": [0.0, 3.0]}, ["a"], constants=("b",))
    np.testing.assert_array_equal(constant["a"], 0.5)
    three = _gradients(op_type, {"a": [1.0], "b": [1.0], "c": [1.0]}, ["a", "b", "c"])
    np.testing.assert_allclose([three[k][0] for k in "abc"], 1 / 3, rtol=1e-6)  # 1/3 is not a float32


def test_two_infinite_operands_are_a_tie() -> None:
    found = _gradients("Max", {"a": [-np.inf, 1.0], "b": [-np.inf, -np.inf]}, ["a", "b"])
    np.testing.assert_array_equal(found["a"], [0.5, 1.0])
    np.testing.assert_array_equal(found["b"], [0.5, 0.0])


def test_clip_gives_the_bound_to_the_bound() -> None:
    x = [-1.0, 0.0, 3.0, 6.0, 7.0]
    found = _gradients("Clip", {"x": x, "low": 0.0, "high": 6.0}, ["x", "low", "high"])
    np.testing.assert_array_equal(found["x"], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal([found["low"], found["high"]], [2, 2])


def test_clip_with_crossed_bounds_gives_the_upper_one() -> None:
    found = _gradients("Clip", {"x": [-1.0, 0.5, 7.0], "low": 1.0, "high": 0.0}, ["x", "low", "high"])
    np.testing.assert_array_equal(found["x"], 0)
    np.testing.assert_array_equal([found["low"], found["high"]], [0, 3])


def test_clip_by_the_largest_number_lets_all_through() -> None:
    large = float(np.finfo(np.float32).max)
    found = _gradients("Clip", {"x": [-large, 1.0], "low": -large}, ["x"], constants=("low",))
    np.testing.assert_array_equal(found["x"], 1)


def test_power_at_base_zero() -> None:
    """d/da a^e = e a^(e-1) and d/de a^e = a^e log a, both with their limits at 0."""
    found = _gradients("Pow", {"a": [0.0, 0.0, 0.0, 2.0], "e": [0.0, 1.0, 2.0, 0.0]}, ["a", "e"])
    np.testing.assert_array_equal(found["a"], [0, 1, 0, 0])
    np.testing.assert_allclose(found["e"], [0, 0, 0, np.log(2)], rtol=1e-6)  # rounding of one Log


def test_division_by_a_large_number_does_not_overflow() -> None:
    found = _gradients("Div", {"a": [1e30], "b": [1e30]}, ["a", "b"])
    np.testing.assert_allclose([found["a"][0], found["b"][0]], [1e-30, -1e-30], rtol=1e-6)


def test_where_keeps_what_is_not_chosen_out() -> None:
    """An infinite gradient beside the mask must not become NaN behind it."""
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Sqrt", ["x"], ["r"]),
                helper.make_node("Where", ["c", "x", "r"], ["s"]),
                helper.make_node("Reciprocal", ["s"], ["y"]),
            ],
            "g",
            [
                helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2]),
                helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [2]),
            ],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    x, c = np.array([4.0, 4.0], np.float32), np.array([True, False])
    found = vjp(model, {"x": x, "c": c}, {"y": np.array([np.inf, 1.0], np.float32)}, wrt=["r"])
    np.testing.assert_allclose(found["r"], [0.0, -0.25])


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_the_same_tensor_twice(op_type: str) -> None:
    """x + x and x * x: both contributions are summed."""
    node = helper.make_node(op_type, ["x", "x"], ["y"])
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [3]) for n in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = np.array([1.0, -2.0, 3.0], np.float32)
    found = vjp(model, {"x": x}, {"y": np.ones(3, np.float32)})
    np.testing.assert_array_equal(found["x"], [2, 2, 2] if op_type == "Add" else 2 * x)


def test_infinite_masks_have_no_bias() -> None:
    """The bias of Add and Where with -inf in a constant is finite: what is masked has no adjoint."""
    x = np.ones((3, 4), np.float32)
    mask = np.where(MASK, 0.5, -np.inf).astype(np.float32)
    expected = np.where(MASK, 0.5, 0.0)
    for constants in ((), ("m",)):
        np.testing.assert_array_equal(bias_of("Add", {"x": x, "m": mask}, constants=constants), expected)
        np.testing.assert_array_equal(bias_of("Where", {"c": MASK, "m": mask, "x": x}, constants=constants), expected)
    fill = np.float32(-np.inf)
    np.testing.assert_array_equal(bias_of("Where", {"c": MASK, "x": x, "m": fill}, constants=("m",)), 0)
    np.testing.assert_array_equal(bias_of("Max", {"x": x, "m": fill}, constants=("m",)), 0)
