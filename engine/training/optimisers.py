"""One update of all parameters at once, in standard operators: gradient descent with momentum, and Adam.

All parameters stand in one flat vector, so an update is a dozen nodes however many layers there are. The formulas
are those of ``torch.optim``: weight decay is added to the gradient (``adamw``: it shrinks the weights instead).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder

OPTIMISERS = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class Optimiser:
    """How parameters follow their gradient.

    Attributes:
        name: ``sgd``, ``adam`` (arXiv 1412.6980) or ``adamw`` (arXiv 1711.05101).
        weight_decay: L2 penalty, on every trained parameter.
        momentum: Of ``sgd``: how much of the last step is kept.
        betas: Of Adam: how much of the mean and of the mean square of the gradients is kept.
        epsilon: Of Adam.

    Raises:
        OptionError: Unknown name, or a number out of range.
    """

    name: str = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise OptionError(f"unknown optimiser '{self.name}'; choose one of {', '.join(OPTIMISERS)}")
        if self.weight_decay < 0:
            raise OptionError(f"weight_decay={self.weight_decay} is negative; give 0 or more")
        for key, value in (("momentum", self.momentum), ("betas", self.betas[0]), ("betas", self.betas[1])):
            if not 0 <= value < 1:
                raise OptionError(f"{key}={value} is not in [0, 1); usual values are 0.9 and 0.999")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the vectors that it keeps between steps, each as long as the parameters."""
        return ("momentum",) if self.name == "sgd" else ("mean", "square")

    def update(
        self, op: Builder, weights: ir.Value, gradient: ir.Value, states: list[ir.Value], rate: ir.Value, step: ir.Value
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Append one update; gives the new weights and states.

        Args:
            op: Builder at the end of the graph.
            weights, gradient: ``[P]``.
            states: As in `states`, ``[P]`` each.
            rate: Learning rate, a scalar.
            step: int64 scalar: the number of this step, from 1.
        """
        if self.weight_decay and self.name == "adamw":
            weights = op.Sub(weights, op.Mul(weights, op.Mul(rate, self.weight_decay)))
        elif self.weight_decay:
            gradient = op.Add(gradient, op.Mul(weights, self.weight_decay))
        if self.name == "sgd":
            kept = op.Add(op.Mul(states[0], self.momentum), gradient)
            return op.Sub(weights, op.Mul(kept, rate)), [kept]
        return self._adam(op, weights, gradient, states, rate, step)

    def _adam(
        self, op: Builder, weights: ir.Value, gradient: ir.Value, states: list[ir.Value], rate: ir.Value, step: ir.Value
    ) -> tuple[ir.Value, list[ir.Value]]:
        mean = op.Add(op.Mul(states[0], self.betas[0]), op.Mul(gradient, 1 - self.betas[0]))
        square = op.Add(op.Mul(states[1], self.betas[1]), op.Mul(op.Mul(gradient, gradient), 1 - self.betas[1]))
        # 1 - 0.999^t loses four digits in float32, so the two corrections are made in float64.
        count = op.Cast(step, to=ir.DataType.DOUBLE.value)
        first, second = (op.Sub(1.0, op.Pow(op.constant(b, ir.DataType.DOUBLE), count)) for b in self.betas)
        size = op.Div(op.Cast(rate, to=ir.DataType.DOUBLE.value), first)
        root = op.Cast(op.Sqrt(second), to=ir.DataType.FLOAT.value)
        divisor = op.Add(op.Div(op.Sqrt(square), root), self.epsilon)
        moved = op.Mul(op.Div(mean, divisor), op.Cast(size, to=ir.DataType.FLOAT.value))
        return op.Sub(weights, moved), [mean, square]
