"""Rules by name with their options, as composites name them.

A rule carries either relevance or gradients back; a method takes rules of its own kind alone, as the two
do not mean the same where they meet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.propagation import rectified
from onnxplain.engine.propagation.composite import Composite, Predicate, everywhere
from onnxplain.engine.propagation.layers import WEIGHTED, is_layer
from onnxplain.engine.propagation.relevance import (
    BIASES,
    SOFTMAXES,
    Settings,
    epsilon_rule,
    pass_on,
    structural,
    sum_rule,
)
from onnxplain.engine.propagation.relevance_defaults import LINEAR, default_table, secant_table
from onnxplain.engine.propagation.relevance_weights import alpha_beta_rule, box_rule, gamma_rule, weights_rule
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import GRADIENT, GradientRule, Table

Kind = Literal["relevance", "gradient"]

#: Where a rule may serve, and the table that does.
Part = tuple[Predicate, Table[GradientRule]]


@dataclass(frozen=True)
class Rule:
    """A rule that composites can name.

    Attributes:
        name: The name.
        kind: What it carries back.
        summary: One line.
        make: From its options to what serves.
    """

    name: str
    kind: Kind
    summary: str
    make: Callable[..., Part]

    def options(self) -> dict[str, Any]:
        """Its options with their defaults."""
        return {k: p.default for k, p in inspect.signature(self.make).parameters.items()}


RULES: dict[str, Rule] = {}


def _rule(name: str, kind: Kind) -> Callable[[Callable[..., Part]], Callable[..., Part]]:
    def register(make: Callable[..., Part]) -> Callable[..., Part]:
        RULES[name] = Rule(name, kind, (make.__doc__ or "").strip().splitlines()[0], make)
        return make

    return register


def make_rule(name: str, options: Mapping[str, Any]) -> Part:
    """The rule of that name.

    Raises:
        OptionError: Unknown rule or option, or a value that is out of range.
    """
    if name not in RULES:
        raise OptionError(f"there is no rule '{name}'; the rules are {', '.join(sorted(RULES))}")
    known = RULES[name].options()
    for key, value in options.items():
        if key not in known:
            offered = ", ".join(known) or "none"
            raise OptionError(f"the rule '{name}' has no option '{key}'; its options: {offered}")
        _check(name, key, value, known[key])
    return RULES[name].make(**options)


def _check(name: str, key: str, value: Any, default: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in ("low", "high"):
        numbers = isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value)
        fits, words = number or numbers, "a number, or a list with one per channel"
    elif isinstance(default, bool):
        fits, words = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        allowed = SOFTMAXES if key == "softmax" else BIASES
        fits, words = value in allowed, " or ".join(map(repr, allowed))
    else:
        fits, words = number and bool(np.isfinite(value)), "a number"
    if fits and key == "epsilon":
        fits, words = value > 0, "a positive number"
    if not fits:
        raise OptionError(f"{key}={value!r} is not possible for the rule '{name}'; give {words}")


def _at_layers(name: str, rule: GradientRule) -> Part:
    table: Table[GradientRule] = Table(name)
    table.add(rule, *sorted(WEIGHTED))
    return is_layer, table


@_rule("epsilon", "relevance")
def _epsilon(epsilon: float = 1e-6, bias: str = "absorb", softmax: str = "taylor") -> Part:
    """R_in = a * W^T (R / (z + epsilon sign z)): by each operand's contribution; linear operators."""
    table: Table[GradientRule] = Table("epsilon")
    table.add(epsilon_rule(Settings(epsilon, bias, softmax)), *sorted(LINEAR | {"BatchNormalization"}))
    return everywhere, table


@_rule("gamma", "relevance")
def _gamma(gamma: float = 0.25, signed: bool = True, epsilon: float = 1e-6, bias: str = "absorb") -> Part:
    """Weights w + gamma w+: favours contributions of the result's own sign; layers."""
    if gamma < 0:
        raise OptionError(f"gamma={gamma} is not possible for the rule 'gamma'; give 0 or more")
    return _at_layers("gamma", gamma_rule(gamma, signed, epsilon, bias))


@_rule("z_plus", "relevance")
def _z_plus(epsilon: float = 1e-6, bias: str = "absorb") -> Part:
    """Positive contributions alone (alpha 1, beta 0); layers."""
    return _at_layers("z_plus", alpha_beta_rule(1.0, 0.0, epsilon, bias))


