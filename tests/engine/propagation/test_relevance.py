"""Every rule of relevance against its definition, with the layer as one explicit matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import UnsupportedNodeError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
EPS = 1e-6


# ----- layers as matrices -------------------------------------------------------------------------------


def convolution_matrix(
    w: Array, size: tuple[int, ...], stride: int, pad: int, group: int
) -> tuple[Array, tuple[int, ...]]:
    """``[outputs, inputs]`` and the result's shape, by going over all windows."""
    channels = w.shape[1] * group
    kernel = w.shape[2:]
    out = tuple((s + 2 * pad - k) // stride + 1 for s, k in zip(size, kernel, strict=True))
    matrix = np.zeros((w.shape[0], *out, channels, *size))
    per_group = w.shape[0] // group
    for o in range(w.shape[0]):
        for place in itertools.product(*map(range, out)):
            for c in range(w.shape[1]):
                for offset in itertools.product(*map(range, kernel)):
                    cell = tuple(p * stride + k - pad for p, k in zip(place, offset, strict=True))
                    if all(0 <= i < s for i, s in zip(cell, size, strict=True)):
                        matrix[(o, *place, o // per_group * w.shape[1] + c, *cell)] += w[(o, c, *offset)]
    return matrix.reshape(w.shape[0] * int(np.prod(out)), -1), (w.shape[0], *out)


def one_layer(kind: str) -> tuple[onnx.ModelProto, Array, Array, tuple[int, ...], tuple[int, ...]]:
    """A net of one layer; its matrix, bias per output, and the shapes of operand and result of one sample."""
    if kind in ("Gemm", "MatMul"):
        w, b = RNG.normal(size=(4, 5)), RNG.normal(size=5)
        if kind == "Gemm":
            proto = model([node("Gemm", "x w b", "y")], {"x": ["N", 4]}, {"y": ["N", 5]}, {"w": w, "b": b})
            return proto, w.T, b, (4,), (5,)
        nodes = [node("MatMul", "x w", "z"), node("Add", "b z", "y")]
        proto = model(nodes, {"x": ["N", 3, 4]}, {"y": ["N", 3, 5]}, {"w": w, "b": b})
        return proto, np.kron(np.eye(3), w.T), np.tile(b, 3), (3, 4), (3, 5)
    size, stride, pad, group = ((5, 6), 2, 1, 2) if kind != "Conv1d" else ((9,), 1, 2, 1)
    w, b = RNG.normal(size=(4, 2, *[3] * len(size))), RNG.normal(size=4)
    matrix, out = convolution_matrix(w, size, stride, pad, group)
    inner = (2 * group, *size)
    attributes = {"strides": [stride] * len(size), "pads": [pad] * 2 * len(size), "group": group}
    if kind == "ConvTranspose":
        # The adjoint of the convolution; output padding brings back the row that the stride left out.
        extra = [s - ((o - 1) * stride - 2 * pad + 3) for s, o in zip(size, out[1:], strict=True)]
        layer = node("ConvTranspose", "x w b", "y", output_padding=extra, **attributes)
        proto = model([layer], {"x": ["N", *out]}, {"y": ["N", *inner]}, {"w": w, "b": b})
        return proto, matrix.T, np.repeat(b, int(np.prod(size))), out, inner
    proto = model(
        [node("Conv", "x w b", "y", **attributes)], {"x": ["N", *inner]}, {"y": ["N", *out]}, {"w": w, "b": b}
    )
    return proto, matrix, np.repeat(b, int(np.prod(out[1:]))), inner, out


# ----- the rules, written out ---------------------------------------------------------------------------


def shared(numerators: Array, bias: Array | float, relevance: Array) -> Array:
    """``R_j = sum_k n_kj / (sum_j n_kj + b_k) R_k`` with the stabiliser."""
    z = numerators.sum(axis=1) + bias
    return np.asarray((numerators * (relevance / (z + EPS * np.where(z < 0, -1, 1)))[:, None]).sum(axis=0))


def up(v: Array) -> Array:
    return np.maximum(v, 0)


def down(v: Array) -> Array:
    return np.minimum(v, 0)


def epsilon(a: Array, w: Array, b: Array, r: Array) -> Array:
    return shared(a * w, b, r)


def gamma_plain(a: Array, w: Array, b: Array, r: Array) -> Array:
    return shared(a * (w + 0.25 * up(w)), b + 0.25 * up(b), r)


def gamma_signed(a: Array, w: Array, b: Array, r: Array) -> Array:
    z = w @ a + b
    parts = []
    for favoured, other, gate in ((up, down, z > 0), (down, up, z < 0)):
        raised = up(a) * (w + 0.25 * favoured(w)) + down(a) * (w + 0.25 * other(w))
        parts.append(shared(raised, b + 0.25 * favoured(b), r * gate))
    return np.asarray(sum(parts))


def alpha_beta(alpha: float, beta: float) -> Callable[..., Array]:
    def rule(a: Array, w: Array, b: Array, r: Array) -> Array:
        return np.asarray(alpha * shared(up(a * w), up(b), r) - beta * shared(down(a * w), down(b), r))

    return rule


def box(low: float, high: float) -> Callable[..., Array]:
    return lambda a, w, b, r: shared(a * w - low * up(w) - high * down(w), 0.0, r)


def no_bias(rule: Callable[..., Array]) -> Callable[..., Array]:
    return lambda a, w, b, r: rule(a, w, 0 * b, r)


RULES: dict[str, tuple[dict[str, Any], Callable[..., Array]]] = {
    "epsilon": ({"rule": "epsilon"}, epsilon),
    "epsilon, no bias": ({"rule": "epsilon", "bias": "ignore"}, no_bias(epsilon)),
    "gamma": ({"rule": "gamma", "signed": False}, gamma_plain),
    "gamma of any sign": ({"rule": "gamma"}, gamma_signed),
    "z+": ({"rule": "z_plus"}, alpha_beta(1, 0)),
    "z+, no bias": ({"rule": "z_plus", "bias": "ignore"}, no_bias(alpha_beta(1, 0))),
    "alpha 2 beta 1": ({"rule": "alpha_beta"}, alpha_beta(2, 1)),
    "zB": ({"rule": "z_box", "low": -3.5, "high": 4.0}, box(-3.5, 4.0)),
    "w-square": ({"rule": "w_square"}, lambda a, w, b, r: shared(w**2, 0.0, r)),
    "flat": ({"rule": "flat"}, lambda a, w, b, r: shared((w != 0) * 1.0, 0.0, r)),
}
LAYERS = ("Gemm", "MatMul", "Conv", "Conv1d", "ConvTranspose")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", RULES)
def test_against_the_explicit_matrix(name: str, kind: str) -> None:
    entry, rule = RULES[name]
    proto, matrix, bias, inner, outer = one_layer(kind)
    x = RNG.normal(size=(3, *inner)).astype(np.float32)
    weights = RNG.normal(size=outer)
    e = ox.explain(proto, x, method="lrp", composite=[entry], target=ox.Target.weights(weights), threads=1)
    for n in range(len(x)):
        a = x[n].reshape(-1).astype(np.float64)
        relevance = (matrix @ a + bias) * weights.reshape(-1)
        expected = rule(a, matrix, bias, relevance)
        found = e.attributions["x"][n].reshape(-1)
        assert np.abs(expected).max() > 0.05
        # 1e-3: where a denominator is near 0, float32 rounding of it is multiplied.
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert e.residual is not None
    assert e.residual.ok


def test_rules_differ() -> None:
    """Or the test above would not tell them apart."""
    _, matrix, bias, inner, _ = one_layer("Conv")
    a = RNG.normal(size=int(np.prod(inner)))
    found = [rule(a, matrix, bias, matrix @ a + bias) for _, rule in RULES.values()]
    for one, two in itertools.combinations(found, 2):
        assert np.abs(one - two).max() > 1e-3


def test_the_box_may_be_given_per_channel_or_found_in_the_sample() -> None:
    proto, matrix, bias, inner, outer = one_layer("Conv")
    x = RNG.normal(size=(2, *inner)).astype(np.float32)
    low, high = [-4.0, -3.0, -5.0, -3.5], [3.0, 4.0, 5.0, 4.5]
    cells = int(np.prod(inner[1:]))
    given = ox.explain(
        proto, x, method="lrp", composite=[{"rule": "z_box", "low": low, "high": high}], target=(0, 1, 1)
    )
    own = ox.explain(proto, x, method="lrp", composite=[{"rule": "z_box"}], target=(0, 1, 1))
    chosen = np.zeros(outer)
    chosen[0, 1, 1] = 1
    for n in range(2):
        a = x[n].reshape(-1).astype(np.float64)
        r = (matrix @ a + bias) * chosen.reshape(-1)
        per_channel = box(np.repeat(low, cells), np.repeat(high, cells))(a, matrix, bias, r)  # type: ignore[arg-type]
        np.testing.assert_allclose(given.attributions["x"][n].reshape(-1), per_channel, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            own.attributions["x"][n].reshape(-1), box(a.min(), a.max())(a, matrix, bias, r), rtol=1e-3, atol=1e-5
        )
    with pytest.raises(UnsupportedNodeError, match="3 bounds for 4 channels"):
        ox.explain(proto, x, method="lrp", composite=[{"rule": "z_box", "low": [0.0, 1.0, 2.0]}])


# ----- operators that are no layers ---------------------------------------------------------------------


def relevance(
    nodes: list[onnx.NodeProto], x: Array, weights: dict[str, Any] | None = None, **options: Any
) -> ox.Explanation:
    shape = ["N", *x.shape[1:]]
    proto = model(nodes, {"x": shape}, {"y": None}, weights or {})  # type: ignore[dict-item]
    return ox.explain(proto, x.astype(np.float32), method="lrp", threads=1, **options)


X = np.array([[1.0, -2.0, 3.0, 4.0], [0.5, 2.0, -1.0, 3.0]])


def test_sums_share_by_contribution() -> None:
    w = np.diag([2.0, 1.0, 1.0, 1.0])
    e = relevance([node("MatMul", "x w", "a"), node("Add", "a x", "y")], X, {"w": w}, target=0)
    np.testing.assert_allclose(e.attributions["x"], [[3, 0, 0, 0], [1.5, 0, 0, 0]], rtol=1e-5)


def test_average_pooling_shares_by_contribution() -> None:
    e = relevance([node("AveragePool", "x", "y", kernel_shape=[4])], X[:, None], target=(0, 0))
    np.testing.assert_allclose(e.attributions["x"], X[:, None] / 4, rtol=1e-5)


def test_max_pooling_gives_all_to_the_winner() -> None:
    e = relevance([node("MaxPool", "x", "y", kernel_shape=[4])], X[:, None], target=(0, 0))
    np.testing.assert_allclose(e.attributions["x"], [[[0, 0, 0, 4]], [[0, 0, 0, 3]]], rtol=1e-6)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Softplus", "Elu"])
def test_activations_pass_relevance_on(activation: str) -> None:
    e = relevance([node(activation, "x", "y")], X, target=1)
    expected = np.zeros_like(X)
    expected[:, 1] = e.score
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-6)


def test_products_share_in_halves() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "x v", "b"), node("Mul", "a b", "y")]
    w, v = RNG.normal(size=(2, 4, 3))
    e = relevance(nodes, X, {"w": w, "v": v}, target=2)
    a, b = X @ w[:, 2], X @ v[:, 2]
    expected = 0.5 * (a * b)[:, None] * (X * w[:, 2] / a[:, None] + X * v[:, 2] / b[:, None])
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-3)


