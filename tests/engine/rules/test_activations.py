"""Rules of activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from rule_cases import Case, case, check, parametrize, uniform
from single_node import bias_of, gradient_of, model_of, outputs_of

wide = uniform(-6.0, 6.0)
S = (2, 3, 4)

CASES = [
    case("Relu", x=S),
    case("LeakyRelu", x=S),
    *(case("LeakyRelu", x=S, alpha=alpha) for alpha in (0.0, 0.3, 1.0, 1.7, -0.4)),
    case("PRelu", x=S, slope=(3, 1)),
    case("PRelu", x=S, slope=(1,)),
    case("PRelu", x=(2, 3, 4, 4), slope=(3, 1, 1), draw=uniform(-2.0, 2.0)),
    case("PRelu", x=S, slope=np.array([[0.25], [0.0], [1.0]]), name="PRelu-constant-inside"),
    case("PRelu", x=S, slope=np.array([[0.25], [-0.5], [1.5]]), name="PRelu-constant-outside"),
    *(case("ThresholdedRelu", x=S, alpha=alpha) for alpha in (1.0, 0.0, 0.4, -0.7)),
    *(case("Elu", x=S, alpha=alpha) for alpha in (1.0, 0.0, 0.6, 1.8, -0.5)),
    case("Selu", x=S),
    case("Selu", x=S, alpha=0.7, gamma=1.4),
    case("Selu", x=S, alpha=-0.7, gamma=1.4),
    case("Selu", x=S, alpha=0.7, gamma=-1.2),
    *(case("Celu", x=S, alpha=alpha) for alpha in (1.0, 0.5, 2.0)),
    case("Gelu", x=S, opset=20, draw=wide),
    case("Gelu", x=S, opset=20, draw=wide, approximate="none"),
    case("Gelu", x=S, opset=20, draw=wide, approximate="tanh"),
    case("Sigmoid", x=S),
    case("HardSigmoid", x=S, draw=wide),
    case("HardSigmoid", x=S, alpha=-0.7, beta=0.3),
    case("HardSwish", x=S, draw=wide),
    case("Softplus", x=S, draw=wide),
    case("Softsign", x=S),
    case("Tanh", x=S),
    case("Mish", x=S, draw=wide),
    case("Swish", x=S, opset=24, draw=wide),
    case("Swish", x=S, opset=24, draw=wide, alpha=1.702),
    case("Shrink", x=S),
    case("Shrink", x=S, lambd=0.8, bias=0.3),
    case("Shrink", x=S, lambd=-0.2, bias=0.3),
    case("Sigmoid", x=(), batch=False, name="Sigmoid-scalar"),
    case("Relu", x=(2, 3, 4, 5), name="Relu-rank-4"),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


# ----- kinks ----------------------------------------------------------------------------------------

KINKS = [
    ("Relu", {}, [0.0], [0.0]),
    ("LeakyRelu", {"alpha": 0.3}, [0.0], [0.3]),
    ("LeakyRelu", {"alpha": -0.3}, [0.0], [-0.3]),
    ("ThresholdedRelu", {"alpha": 1.0}, [1.0], [0.0]),
    ("Elu", {"alpha": 0.5}, [0.0], [0.5]),
    ("Celu", {"alpha": 2.0}, [0.0], [1.0]),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.5}, [-1.0, 0.0, 1.0], [0.0, 0.5, 0.0]),
    ("HardSwish", {}, [-3.0, 0.0, 3.0], [0.0, 0.5, 1.0]),
    ("Shrink", {"lambd": 0.5}, [-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("op_type", "attributes", "points", "slopes"), KINKS)
def test_kinks(op_type: str, attributes: dict[str, float], points: list[float], slopes: list[float]) -> None:
    found = gradient_of(op_type, {"x": np.array(points, np.float32)}, **attributes)["x"]
    np.testing.assert_allclose(found, slopes, rtol=1e-6)  # attributes are float32


def test_prelu_at_zero_has_the_slope_of_the_left_side() -> None:
    found = gradient_of("PRelu", {"x": np.zeros(2, np.float32), "slope": np.array([0.25, -2.0], np.float32)})
    np.testing.assert_array_equal(found["x"], [0.25, -2.0])
    np.testing.assert_array_equal(found["slope"], [0.0, 0.0])


# ----- far out --------------------------------------------------------------------------------------

Function = Callable[[float], float]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if abs(x) < 50 else 0.0


def _mish_rise(x: float) -> float:
    """x g'(x) for g = tanh(softplus(x)); 1 - tanh² = 1 / cosh²."""
    return x * _sigmoid(x) / math.cosh(_softplus(x)) ** 2 if abs(x) < 300 else 0.0


def _celu(x: float) -> float:
    return math.exp(x / 2) if x < 0 else 1.0


