"""One step of RNN, GRU and LSTM: the standard's equations, and the activations that they may use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder

Activation = Callable[[Builder, ir.Value], ir.Value]
Refuse = Callable[[str, str], UnsupportedNodeError]

#: Activation -> default alpha and beta; None where it has no such number.
_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "relu": (None, None),
    "tanh": (None, None),
    "sigmoid": (None, None),
    "softsign": (None, None),
    "softplus": (None, None),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "affine": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
}


def activations_of(names: Sequence[str], alpha: list[float], beta: list[float], refuse: Refuse) -> list[Activation]:
    """Functions for the listed names; alphas and betas are used up in order by those that have them."""
    alphas, betas = iter(alpha), iter(beta)
    found = []
    for name in names:
        if name.lower() not in _NUMBERS:
            raise refuse(
                f"its activation '{name}' is not one of the standard's", "export the model with a standard one"
            )
        first, second = _NUMBERS[name.lower()]
        a = next(alphas, first) if first is not None else 0.0
        b = next(betas, second) if second is not None else 0.0
        found.append(_activation(name.lower(), a or 0.0, b or 0.0))
    return found


def _activation(name: str, a: float, b: float) -> Activation:
    plain: dict[str, Activation] = {
        "relu": lambda op, x: op.Relu(x),
        "tanh": lambda op, x: op.Tanh(x),
        "sigmoid": lambda op, x: op.Sigmoid(x),
        "softsign": lambda op, x: op.Softsign(x),
        "softplus": lambda op, x: op.Softplus(x),
        "leakyrelu": lambda op, x: op.LeakyRelu(x, alpha=a),
        "thresholdedrelu": lambda op, x: op.ThresholdedRelu(x, alpha=a),
        "elu": lambda op, x: op.Elu(x, alpha=a),
        "hardsigmoid": lambda op, x: op.HardSigmoid(x, alpha=a, beta=b),
        "affine": lambda op, x: op.Add(op.Mul(x, a), b),
        "scaledtanh": lambda op, x: op.Mul(op.Tanh(op.Mul(x, b)), a),
    }
    return plain[name]


@dataclass
class Cell:
    """What one direction computes at each step.

    Attributes:
        activations: One per kind of gate, in the operator's order.
        hidden: Size of a state.
        recurrence: ``R [gates H, H]``.
        clip: Bound of what enters an activation; None for none.
        peephole: ``P [3 H]`` of LSTM, gates i, o, f.
        coupled: LSTM with ``input_forget``: the forget gate is one minus the input gate.
        reset_after: GRU with ``linear_before_reset``.
        unsupported: Makes the error of a node that cannot be served.
    """

    activations: list[Activation]
    hidden: int
    recurrence: ir.Value
    clip: float | None
    peephole: ir.Value | None
    coupled: bool
    reset_after: bool
    unsupported: Refuse

    default: ClassVar[tuple[str, ...]] = ()
    states: ClassVar[int] = 1

    def prepare(self, op: Builder, of_input: ir.Value | None, of_state: ir.Value | None) -> ir.Value | None:
        """Emit what all steps share; gives the bias that is added to the projected inputs."""
        return None if of_input is None or of_state is None else op.Add(of_input, of_state)

    @abstractmethod
    def step(self, op: Builder, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
        """New states, the first of which is the step's result, from the projected input."""

    def gate(self, op: Builder, which: int, x: ir.Value) -> ir.Value:
        """An activation of what was clipped."""
        if self.clip is not None:
            x = op.Clip(x, -self.clip, self.clip)
        return self.activations[which](op, x)


class Rnn(Cell):
    """``H' = f(X W^T + H R^T + b)``."""

    default = ("Tanh",)

    def step(self, op: Builder, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
        return [self.gate(op, 0, op.Gemm(states[0], self.recurrence, x, transB=1))]


class Gru(Cell):
    """``H' = (1 - z) h + z H`` with the update gate z, the reset gate r and the candidate h."""

    default = ("Sigmoid", "Tanh")

    def prepare(self, op: Builder, of_input: ir.Value | None, of_state: ir.Value | None) -> ir.Value | None:
        gates = op.constant([2 * self.hidden, self.hidden], ir.DataType.INT64)
        self._gates, self._candidate = op.emit("Split", [self.recurrence, gates], outputs=2, axis=0)
        self._bias: ir.Value | None = None
        if of_input is None or of_state is None:
            return None
        if not self.reset_after:
            return op.Add(of_input, of_state)
        # The candidate's recurrent bias lies inside the product with r.
        both, self._bias = op.emit("Split", [of_state, gates], outputs=2, axis=0)
        return op.Add(of_input, op.Pad(both, [0, self.hidden]))

    def step(self, op: Builder, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
        state = states[0]
        x_gates, x_candidate = op.emit("Split", [x, [2 * self.hidden, self.hidden]], outputs=2, axis=1)
        both = self.gate(op, 0, op.Gemm(state, self._gates, x_gates, transB=1))
        z, r = op.emit("Split", [both], outputs=2, axis=1, num_outputs=2)
        if self.reset_after:
            h = self.gate(op, 1, op.Add(x_candidate, op.Mul(r, op.Gemm(state, self._candidate, self._bias, transB=1))))
        else:
            h = self.gate(op, 1, op.Gemm(op.Mul(r, state), self._candidate, x_candidate, transB=1))
        return [op.Add(h, op.Mul(z, op.Sub(state, h)))]


class Lstm(Cell):
    """``C' = f C + i c``, ``H' = o h(C')`` with gates i, o, f and the candidate c."""

    default = ("Sigmoid", "Tanh", "Tanh")
    states = 2

    def prepare(self, op: Builder, of_input: ir.Value | None, of_state: ir.Value | None) -> ir.Value | None:
        self._peepholes: list[ir.Value] | None = None
        if self.peephole is not None:
            self._peepholes = op.emit("Split", [self.peephole], outputs=3, axis=0, num_outputs=3)
        return super().prepare(op, of_input, of_state)

    def step(self, op: Builder, x: ir.Value, states: list[ir.Value]) -> list[ir.Value]:
        state, memory = states
        before = op.Gemm(state, self.recurrence, x, transB=1)
        i, o, f, c = op.emit("Split", [before], outputs=4, axis=1, num_outputs=4)
        i = self.gate(op, 0, self._peep(op, i, 0, memory))
        f = op.Sub(1.0, i) if self.coupled else self.gate(op, 0, self._peep(op, f, 2, memory))
        memory = op.Add(op.Mul(f, memory), op.Mul(i, self.gate(op, 1, c)))
        o = self.gate(op, 0, self._peep(op, o, 1, memory))
        return [op.Mul(o, self.activations[2](op, memory)), memory]

    def _peep(self, op: Builder, x: ir.Value, which: int, memory: ir.Value) -> ir.Value:
        return x if self._peepholes is None else op.Add(x, op.Mul(self._peepholes[which], memory))


CELLS: dict[str, type[Cell]] = {"RNN": Rnn, "GRU": Gru, "LSTM": Lstm}