def test_matrix_products_share_in_halves() -> None:
    nodes = [node("Reshape", "x s", "a"), node("Transpose", "a", "b", perm=[0, 2, 1]), node("MatMul", "a b", "y")]
    e = relevance(nodes, X, {"s": np.array([0, 2, 2])}, target=(0, 1))
    first, second = X[:, :2], X[:, 2:]
    shares = 0.5 * first * second
    np.testing.assert_allclose(e.attributions["x"], np.hstack([shares, shares]), rtol=1e-4)


GATES = {
    "SiLU": [node("Sigmoid", "x", "g"), node("Mul", "x g", "y")],
    "GELU": [
        *(node("Mul", "x r", "u"), node("Erf", "u", "e"), node("Add", "e one", "f")),
        *(node("Mul", "x half", "h"), node("Mul", "h f", "y")),
    ],
    "1/x": [node("Exp", "x", "e"), node("Reciprocal", "e", "r1"), node("Mul", "x r1", "y")],
    "quotient": [node("Exp", "x", "e"), node("Div", "x e", "y")],
}


@pytest.mark.parametrize("name", GATES)
def test_written_out_gates_and_denominators_are_held_fixed(name: str) -> None:
    e = relevance(GATES[name], X, {"r": np.array(0.5**0.5), "one": np.array(1.0), "half": np.array(0.5)}, target=2)
    expected = np.zeros_like(X)
    expected[:, 2] = e.score
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-5)