#: Slope and bias by the textbook, in float64.
TEXTBOOK: dict[str, tuple[Function, Function, dict[str, float | str]]] = {
    "Sigmoid": (lambda x: _sigmoid(x) * _sigmoid(-x), lambda x: _sigmoid(x) * (1 - x * _sigmoid(-x)), {}),
    "Tanh": (
        lambda x: 1 - math.tanh(x) ** 2,
        lambda x: math.tanh(x) - (x * (1 - math.tanh(x) ** 2) if abs(x) < 50 else 0),
        {},
    ),
    "Softplus": (_sigmoid, lambda x: _softplus(-abs(x)) + (abs(x) * _sigmoid(-abs(x))), {}),
    "Softsign": (lambda x: 1 / (1 + abs(x)) ** 2, lambda x: x * abs(x) / (1 + abs(x)) ** 2, {}),
    "Elu": (lambda x: math.exp(min(x, 0)), lambda x: math.exp(x) * (1 - x) - 1 if x < 0 else 0.0, {}),
    "Celu": (_celu, lambda x: 2 * (math.exp(x / 2) * (1 - x / 2) - 1) if x < 0 else 0.0, {"alpha": 2.0}),
    "Mish": (lambda x: math.tanh(_softplus(x)) + _mish_rise(x), lambda x: -x * _mish_rise(x), {}),
    "HardSwish": (
        lambda x: min(max(x / 3 + 0.5, 0), 1) if abs(x) < 3 else float(x > 0),
        lambda x: -x * x / 6 if abs(x) < 3 else 0.0,
        {},
    ),
    "Gelu": (
        lambda x: 0.5 * math.erfc(-x / math.sqrt(2)) + x * _density(x),
        lambda x: -x * (x * _density(x)),
        {"approximate": "none"},
    ),
    "Swish": (
        lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
        lambda x: -x * (x * _sigmoid(x) * _sigmoid(-x)),
        {},
    ),
}
POINTS = [-1e30, -1e4, -90.0, -20.0, -4.0, -1e-3, 1e-3, 4.0, 20.0, 90.0, 1e4, 1e30]


@pytest.mark.parametrize("op_type", TEXTBOOK)
def test_far_out(op_type: str) -> None:
    """Slopes and biases stay finite and right where exp overflows and differences cancel.

    Absolute 1e-6 of what is at most about 1: a slope read from y has the rounding of y. The bias gets the
    same relative to x where x is small, since it is the rest of terms of that size.
    """
    slope, node_bias, attributes = TEXTBOOK[op_type]
    opset = {"Gelu": 20, "Swish": 24}.get(op_type, 18)
    x = np.array(POINTS, np.float32)
    found = gradient_of(op_type, {"x": x}, opset=opset, **attributes)["x"]
    np.testing.assert_allclose(found, [slope(float(v)) for v in x], rtol=1e-5, atol=1e-6)
    bias = bias_of(op_type, {"x": x}, opset=opset, **attributes)
    np.testing.assert_allclose(bias, [node_bias(float(v)) for v in x], rtol=1e-5, atol=2e-6)


def test_the_tanh_gelu_far_out() -> None:
    """Beyond |x| = 16 it is 0 or x exactly; its cube overflows from 1e13 on."""
    x = np.array([-1e30, -1e15, -20.0, 20.0, 1e15, 1e30], np.float32)
    found = gradient_of("Gelu", {"x": x}, opset=20, approximate="tanh")["x"]
    np.testing.assert_array_equal(found, x > 0)
    np.testing.assert_array_equal(bias_of("Gelu", {"x": x}, opset=20, approximate="tanh"), 0)


# ----- other witnesses ------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize(
    ("op_type", "attributes", "name", "options"),
    [
        ("Relu", {}, "relu", {}),
        ("LeakyRelu", {"alpha": 0.2}, "leaky_relu", {"negative_slope": 0.2}),
        ("Elu", {"alpha": 0.7}, "elu", {"alpha": 0.7}),
        ("Selu", {}, "selu", {}),
        ("Celu", {"alpha": 0.7}, "celu", {"alpha": 0.7}),
        ("Gelu", {"approximate": "none"}, "gelu", {}),
        ("Gelu", {"approximate": "tanh"}, "gelu", {"approximate": "tanh"}),
        ("Mish", {}, "mish", {}),
        ("HardSwish", {}, "hardswish", {}),
        ("Softplus", {}, "softplus", {}),
        ("Softsign", {}, "softsign", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, "hardsigmoid", {}),
        ("Shrink", {"lambd": 0.5, "bias": 0.5}, "softshrink", {"lambd": 0.5}),
        ("Shrink", {"lambd": 0.5}, "hardshrink", {"lambd": 0.5}),
        ("ThresholdedRelu", {"alpha": 0.5}, "threshold", {"threshold": 0.5, "value": 0.0}),
    ],
)
def test_as_torch_does_it(op_type: str, attributes: dict, name: str, options: dict) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    x = np.linspace(-8, 8, 257, dtype=np.float32) + np.float32(0.01)  # beside the kinks, whose sides may differ
    leaf = torch.tensor(x, requires_grad=True)
    getattr(torch.nn.functional, name)(leaf, **options).sum().backward()
    found = gradient_of(op_type, {"x": x}, opset=20 if op_type == "Gelu" else 18, **attributes)["x"]
    np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-5, atol=2e-6)  # float32 on both sides


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_corrected_reference_of_gelu(approximate: str) -> None:
    """The float64 oracle of this project against onnxruntime's float32 kernel."""
    from onnx.reference import ReferenceEvaluator

    from onnxplain.engine.session.reference_ops import CORRECTED

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    model = model_of("Gelu", {"x": x}, opset=20, approximate=approximate)
    (expected,) = outputs_of(model, {"x": x})
    (found,) = ReferenceEvaluator(model, new_ops=CORRECTED).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