@_rule("alpha_beta", "relevance")
def _alpha_beta(alpha: float = 2.0, beta: float = 1.0, epsilon: float = 1e-6, bias: str = "absorb") -> Part:
    """Alpha times the positive minus beta times the negative contributions, alpha - beta = 1; layers."""
    if alpha < 1 or beta < 0 or abs(alpha - beta - 1) > 1e-9:
        raise OptionError(
            f"alpha={alpha} and beta={beta} are not possible; alpha - beta has to be 1, with beta at least 0"
        )
    return _at_layers("alpha_beta", alpha_beta_rule(alpha, beta, epsilon, bias))


@_rule("z_box", "relevance")
def _z_box(low: Any = None, high: Any = None, epsilon: float = 1e-6) -> Part:
    """For pixels between low and high (each sample's own extremes where left out); the first layer."""
    return _at_layers("z_box", box_rule(low, high, epsilon))


@_rule("w_square", "relevance")
def _w_square(epsilon: float = 1e-6) -> Part:
    """By the squares of the weights, whatever the operand; the first layer."""
    return _at_layers("w_square", weights_rule(False, epsilon))


@_rule("flat", "relevance")
def _flat(epsilon: float = 1e-6) -> Part:
    """Evenly over what a unit reads; the first layer."""
    return _at_layers("flat", weights_rule(True, epsilon))


@_rule("norm", "relevance")
def _norm(epsilon: float = 1e-6) -> Part:
    """By each operand's share in a sum or an average: Add, Sum, average pooling."""
    table: Table[GradientRule] = Table("norm")
    table.add(sum_rule(Settings(epsilon)), "Add", "Sub", "Sum", "Mean")
    table.add(epsilon_rule(Settings(epsilon)), "AveragePool", "GlobalAveragePool")
    return everywhere, table


@_rule("pass", "relevance")
def _pass() -> Part:
    """R_in = R, where operand and result have the same shape."""

    def rule(op: Any, node: Primal, *relevance: Any) -> Any:
        (index,) = [i for i in range(len(node.inputs)) if node.active(i)][:1]
        if node.x(index).shape is None or node.x(index).shape != node.y.shape:
            raise node.unsupported("the rule 'pass' needs an operand of the result's shape", "use another rule there")
        return pass_on(op, node, *relevance)

    table: Table[GradientRule] = Table("pass")
    table.add(rule, *sorted({op_type for _, op_type in default_table(Settings()).operators()} - {"If", "Loop", "Scan"}))
    return everywhere, table


@_rule("winner", "relevance")
def _winner() -> Part:
    """All to the largest element of each window: max pooling."""
    table: Table[GradientRule] = Table("winner")
    table.add(structural, "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Max", "Min", "TopK")
    return everywhere, table


# ----- rules of gradients ---------------------------------------------------------------------------------


def _rectifiers(composite: Composite) -> Part:
    ((where, table),) = composite.overrides
    return where, table


@_rule("guided", "gradient")
def _guided() -> Part:
    """Guided Backpropagation: of what comes back, only the positive passes an active ReLU."""
    return _rectifiers(rectified.guided())


@_rule("deconvnet", "gradient")
def _deconvnet() -> Part:
    """DeconvNet: of what comes back, only the positive passes a ReLU."""
    return _rectifiers(rectified.deconvolution())


@_rule("rectgrad", "gradient")
def _rectgrad(percentile: float = 98.0, magnitude: bool = False) -> Part:
    """RectGrad: what comes back passes a ReLU where it times the activation is among the largest."""
    if not 0 <= percentile <= 100:
        raise OptionError(
            f"percentile={percentile} is not possible for the rule 'rectgrad'; give a number from 0 to 100"
        )
    return _rectifiers(rectified.rectified(percentile, 0.0, magnitude))


@_rule("secant", "gradient")
def _secant(epsilon: float = 1e-4) -> Part:
    """f(x) / (x + epsilon sign x) in the place of f'(x) at elementwise functions."""
    return everywhere, secant_table(epsilon)


@_rule("gradient", "gradient")
def _gradient() -> Part:
    """The plain gradient, to take nodes out of what a later entry serves."""
    return everywhere, GRADIENT