@pytest.mark.parametrize("gates", ["half", "signal"])
def test_sigmoid_gates(gates: str) -> None:
    nodes = [node("Split", "x", "g s", num_outputs=2, axis=1), node("Sigmoid", "g", "o"), node("Mul", "o s", "y")]
    e = relevance(nodes, X, target=0, gates=gates)
    share = 0.5 if gates == "half" else 1.0
    expected = np.zeros_like(X)
    expected[:, 0], expected[:, 2] = (1 - share) * e.score, share * e.score
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-5)


def softmax(x: Array) -> Array:
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def test_softmax_by_its_first_order() -> None:
    v = RNG.normal(size=(4, 2))
    e = relevance([node("Softmax", "x", "p"), node("MatMul", "p v", "y")], X, {"v": v}, target=1)
    p = softmax(X)
    r = p * v[:, 1]
    np.testing.assert_allclose(e.attributions["x"], X * (r - p * r.sum(axis=1, keepdims=True)), rtol=1e-3, atol=1e-5)


def layer_norm(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred, np.sqrt((centred**2).mean(axis=axes, keepdims=True) + 1e-5)


def test_layer_normalisation_at_a_constant_denominator() -> None:
    scale, shift = RNG.normal(size=(2, 4))
    e = relevance([node("LayerNormalization", "x s b", "y")], X, {"s": scale, "b": shift}, target=1)
    centred, sigma = layer_norm(X, (1,))
    matrix = (np.eye(4) - 0.25) * scale[:, None]
    for n, x in enumerate(X):
        y = scale * centred[n] / sigma[n] + shift
        expected = epsilon(x, matrix / sigma[n], shift, np.array([0, y[1], 0, 0]))
        np.testing.assert_allclose(e.attributions["x"][n], expected, rtol=1e-3, atol=1e-5)
    assert e.terms is not None
    np.testing.assert_allclose(e.terms.explicit, shift[1], rtol=1e-4)


def test_written_out_normalisation_is_the_same() -> None:
    scale, shift = RNG.normal(size=(2, 4))
    fused = [node("LayerNormalization", "x s b", "y")]
    written = [
        *(node("ReduceMean", "x", "m", axes=[1]), node("Sub", "x m", "c"), node("Pow", "c two", "q")),
        *(node("ReduceMean", "q", "v", axes=[1]), node("Add", "v e", "w"), node("Sqrt", "w", "d")),
        *(node("Div", "c d", "n"), node("Mul", "n s", "t"), node("Add", "t b", "y")),
    ]
    weights = {"s": scale, "b": shift, "two": np.array(2.0), "e": np.array(1e-5)}
    proto = model(written, {"x": ["N", 4]}, {"y": ["N", 4]}, weights, opset=17)
    one = ox.explain(proto, X.astype(np.float32), method="lrp", target=2).attributions["x"]
    two = relevance(fused, X, {"s": scale, "b": shift}, target=2).attributions["x"]
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("InstanceNormalization", "x s b", "y")], (3, 3)),
        ([node("GroupNormalization", "x s b", "y", num_groups=3)], (3, 3)),
        ([node("MeanVarianceNormalization", "x", "y", axes=[1, 2])], None),
        ([node("LRN", "x", "y", size=3)], None),
        ([node("LpNormalization", "x", "y", axis=1)], None),
    ],
    ids=["instance", "group", "mean and variance", "LRN", "unit norm"],
)
def test_other_normalisations_account_for_all_relevance(nodes: list[onnx.NodeProto], constants: Any) -> None:
    x = RNG.normal(size=(2, 3, 5, 1))
    weights = {} if constants is None else {"s": RNG.normal(size=3), "b": RNG.normal(size=3)}
    e = relevance(nodes, x, weights, target=(1, 2, 0))
    assert e.residual is not None
    np.testing.assert_array_less(e.residual.relative, 1e-5)
    if constants is None:
        np.testing.assert_allclose(e.attributions["x"].sum(axis=(1, 2, 3)), e.score, rtol=1e-3)


