"""Variants of RNN, GRU and LSTM, one-node models of them, and their equations in NumPy."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, Any]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FEW, BATCH, WIDTH, HIDDEN = 4, 3, 5, 2


@dataclass(frozen=True)
class Recurrent:
    """One variant: operator, attributes, and which optional operands are there."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)
    lengths: bool = False
    initial: bool = False
    peephole: bool = False
    bias: bool = True
    steps: int = FEW
    #: Whether onnxruntime has a kernel for it.
    runtime: bool = True
    outputs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        parts = [f"{k}={v}" for k, v in self.attributes.items()]
        parts += [n for n in ("lengths", "initial", "peephole") if getattr(self, n)]
        parts += [] if self.bias else ["no-bias"]
        return f"{self.kind}({','.join(parts)})".replace(" ", "").replace("'", "")

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1

    @property
    def names(self) -> list[str]:
        return list(self.outputs) or (["Y", "Y_h", "Y_c"] if self.kind == "LSTM" else ["Y", "Y_h"])

    def arrays(self, dtype: Any = np.float64) -> dict[str, Array]:
        """Operands by name."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        count, d = GATES[self.kind] * HIDDEN, self.directions
        first = bool(self.attributes.get("layout"))
        state = (BATCH, d, HIDDEN) if first else (d, BATCH, HIDDEN)
        shapes: dict[str, tuple[int, ...]] = {
            "X": (BATCH, self.steps, WIDTH) if first else (self.steps, BATCH, WIDTH),
            "W": (d, count, WIDTH),
            "R": (d, count, HIDDEN),
        }
        if self.bias:
            shapes["B"] = (d, 2 * count)
        if self.initial:
            shapes["initial_h"] = state
            if self.kind == "LSTM":
                shapes["initial_c"] = state
        if self.peephole:
            shapes["P"] = (d, 3 * HIDDEN)
        drawn: dict[str, Array] = {k: (0.7 * rng.normal(size=s)).astype(dtype) for k, s in shapes.items()}
        if self.lengths:
            drawn["sequence_lens"] = np.asarray([self.steps, 1, self.steps - 1], np.int32)
        return drawn


def build(case: Recurrent, arrays: dict[str, Array], *, dynamic: bool) -> onnx.ModelProto:
    """The one-node model; X and the initial states are inputs. ``dynamic``: steps and batch are symbols."""
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h"] + (["initial_c", "P"] if case.kind == "LSTM" else [])
    operands = [n if n in arrays else "" for n in names]
    while not operands[-1]:
        operands.pop()
    results = ["Y", "Y_h", "Y_c"] if case.kind == "LSTM" else ["Y", "Y_h"]
    wanted = [n if n in case.names else "" for n in results]
    node = helper.make_node(case.kind, operands, wanted, hidden_size=HIDDEN, **case.attributes)
    first = bool(case.attributes.get("layout"))
    kind = helper.np_dtype_to_tensor_dtype(arrays["X"].dtype)
    symbols: dict[str, list[int | str]] = {
        "X": ["N", "T", WIDTH] if first else ["T", "N", WIDTH],
        "initial_h": ["N", case.directions, HIDDEN] if first else [case.directions, "N", HIDDEN],
    }
    symbols["initial_c"] = symbols["initial_h"]
    inputs = [
        helper.make_tensor_value_info(n, kind, symbols[n] if dynamic else arrays[n].shape)
        for n in symbols
        if n in arrays
    ]
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in symbols]
    outputs = [helper.make_tensor_value_info(n, kind, None) for n in case.names]
    graph = helper.make_graph([node], case.kind, inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def feeds_of(case: Recurrent, arrays: dict[str, Array]) -> dict[str, Array]:
    """What the model of :func:`build` is fed."""
    return {n: arrays[n] for n in ("X", "initial_h", "initial_c") if n in arrays}


# ----- the equations ----------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _functions(case: Recurrent) -> list[Callable[[Array], Array]]:
    default = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[case.kind]
    names = case.attributes.get("activations", default * case.directions)
    alphas = iter(case.attributes.get("activation_alpha", ()))
    betas = iter(case.attributes.get("activation_beta", ()))
    found: list[Callable[[Array], Array]] = []
    for name in names:
        a = next(alphas, {"LeakyRelu": 0.01, "HardSigmoid": 0.2}.get(name, 1.0)) if name in _ALPHA else 0.0
        b = next(betas, {"HardSigmoid": 0.5}.get(name, 0.0)) if name in _BETA else 0.0
        a, b = (float(np.float32(v)) for v in (a, b))  # attributes are float32
        table: dict[str, Callable[..., Array]] = {
            "Tanh": lambda x, a, b: np.tanh(x),
            "Sigmoid": lambda x, a, b: _sigmoid(x),
            "Relu": lambda x, a, b: np.maximum(x, 0),
            "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
            "Softplus": lambda x, a, b: np.log1p(np.exp(x)),
            "Elu": lambda x, a, b: np.where(x < 0, a * (np.exp(x) - 1), x),
            "LeakyRelu": lambda x, a, b: np.where(x < 0, a * x, x),
            "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0),
            "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
            "Affine": lambda x, a, b: a * x + b,
            "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
        }
        found.append(lambda x, f=table[name], a=a, b=b: f(x, a, b))
    return found


_ALPHA = {"LeakyRelu", "ThresholdedRelu", "Elu", "HardSigmoid", "Affine", "ScaledTanh"}
_BETA = {"HardSigmoid", "Affine", "ScaledTanh"}


def _step(case: Recurrent, arrays: dict[str, Array], d: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """New states of one sample, by the standard's equations."""
    count = GATES[case.kind] * HIDDEN
    w, r = arrays["W"][d], arrays["R"][d]
    b = arrays["B"][d] if "B" in arrays else np.zeros(2 * count)
    wb, rb = (part.reshape(GATES[case.kind], HIDDEN) for part in (b[:count], b[count:]))
    xs = (w @ x).reshape(GATES[case.kind], HIDDEN) + wb
    bound = case.attributes.get("clip")
    limit = (lambda v: np.clip(v, -np.float32(bound), np.float32(bound))) if bound else (lambda v: v)
    per = len(_functions(case)) // case.directions
    f, *more = _functions(case)[d * per : (d + 1) * per]
    rs = r.reshape(GATES[case.kind], HIDDEN, HIDDEN)
    if case.kind == "RNN":
        return f(limit(xs[0] + rs[0] @ h + rb[0])), c
    if case.kind == "GRU":
        z, reset = (f(limit(xs[k] + rs[k] @ h + rb[k])) for k in (0, 1))
        if case.attributes.get("linear_before_reset"):
            new = more[0](limit(xs[2] + reset * (rs[2] @ h + rb[2])))
        else:
            new = more[0](limit(xs[2] + rs[2] @ (reset * h) + rb[2]))
        return (1 - z) * new + z * h, c
    g = xs + np.stack([rs[k] @ h for k in range(4)]) + rb
    p = arrays["P"][d].reshape(3, HIDDEN) if "P" in arrays else np.zeros((3, HIDDEN))
    i = f(limit(g[0] + p[0] * c))
    forget = 1 - i if case.attributes.get("input_forget") else f(limit(g[2] + p[2] * c))
    c = forget * c + i * more[0](limit(g[3]))
    return f(limit(g[1] + p[1] * c)) * more[1](c), c


