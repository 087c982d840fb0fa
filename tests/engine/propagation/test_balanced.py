"""Balanced gradients against networks whose gates really are constants, written in NumPy; and operator by operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tiny_models import model, node
from tiny_transformers import attention_block, vision_transformer

import onnxplain as ox

Array = np.ndarray[Any, Any]

#: float32 through a few layers, relative to the sum of all terms' magnitudes.
ROUNDING = 1e-5


def weights_of(proto: onnx.ModelProto) -> dict[str, Array]:
    return {i.name: numpy_helper.to_array(i).astype(np.float64) for i in proto.graph.initializer}


class Frozen:
    """The attention block with what are gates at one input held there: an affine function of the input."""

    def __init__(self, proto: onnx.ModelProto, x: Array, gate: str) -> None:
        self.w = {k.removeprefix("b0_"): v for k, v in weights_of(proto).items()}
        self.gate = gate
        self.held: dict[str, Array] = {}
        self(x)

    def hold(self, name: str, value: Array) -> Array:
        return self.held.setdefault(name, value)

    def normalised(self, x: Array, i: int) -> Array:
        rest = x - x.mean(axis=-1, keepdims=True)
        size = self.hold(f"size{i}", np.sqrt((rest**2).mean(axis=-1, keepdims=True) + 1e-6))
        return rest / size * self.w[f"s{i}"] + self.w[f"b{i}"]

    def __call__(self, x: Array) -> Array:
        w, n = self.w, self.normalised(x, 1)
        q, k, v = (n @ w[f"w{c}"] + w[f"b{c}"] for c in "qkv")
        scores = q @ k.transpose(0, 2, 1) / 2
        grown = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attention = self.hold("attention", grown / grown.sum(axis=-1, keepdims=True))
        stream = x + (attention @ v) @ w["wo"] + w["bo"]
        up = self.normalised(stream, 2) @ w["w1"] + w["bu"]
        phi = 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
        gate = phi if self.gate == "gelu" else 1 / (1 + np.exp(-up))
        z = stream + (up * self.hold("gate", gate)) @ w["w2"] + w["bd"]
        return z.mean(axis=1) @ w["head"] + w["offset"]


@pytest.mark.parametrize("gate", ["gelu", "silu"])
def test_a_block_is_the_one_with_constant_gates(gate: str) -> None:
    proto = attention_block(gate)
    x = np.random.default_rng(0).normal(size=(1, 3, 4))
    frozen = Frozen(proto, x, gate)
    e = ox.explain(
        proto, x.astype(np.float32), method="fullgrad", target=1, balanced=True, layout="channels_last", threads=1
    )
    assert e.terms is not None
    np.testing.assert_allclose(e.score, frozen(x)[:, 1], rtol=1e-5)
    for i in range(12):  # affine: a difference of any width is the derivative
        step = np.zeros(12)
        step[i] = 1.0
        slope = (frozen(x + step.reshape(x.shape)) - frozen(x))[0, 1]
        np.testing.assert_allclose(e.attributions["x"].reshape(-1)[i], slope * x.reshape(-1)[i], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e.terms.explicit, frozen(np.zeros_like(x))[:, 1], rtol=1e-4)
    assert not e.terms.implicit.any(), "the explicit biases alone complete the score"
    product = ox.explain(
        proto, x.astype(np.float32), method="input_x_gradient", target=1, balanced=True, layout="channels_last"
    )
    np.testing.assert_allclose(product.attributions["x"], e.attributions["x"], rtol=1e-6)


def test_the_key_bias_has_no_share() -> None:
    """Softmax does not see it; with constant probabilities it is not even on the way."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for balanced in (False, True):
        e = ox.explain(attention_block(), x, method="fullgrad", balanced=balanced, layout="channels_last", threads=1)
        assert e.terms is not None
        share = [e.terms.biases[:, k] for k, i in enumerate(e.terms.info) if i.parameter == "b0_bk"]
        query = [e.terms.biases[:, k] for k, i in enumerate(e.terms.info) if i.parameter == "b0_bq"]
        assert len(share) == len(query) == (0 if balanced else 1)
        if share:
            assert np.abs(share[0]).max() < 1e-6 < 1e-3 < np.abs(query[0]).max()


@pytest.mark.parametrize("readout", ["class", "mean", "patches"])
@pytest.mark.parametrize("gate", ["gelu", "silu"])
def test_vision_transformers_are_complete_by_explicit_biases(readout: str, gate: str) -> None:
    proto, x = vision_transformer(readout=readout, gate=gate)
    for target in range(3):
        e = ox.explain(proto, x, method="fullgrad", target=target, balanced=True, threads=1)
        assert e.terms is not None and e.residual is not None
        assert e.residual.relative.max() < ROUNDING
        gap = np.abs(e.score - e.terms.input - e.terms.explicit)
        assert (gap <= ROUNDING * e.terms.magnitude).all()
    plain = ox.explain(proto, x, method="fullgrad", target=0, threads=1)
    assert plain.terms is not None and np.abs(plain.terms.implicit).min() > 0.1, "without balancing they are not"