def test_constants_absorb_what_falls_on_them() -> None:
    nodes = [node("Concat", "x c", "a", axis=1), node("MatMul", "a w", "y")]
    proto = model(nodes, {"x": [2, 4]}, {"y": [2, 1]}, {"c": np.full((2, 1), 3.0), "w": np.ones((5, 1))})
    e = ox.explain(proto, X.astype(np.float32), method="lrp")
    np.testing.assert_allclose(e.attributions["x"], X, rtol=1e-5)
    assert e.terms is not None
    np.testing.assert_allclose(e.terms.explicit, [3.0, 3.0], rtol=1e-5)


def test_what_no_rule_serves_says_so() -> None:
    e = relevance([node("LogSoftmax", "x", "z"), node("MatMul", "z w", "y")], X, {"w": np.eye(4)}, target=1)
    assert any("LogSoftmax: no rule of relevance" in note for note in e.notes)
    assert e.residual is not None
    assert e.residual.ok


def test_active_scale_of_a_normalisation_is_refused() -> None:
    nodes = [node("ReduceMean", "x", "s", axes=[0], keepdims=0), node("LayerNormalization", "x s", "y")]
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {}, opset=17)
    with pytest.raises(UnsupportedNodeError, match="scale or bias depends"):
        ox.explain(proto, X.astype(np.float32), method="lrp")


def test_geometry_that_depends_on_the_input_is_held_fixed_and_told() -> None:
    """A grid made from the picture itself: all relevance goes to the values that are sampled."""
    nodes = [
        *(node("Reshape", "x g", "a"), node("Tanh", "a", "grid"), node("Reshape", "x p", "picture")),
        node("GridSample", "picture grid", "y"),
    ]
    shapes = {"g": np.array([0, 1, 2, 2]), "p": np.array([0, 1, 2, 2])}
    e = relevance(nodes, X, shapes, target=(0, 0, 1))
    assert any("GridSample: relevance goes to the values" in note for note in e.notes)
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), e.score, rtol=1e-4)
    plain = relevance(
        [*nodes[2:3], node("Resize", "picture - - s", "y", mode="nearest")],
        X,
        {**shapes, "s": np.array([2, 1, 4, 4])},
        target=(0, 0, 1),
    )
    assert not plain.notes