def numpy_recurrent(case: Recurrent, arrays: dict[str, Array]) -> dict[str, Array]:
    """All outputs, sample by sample and step by step over each sample's own length."""
    first = bool(case.attributes.get("layout"))
    x = arrays["X"].swapaxes(0, 1) if first else arrays["X"]
    steps, batch = x.shape[:2]
    d_count = case.directions
    lens = arrays.get("sequence_lens", np.full(batch, steps))
    y = np.zeros((steps, d_count, batch, HIDDEN))
    last_h, last_c = np.zeros((2, d_count, batch, HIDDEN))
    for d in range(d_count):
        reverse = d == 1 or case.attributes.get("direction") == "reverse"
        for n in range(batch):
            h, c = (
                (arrays[k].swapaxes(0, 1) if first else arrays[k])[d, n] if k in arrays else np.zeros(HIDDEN)
                for k in ("initial_h", "initial_c")
            )
            times = range(int(lens[n]))
            for t in reversed(times) if reverse else times:
                h, c = _step(case, arrays, d, x[t, n], h, c)
                y[t, d, n] = h
            last_h[d, n], last_c[d, n] = h, c
    if first:
        y, last_h, last_c = y.transpose(2, 0, 1, 3), last_h.swapaxes(0, 1), last_c.swapaxes(0, 1)
    found = {"Y": y, "Y_h": last_h, "Y_c": last_c}
    return {n: found[n] for n in case.names}


def _cases() -> list[Recurrent]:
    cases = []
    for kind in GATES:
        count = {"RNN": 1, "GRU": 2, "LSTM": 3}[kind]
        cases += [
            Recurrent(kind),
            Recurrent(kind, bias=False),
            Recurrent(kind, {"direction": "reverse"}, initial=True),
            Recurrent(kind, {"direction": "bidirectional"}),
            Recurrent(kind, {"direction": "bidirectional"}, lengths=True, initial=True),
            Recurrent(kind, {"direction": "reverse"}, lengths=True),
            Recurrent(kind, lengths=True),
            Recurrent(kind, {"clip": 0.3}, initial=True),
            Recurrent(kind, {"layout": 1}, initial=True, runtime=False),
            Recurrent(kind, {"layout": 1, "direction": "bidirectional"}, lengths=True, initial=True, runtime=False),
            Recurrent(kind, outputs=("Y_h",)),
        ]
        for name, numbers in [
            ("Relu", {}),
            ("Softsign", {}),
            ("Softplus", {}),
            ("HardSigmoid", {}),
            ("HardSigmoid", {"activation_alpha": [0.3] * count, "activation_beta": [0.4] * count}),
            ("LeakyRelu", {"activation_alpha": [0.2] * count}),
            ("ThresholdedRelu", {"activation_alpha": [0.1] * count}),
            ("Elu", {"activation_alpha": [0.7] * count}),
            ("Affine", {"activation_alpha": [0.6] * count, "activation_beta": [0.1] * count}),
            ("ScaledTanh", {"activation_alpha": [0.9] * count, "activation_beta": [0.8] * count}),
        ]:
            # GRU with a gate that is not bounded grows without limit: compared in float64 alone.
            bounded = kind != "GRU" or name != "Softplus"
            cases.append(Recurrent(kind, {"activations": [name] * count, **numbers}, initial=True, runtime=bounded))
    mixed = {"activations": ["HardSigmoid", "Tanh", "Elu"], "activation_alpha": [0.3, 0.5], "activation_beta": [0.6]}
    both = {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Softsign", "Relu"]}
    return [
        *cases,
        Recurrent("LSTM", peephole=True, initial=True),
        Recurrent("LSTM", {"direction": "bidirectional", "clip": 0.5}, peephole=True, lengths=True, initial=True),
        Recurrent("LSTM", {"input_forget": 1}, initial=True),
        Recurrent("LSTM", mixed, peephole=True),
        Recurrent("LSTM", both),
        Recurrent("GRU", {"linear_before_reset": 1}, initial=True),
        Recurrent("GRU", {"linear_before_reset": 1}, bias=False, initial=True),
        Recurrent("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}, lengths=True),
    ]


CASES = _cases()