def test_in_float64() -> None:
    proto, x = vision_transformer(dtype=TensorProto.DOUBLE)
    e = ox.explain(proto, x, method="fullgrad", target=1, balanced=True, providers="reference")
    assert e.residual is not None and e.residual.relative.max() < 1e-12


# ----- operator by operator ---------------------------------------------------------------------------

RNG = np.random.default_rng(3)
DENSE = {"w": RNG.normal(size=(4, 5)), "b": RNG.normal(size=5), "u": RNG.normal(size=(4, 5)), "c": RNG.normal(size=5)}
DENSE |= {"s": RNG.normal(size=5), "t": RNG.normal(size=5), "g": RNG.normal(size=5), "v": RNG.normal(size=(5, 2))}
FIRST = [node("Gemm", "x w b", "h"), node("Gemm", "x u c", "k")]


def dense(nodes: Sequence[onnx.NodeProto], opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """Two linear layers h and k of x, what the test is about from them to z, and a linear layer of z."""
    ends = [node("MatMul", "z v", "y")]
    return model([*FIRST, *nodes, *ends], {"x": ["N", 4]}, {"y": ["N", 2]}, {**DENSE, **weights}, opset=opset)


COMPLETE = {
    "product": dense([node("Mul", "h k", "z")]),
    "square": dense([node("Mul", "h h", "z")]),
    "cube": dense([node("Pow", "h e", "z")], e=np.array(3.0)),
    "quotient": dense([node("Mul", "k k", "k2"), node("Add", "k2 i", "d"), node("Div", "h d", "z")], i=np.ones(1)),
    "gated unit": dense([node("Sigmoid", "k", "q"), node("Mul", "h q", "z")]),
    "update gate": dense(
        [node("Sigmoid", "k", "q"), node("Sub", "i q", "p"), node("Mul", "p h", "z")],
        i=np.ones(1),
    ),
    "two gates": dense([node("Sigmoid", "k", "q"), node("Tanh", "h", "r"), node("Mul", "r q", "z")]),
    "swish": dense([node("Sigmoid", "h", "q"), node("Mul", "h q", "z")]),
    "mish": dense([node("Mish", "h", "z")]),
    "hard swish": dense([node("HardSwish", "h", "z")]),
    "tanh": dense([node("Tanh", "h", "z")]),
    "softsign": dense([node("Softsign", "h", "z")]),
    "elu": dense([node("Elu", "h", "z", alpha=0.7)]),
    "selu": dense([node("Selu", "h", "z")]),
    "celu": dense([node("Celu", "h", "z", alpha=1.5)]),
    "erf": dense([node("Erf", "h", "z")]),
    "gelu": dense([node("Gelu", "h", "z")], opset=20),
    "gelu by tanh": dense([node("Gelu", "h", "z", approximate="tanh")], opset=20),
    "layer normalisation": dense([node("LayerNormalization", "h s t", "z")]),
    "without scale": dense(
        [
            node("ReduceMean", "h i", "m"),
            node("Sub", "h m", "r"),
            node("Mul", "r r", "r2"),
            node("ReduceMean", "r2 i", "v2"),
            node("Sqrt", "v2", "d"),
            node("Div", "r d", "z"),
        ],
        i=np.array([1]),
    ),
    "root mean square": dense([node("RMSNormalization", "h s", "z")], opset=23),
    "by reciprocal": dense(
        [node("ReduceSumSquare", "h i", "q"), node("Pow", "q e", "r"), node("Mul", "h r", "z")],
        i=np.array([1]),
        e=np.array(-0.5),
    ),
    "unit norm": dense([node("LpNormalization", "h", "z", axis=1)]),
    "sum of squares": dense(
        [node("ReduceSumSquare", "h i", "q", keepdims=1), node("Add", "q h", "z")],
        i=np.array([1]),
    ),
    "einsum": dense(
        [node("Einsum", "h k", "o", equation="ni,nj->nij"), node("ReduceSum", "o i", "z", keepdims=0)],
        i=np.array([2]),
    ),
    "three factors": dense([node("Einsum", "h k h", "z", equation="ni,ni,ni->ni")]),
    "dynamic weights": dense(
        [
            node("Unsqueeze", "h i", "h3"),
            node("Unsqueeze", "k j", "k3"),
            node("MatMul", "k3 h3", "o"),
            node("ReduceSum", "o j", "z", keepdims=0),
        ],
        i=np.array([1]),
        j=np.array([2]),
    ),
    "softmax written out": dense(
        [
            node("Exp", "k", "q"),
            node("ReduceSum", "q i", "d"),
            node("Div", "q d", "p"),
            node("Mul", "p h", "z"),
        ],
        i=np.array([1]),
    ),
    "gelu by hand": dense(
        [
            node("Mul", "h a", "q"),
            node("Pow", "h e", "h3"),
            node("Mul", "h3 f", "l"),
            node("Add", "h l", "m"),
            node("Tanh", "m", "o"),
            node("Add", "o i", "p"),
            node("Mul", "q p", "z"),
        ],
        a=np.array(0.5),
        e=np.array(3.0),
        f=np.array(0.04),
        i=np.array(1.0),
    ),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_explicit_biases_complete(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    e = ox.explain(COMPLETE[name], x, method="fullgrad", target=1, balanced=True, threads=1)
    assert e.terms is not None and e.residual is not None
    assert e.residual.relative.max() < ROUNDING
    assert np.abs(e.terms.implicit).max() <= ROUNDING * e.terms.magnitude.max()
    plain = ox.explain(COMPLETE[name], x, method="fullgrad", target=1, threads=1)
    assert plain.terms is not None
    assert np.abs(plain.terms.implicit).max() > 0.01, "if the plain gradient were complete, this would show nothing"


def test_halves_and_gates() -> None:
    """h k: half of the plain gradient; sigmoid(k) h: that of h alone."""
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)

    def of(name: str, **options: Any) -> Array:
        return ox.explain(COMPLETE[name], x, method="input_x_gradient", target=0, threads=1, **options).attributions[
            "x"
        ]

    np.testing.assert_allclose(of("product", balanced=True), of("product") / 2, rtol=1e-5)
    gate = 1 / (1 + np.exp(-(x @ DENSE["u"] + DENSE["c"])))
    expected = (gate * DENSE["v"][:, 0]) @ DENSE["w"].T * x
    np.testing.assert_allclose(of("gated unit", balanced=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op_type", "opset", "attributes"),
    [
        ("InstanceNormalization", 18, {}),
        ("GroupNormalization", 18, {"num_groups": 2}),
        ("GroupNormalization", 21, {"num_groups": 2}),
        ("MeanVarianceNormalization", 18, {"axes": [2, 3]}),
        ("LRN", 18, {"size": 3, "alpha": 0.5, "bias": 1.5}),
        ("BatchNormalization", 18, {}),
    ],
)
def test_normalisations_of_pictures(op_type: str, opset: int, attributes: dict[str, Any]) -> None:
    per_group = op_type == "GroupNormalization" and opset < 21
    names = {"InstanceNormalization": "z s t", "GroupNormalization": "z s t", "BatchNormalization": "z s t m a"}
    count = 2 if per_group else 4
    weights = {
        "k": RNG.normal(size=(4, 2, 3, 3)), "kb": RNG.normal(size=4), "s": RNG.normal(size=count),
        "t": RNG.normal(size=count), "m": RNG.normal(size=4), "a": RNG.uniform(0.5, 2, 4), "v": RNG.normal(size=(100, 2)),
    }  # fmt: skip
    proto = model(
        [
            node("Conv", "x k kb", "z", pads=[1, 1, 1, 1]),
            node(op_type, names.get(op_type, "z"), "n", **attributes),
            node("Flatten", "n", "f"),
            node("MatMul", "f v", "y"),
        ],
        {"x": ["N", 2, 5, 5]}, {"y": ["N", 2]}, weights, opset=opset,
    )  # fmt: skip
    x = np.random.default_rng(1).normal(size=(3, 2, 5, 5)).astype(np.float32)
    e = ox.explain(proto, x, method="fullgrad", target=1, balanced=True, threads=1)
    assert e.terms is not None and e.residual is not None
    assert e.residual.relative.max() < ROUNDING and not e.terms.implicit.any()


def test_recurrent_cells_are_complete() -> None:
    """An LSTM runs as a Scan: its own biases are named implicit, and the whole is complete in both modes."""
    rng = np.random.default_rng(2)
    proto = model(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("LSTM", "t w r b", "all last", hidden_size=3),
            node("Squeeze", "last zero", "h"),
            node("Gemm", "h v c", "y"),
        ],
        {"x": ["N", 4, 2]},
        {"y": ["N", 2]},
        {
            "w": rng.normal(size=(1, 12, 2)), "r": rng.normal(size=(1, 12, 3)), "b": rng.normal(size=(1, 24)),
            "v": rng.normal(size=(3, 2)), "c": rng.normal(size=2), "zero": np.array([0]),
        },
    )  # fmt: skip
    x = rng.normal(size=(2, 4, 2)).astype(np.float32)
    for balanced in (False, True):
        e = ox.explain(proto, x, method="fullgrad", target=1, balanced=balanced, layout="channels_last", threads=1)
        assert e.residual is not None and e.residual.relative.max() < ROUNDING


def test_what_is_no_gate_keeps_its_gradient() -> None:
    """A lone Sigmoid, and a final Softmax that is explained as it is: implicit terms stay, and the whole is complete."""
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    proto = model(
        [node("Gemm", "x w b", "h"), node("Sigmoid", "h", "z"), node("MatMul", "z v", "l"), node("Softmax", "l", "y")],
        {"x": ["N", 4]},
        {"y": ["N", 2]},
        DENSE,
    )
    found = [
        ox.explain(proto, x, method="fullgrad", target=1, balanced=b, head="probability", threads=1)
        for b in (False, True)
    ]
    assert found[1].residual is not None and found[1].residual.relative.max() < ROUNDING
    np.testing.assert_array_equal(found[0].attributions["x"], found[1].attributions["x"])
    assert found[1].terms is not None and np.abs(found[1].terms.implicit).min() > 1e-3
