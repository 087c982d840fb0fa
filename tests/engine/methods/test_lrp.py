"""Layer-wise relevance propagation: published vectors, equivalences, conservation, whole nets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import BlockedGradientError, OptionError, SessionError

Array = np.ndarray[Any, Any]


def attribution(proto: onnx.ModelProto, x: Any, **options: Any) -> Array:
    e = ox.explain(proto, np.asarray(x, np.float32), method="lrp", threads=1, **options)
    return e.attributions["x"].astype(np.float64)


# ----- published vectors --------------------------------------------------------------------------------


def two_layers(first: float = 2.0) -> onnx.ModelProto:
    """Weights of 2 (the very first one given), ReLU, weights of 3."""
    w = np.full((3, 3), 2.0)
    w[0, 0] = first
    nodes = [node("MatMul", "x w", "z"), node("Relu", "z", "a"), node("MatMul", "a v", "y")]
    return model(nodes, {"x": ["N", 3]}, {"y": ["N", 1]}, {"w": w, "v": np.full((3, 1), 3.0)})


GAMMAS = [{"first": 1, "rule": "gamma", "gamma": 1.0}, {"rule": "gamma", "gamma": 0.25}]


@pytest.mark.parametrize(
    ("first", "composite", "expected"),
    [
        (2.0, None, (18, 36, 54)),
        (-2.0, GAMMAS, (28 / 3, 104 / 3, 52)),
        (-2.0, [{**entry, "signed": False} for entry in GAMMAS], (28 / 3, 104 / 3, 52)),
        (-2.0, [{"rule": "alpha_beta", "alpha": 1, "beta": 0}], (12, 33.6, 50.4)),
        (-2.0, "excitation_backprop", (12, 33.6, 50.4)),
        (-2.0, [{"first": 1, "rule": "pass"}], (24, 36, 36)),
    ],
    ids=["epsilon", "gamma", "gamma, plain", "alpha 1 beta 0", "excitation", "identity"],
)
def test_golden_perceptron(first: float, composite: Any, expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(attribution(two_layers(first), [[1, 2, 3]], composite=composite), [expected], rtol=1e-6)


def test_golden_skip_connection() -> None:
    nodes = [node("MatMul", "x w", "z"), node("Add", "z x", "y")]
    proto = model(nodes, {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": np.full((2, 2), 5.0)})
    np.testing.assert_allclose(attribution(proto, [[2, 3]], target=1), [[10, 18]], rtol=1e-6)


def test_golden_concatenation_of_rectified_multiples() -> None:
    """relu(concat(3 x1, 2 x2)), summed, with the values of both inputs."""
    nodes = [
        *(node("Mul", "a three", "u"), node("Mul", "b two", "v"), node("Concat", "u v", "c", axis=1)),
        node("Relu", "c", "y"),
    ]
    proto = model(
        nodes, {"a": ["N", 2], "b": ["N", 2]}, {"y": ["N", 4]}, {"three": np.array(3.0), "two": np.array(2.0)}
    )
    feeds = {"a": np.array([[-10.0, -5.0]], np.float32), "b": np.array([[3.0, 1.0]], np.float32)}
    for mode in ("layerwise", "modified_gradient"):
        e = ox.explain(proto, feeds, method="lrp", mode=mode, epsilon=1e-9, target=ox.Target.weights(np.ones(4)))
        np.testing.assert_allclose(e.attributions["a"], [[0, 0]], atol=1e-6)
        np.testing.assert_allclose(e.attributions["b"], [[6, 2]], rtol=1e-6)


def test_simple_model() -> None:
    """x = (5, 3): the upper unit alone is active, so that all is linear: 1.1 and 1.4 times w x of it."""
    for target, expected in ((0, (5.5, -3.3)), (1, (7.0, -4.2))):
        np.testing.assert_allclose(attribution(simple_model(), [[5, 3]], target=target), [expected], rtol=1e-5)


# ----- equivalences -------------------------------------------------------------------------------------


def perceptron(
    depth: int = 3, width: int = 8, seed: int = 0, *, activation: str = "Relu", bias: bool = True, features: int = 6
) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    sizes = [features, *[width] * depth, 3]
    nodes, last, weights = [], "x", {}
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        weights[f"w{k}"] = rng.normal(size=(n, m)) / np.sqrt(n / 2)
        weights[f"b{k}"] = rng.normal(size=m) * 0.3 * bias
        nodes.append(node("Gemm", f"{last} w{k} b{k}", f"z{k}"))
        if k < depth:
            nodes.append(node(activation, f"z{k}", f"a{k}"))
            last = f"a{k}"
    return model(nodes, {"x": ["N", features]}, {f"z{depth}": ["N", 3]}, weights)


X = np.random.default_rng(7).normal(size=(6, 6)).astype(np.float32)


def nets() -> list[tuple[onnx.ModelProto, Array]]:
    proto, x = fullgrad_net()
    return [(perceptron(), X), (proto, np.concatenate([x, -x, 0.5 * x + 0.3]))]


@pytest.mark.parametrize("mode", ["layerwise", "modified_gradient"])
def test_epsilon_is_input_times_gradient_on_rectifier_nets(mode: str) -> None:
    for proto, x in nets():
        found = attribution(proto, x, target=1, mode=mode, epsilon=1e-9)
        plain = ox.explain(proto, x, method="input_x_gradient", target=1, threads=1).attributions["x"]
        np.testing.assert_allclose(found, plain, atol=1e-5 * np.abs(plain).max())


def test_the_two_readings_agree_where_functions_are_elementwise() -> None:
    """Up to the stabiliser, on Tanh with biases; input times gradient is something else there."""
    proto = perceptron(activation="Tanh")
    one, two = (attribution(proto, X, target=0, mode=m, epsilon=1e-9) for m in ("layerwise", "modified_gradient"))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
    plain = ox.explain(proto, X, method="input_x_gradient", target=0).attributions["x"]
    assert np.abs(one - plain).max() > 0.05


def test_modified_gradient_by_hand() -> None:
    """x times the product of weights and sigma(z) / (z + eps sign z)."""
    proto = perceptron(2, activation="Tanh")
    w = [onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer]
    z0 = X @ w[0] + w[1]
    z1 = np.tanh(z0) @ w[2] + w[3]
    slopes = [np.tanh(z) / (z + 0.1 * np.where(z < 0, -1, 1)) for z in (z0, z1)]
    expected = X * (((w[4][:, 2] * slopes[1]) @ w[2].T * slopes[0]) @ w[0].T)
    np.testing.assert_allclose(
        attribution(proto, X, target=2, mode="modified_gradient", epsilon=0.1), expected, rtol=1e-4
    )


def test_all_coincide_on_rectifier_nets_without_bias() -> None:
    proto = perceptron(bias=False)
    plain = ox.explain(proto, X, method="input_x_gradient", target=2)
    found = [attribution(proto, X, target=2, epsilon=1e-9, bias=b) for b in ("absorb", "ignore")]
    found.append(attribution(proto, X, target=2, epsilon=1e-9, mode="modified_gradient"))
    found.append(ox.explain(proto, X, method="integrated_gradients", target=2).attributions["x"].astype(np.float64))
    for one in found:
        np.testing.assert_allclose(one, plain.attributions["x"], atol=1e-5 * np.abs(plain.attributions["x"]).max())
        np.testing.assert_allclose(one.sum(axis=1), plain.score, rtol=1e-4, atol=1e-5)


# ----- transformers -------------------------------------------------------------------------------------


def transformer() -> onnx.ModelProto:
    """One block: attention of two heads with biases, a GELU layer, both behind a normalisation, then a class."""
    rng = np.random.default_rng(4)
    d, heads = 8, 2
    weights: dict[str, Any] = {n: rng.normal(size=(d, d)) / np.sqrt(d) for n in ("wq", "wk", "wv", "wo")}
    weights |= {n: rng.normal(size=d) * 0.3 for n in ("bq", "bk", "bv", "bo", "s1", "t1", "s2", "t2", "b2")}
    weights |= {"u1": rng.normal(size=(d, 12)) / 3, "b1": rng.normal(size=12) * 0.3, "u2": rng.normal(size=(12, d)) / 3}
    weights |= {"wc": rng.normal(size=(d, 3)), "bc": rng.normal(size=3), "scale": np.array(0.5)}
    weights |= {"split": np.array([0, -1, heads, d // heads]), "join": np.array([0, -1, d])}
    weights |= {"root": np.array(0.5**0.5), "one": np.array(1.0), "half": np.array(0.5), "axes": np.array([1])}
    nodes = [node("LayerNormalization", "x s1 t1", "n1")]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [node("MatMul", f"n1 w{name}", f"{name}0"), node("Add", f"{name}0 b{name}", f"{name}1")]
        nodes += [node("Reshape", f"{name}1 split", f"{name}2"), node("Transpose", f"{name}2", name, perm=perm)]
    nodes += [
        *(node("MatMul", "q k", "scores"), node("Mul", "scores scale", "scaled"), node("Softmax", "scaled", "p")),
        *(
            node("MatMul", "p v", "o0"),
            node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
            node("Reshape", "o1 join", "o2"),
        ),
        *(node("MatMul", "o2 wo", "o3"), node("Add", "o3 bo", "o4"), node("Add", "x o4", "h")),
        *(node("LayerNormalization", "h s2 t2", "n2"), node("MatMul", "n2 u1", "f0"), node("Add", "f0 b1", "f1")),
        *(
            node("Mul", "f1 root", "g0"),
            node("Erf", "g0", "g1"),
            node("Add", "g1 one", "g2"),
            node("Mul", "f1 g2", "g3"),
        ),
        *(
            node("Mul", "g3 half", "g"),
            node("MatMul", "g u2", "m0"),
            node("Add", "m0 b2", "m"),
            node("Add", "h m", "e"),
        ),
        *(node("ReduceMean", "e axes", "c", keepdims=0), node("Gemm", "c wc bc", "y")),
    ]
    return model(nodes, {"x": ["N", "t", 8]}, {"y": ["N", 3]}, weights)


TOKENS = np.random.default_rng(5).normal(size=(3, 5, 8)).astype(np.float32)


def test_transformer_is_the_balanced_gradient_times_the_input() -> None:
    """Softmax held constant, gates and denominators as well: relevance is x times the balanced gradient."""
    found = attribution(transformer(), TOKENS, target=1, softmax="constant", gates="signal", epsilon=1e-9)
    balanced = ox.explain(transformer(), TOKENS, method="input_x_gradient", balanced=True, target=1, threads=1)
    expected = balanced.attributions["x"]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    plain = ox.explain(transformer(), TOKENS, method="input_x_gradient", target=1).attributions["x"]
    assert np.abs(found - plain).max() > 0.05


@pytest.mark.parametrize("softmax", ["taylor", "constant"])
def test_transformer_accounts_for_all_relevance(softmax: str) -> None:
    e = ox.explain(transformer(), TOKENS, method="lrp", target=1, softmax=softmax, threads=1)
    assert e.residual is not None
    assert e.terms is not None
    np.testing.assert_array_less(e.residual.relative, 1e-5)
    absorbed = {i.parameter: e.terms.biases[:, k] for k, i in enumerate(e.terms.info) if i.kind == "explicit"}
    assert np.abs(absorbed["bv"]).min() > 1e-3
    if softmax == "constant":
        np.testing.assert_allclose(e.attributions["x"].sum(axis=(1, 2)) + e.terms.explicit, e.score, rtol=1e-3)
        assert "bk" not in absorbed, "no relevance goes to the keys"


def test_key_bias_gets_nothing() -> None:
    """Every query's scores move by one number, which softmax does not see: the modified gradient says so."""
    e = ox.explain(transformer(), TOKENS, method="lrp", mode="modified_gradient", target=1, threads=1)
    assert e.terms is not None
    absorbed = {i.parameter: e.terms.biases[:, k] for k, i in enumerate(e.terms.info) if i.kind == "explicit"}
    np.testing.assert_allclose(absorbed["bk"], 0, atol=1e-6)
    assert np.abs(absorbed["bv"]).min() > 1e-3
    assert any("keep their plain gradient" in note for note in e.notes)


def test_attention_of_relevance_by_hand() -> None:
    """y = sum of softmax(q k) v over two tokens: half to P, half to V, and through P as x (R - p sum R)."""
    nodes = [node("MatMul", "x kt", "s"), node("Softmax", "s", "p"), node("MatMul", "p x", "y")]
    rng = np.random.default_rng(2)
    kt = rng.normal(size=(3, 3))
    proto = model(nodes, {"x": ["N", 3, 3]}, {"y": ["N", 3, 3]}, {"kt": kt})
    x = rng.normal(size=(1, 3, 3))
    s = x[0] @ kt
    p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    y = p @ x[0]
    r = np.zeros((3, 3))
    r[1, 2] = y[1, 2]
    to_p = p * ((r / (2 * y)) @ x[0].T)
    to_v = x[0] * (p.T @ (r / (2 * y)))
    to_s = s * (to_p - p * to_p.sum(axis=1, keepdims=True))
    expected = to_v + x[0] * ((to_s / s) @ kt.T)
    np.testing.assert_allclose(attribution(proto, x, target=(1, 2)), expected[None], rtol=1e-3, atol=1e-4)


def test_a_probability_cannot_be_explained_through_a_constant_softmax() -> None:
    nodes = [node("MatMul", "x w", "z"), node("Softmax", "z", "y")]
    proto = model(nodes, {"x": ["N", 6]}, {"y": ["N", 2]}, {"w": np.ones((6, 2))})
    with pytest.raises(BlockedGradientError):
        ox.explain(proto, X, method="lrp", softmax="constant", head="probability")


@pytest.mark.parametrize("steps", [4, "t"])
def test_recurrent_cell_hands_relevance_through_its_steps(steps: Any) -> None:
    """A plain RNN unrolled by hand: the epsilon rule at each step, tanh passes. What loops absorb is not told."""
    rng = np.random.default_rng(0)
    w, r = rng.normal(size=(1, 2, 3)), rng.normal(size=(1, 2, 2))
    nodes = [
        *(node("Transpose", "x", "s", perm=[1, 0, 2]), node("RNN", "s w r", "- h", hidden_size=2)),
        node("Squeeze", "h first", "y"),
    ]
    weights = {"w": w, "r": r, "first": np.array([0])}
    proto = model(nodes, {"x": ["N", steps, 3]}, {"y": ["N", 2]}, weights)
    x = rng.normal(size=(2, 4, 3))
    e = ox.explain(proto, x.astype(np.float32), method="lrp", target=1, threads=1)
    for n in range(2):
        h = [np.zeros(2)]
        for t in range(4):
            h.append(np.tanh(w[0] @ x[n, t] + r[0] @ h[-1]))
        relevance = np.array([0.0, h[-1][1]])
        expected = np.zeros((4, 3))
        for t in reversed(range(4)):
            share = relevance / (w[0] @ x[n, t] + r[0] @ h[t])
            expected[t] = x[n, t] * (w[0].T @ share)
            relevance = h[t] * (r[0].T @ share)
        np.testing.assert_allclose(e.attributions["x"][n], expected, rtol=1e-3, atol=1e-4)
    looped = any(n.op_type in ("Scan", "Loop") for n in ox.load(proto).canonical.graph)
    assert any("inside loops" in note for note in e.notes) == looped == (e.residual is None)


# ----- conservation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "composite", ["excitation_backprop", "epsilon_plus", [{"rule": "alpha_beta"}], [{"rule": "gamma"}]]
)
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_conservation_without_bias(composite: Any, activation: str) -> None:
    """What arrives is the score. Layers are wide, so that no result is without a contribution of either sign."""
    proto = perceptron(bias=False, width=40, features=40, activation=activation)
    x = np.random.default_rng(1).normal(size=(6, 40)).astype(np.float32)
    e = ox.explain(proto, x, method="lrp", target=0, composite=composite, threads=1)
    assert e.terms is not None
    assert e.residual is not None
    assert not e.terms.explicit.any()
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), e.score, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_less(e.residual.relative, 1e-5)


def test_biases_are_told_with_their_names() -> None:
    """One layer: each bias takes b / z of its unit's relevance."""
    e = ox.explain(perceptron(0), X, method="lrp", target=2, threads=1)
    assert e.terms is not None
    (place,) = [k for k, i in enumerate(e.terms.info) if i.kind == "explicit"]
    b = onnx.numpy_helper.to_array(perceptron(0).graph.initializer[1])
    np.testing.assert_allclose(e.terms.biases[:, place], np.full(6, b[2]), rtol=1e-4)
    assert e.terms.info[place].parameter == "b0"
    assert any("biases absorb" in note for note in e.notes)


def test_ignored_biases_absorb_nothing() -> None:
    e = ox.explain(perceptron(1, 32), X, method="lrp", target=2, bias="ignore", composite="excitation_backprop")
    assert e.terms is not None
    assert not e.terms.explicit.any()
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), e.score, rtol=1e-3)


def test_relevance_may_begin_with_one() -> None:
    one = ox.explain(perceptron(), X, method="lrp", target=1, start="one", threads=1)
    whole = ox.explain(perceptron(), X, method="lrp", target=1, threads=1)
    scaled = one.attributions["x"] * one.score[:, None].astype(np.float32)
    np.testing.assert_allclose(scaled, whole.attributions["x"], rtol=1e-3, atol=1e-5)
    assert one.residual is not None
    assert one.residual.ok


def test_growth_of_relevance_is_told() -> None:
    """z = 1e-12 x + b with the bias left out: the score is divided by next to nothing."""
    nodes = [node("Gemm", "x w b", "z"), node("Gemm", "z v", "y")]
    weights = {
        "w": np.array([[1e-3, -1e-3], [-1e-3, 1.001e-3]]),
        "b": np.array([1.0, -1.0]),
        "v": np.array([[1.0], [1.0]]),
    }
    proto = model(nodes, {"x": ["N", 2]}, {"y": ["N", 1]}, weights)
    x = np.array([[1.0, 1.0]], np.float32)
    e = ox.explain(proto, x, method="lrp", bias="ignore", epsilon=1e-12)
    assert any("relevance grew" in note for note in e.notes)


def test_overflow_is_an_error_with_a_remedy() -> None:
    w = np.array([[1e-30]])
    nodes = [node("Gemm", "x w b", "z"), node("Gemm", "z v", "u"), node("Mul", "u k", "y")]
    weights = {"w": w, "b": np.array([1e20]), "v": np.array([[1e-18]]), "k": np.array(1e30)}
    proto = model(nodes, {"x": ["N", 1]}, {"y": ["N", 1]}, weights)
    with pytest.raises(SessionError, match="larger epsilon"):
        ox.explain(proto, np.ones((1, 1), np.float32), method="lrp", bias="ignore", epsilon=1e-37)


def test_normalisation_is_folded_first() -> None:
    """Or the convolution in front of it would share out relevance without its bias."""
    rng = np.random.default_rng(0)
    w, stats = rng.normal(size=(2, 1, 3)), rng.uniform(0.5, 1.5, size=(4, 2))
    nodes = [
        *(node("Conv", "x w", "c"), node("BatchNormalization", "c s b m v", "n")),
        *(node("ReduceMean", "n axes", "y", keepdims=0),),
    ]
    weights = {"w": w, **dict(zip("sbmv", stats, strict=True)), "axes": np.array([2])}
    proto = model(nodes, {"x": ["N", 1, 7]}, {"y": ["N", 2]}, weights)
    e = ox.explain(proto, rng.normal(size=(2, 1, 7)).astype(np.float32), method="lrp", composite="epsilon_plus")
    assert e.terms is not None
    assert {i.operator for i in e.terms.info if i.kind == "explicit"} == {"Conv"}


# ----- several samples, targets and inputs --------------------------------------------------------------


@pytest.mark.parametrize("composite", [None, "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_a_batch_is_its_samples_one_by_one(composite: Any) -> None:
    proto, x = nets()[1]
    whole = attribution(proto, x, target=[0, 1, 1], composite=composite)
    for n, target in enumerate((0, 1, 1)):
        alone = attribution(proto, x[n : n + 1], target=target, composite=composite)
        np.testing.assert_allclose(alone, whole[n : n + 1], rtol=1e-4, atol=1e-5 * np.abs(whole[n]).max())


@pytest.mark.parametrize("composite", [None, "excitation_backprop"])
def test_targets_of_one_run_do_not_mix(composite: Any) -> None:
    """The walks go over the same forward nodes, on which rules leave notes."""
    together = ox.explain(
        transformer(), TOKENS, method="lrp", target=ox.Targets([0, 2]), composite=composite, threads=1
    )
    for e, target in zip(together, (0, 2), strict=True):
        alone = ox.explain(transformer(), TOKENS, method="lrp", target=target, composite=composite, threads=1)
        np.testing.assert_allclose(e.attributions["x"], alone.attributions["x"], rtol=1e-4, atol=1e-6)
        assert e.residual is not None
        assert e.residual.ok
        assert e.terms is not None
        assert alone.terms is not None
        assert len(e.terms.info) == len(alone.terms.info)


def test_two_inputs_share_the_score() -> None:
    nodes = [
        *(node("MatMul", "a w", "u"), node("MatMul", "b v", "t"), node("Concat", "u t", "c", axis=1)),
        *(node("Relu", "c", "r"), node("MatMul", "r k", "y")),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(2, 3)), "v": rng.normal(size=(4, 3)), "k": rng.normal(size=(6, 2))}
    proto = model(nodes, {"a": ["N", 2], "b": ["N", 4]}, {"y": ["N", 2]}, weights)
    feeds = {"a": rng.normal(size=(2, 2)).astype(np.float32), "b": rng.normal(size=(2, 4)).astype(np.float32)}
    for composite in (None, "excitation_backprop"):
        e = ox.explain(proto, feeds, method="lrp", composite=composite, target=1)
        total = e.attributions["a"].sum(axis=1) + e.attributions["b"].sum(axis=1)
        np.testing.assert_allclose(total, e.score, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"mode": "deep"}, {"epsilon": 0.0}, {"bias": "keep"}, {"softmax": "hard"}, {"gates": "all"}, {"start": "two"}],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ox.explain(perceptron(), X, method="lrp", **options)


# ----- positive propagation forgets the class with depth ------------------------------------------------


def cosine_of_two_classes(depth: int, method: str, **options: Any) -> float:
    """Mean cosine between the maps of two classes, over random nets and inputs."""
    found = []
    for seed in range(8):
        proto = perceptron(depth, 48, seed, bias=False)
        maps = [
            ox.explain(proto, X, method=method, target=t, threads=1, **options).attributions["x"].astype(np.float64)
            for t in (0, 1)
        ]
        if method == "lrp":  # the sign of the score is not what is compared
            maps = [m / np.where(m.sum(axis=1, keepdims=True) < 0, -1, 1) for m in maps]
        scale = np.linalg.norm(maps[0], axis=1) * np.linalg.norm(maps[1], axis=1)
        found.append(((maps[0] * maps[1]).sum(axis=1) / np.where(scale > 0, scale, 1))[scale > 0])
    return float(np.mean(np.concatenate(found)))


def test_positive_propagation_forgets_the_class_with_depth() -> None:
    """Products of non-negative matrices go to rank 1: z+ and Guided Backprop, not the gradient."""
    depths = (1, 3, 12)
    positive = [cosine_of_two_classes(d, "lrp", composite="excitation_backprop", start="one") for d in depths]
    guided = [cosine_of_two_classes(d, "guided_backprop") for d in depths]
    plain = [cosine_of_two_classes(d, "gradient") for d in depths]
    assert positive == sorted(positive)
    assert guided == sorted(guided)
    assert positive[0] < 0.97
    assert guided[0] < 0.8
    assert min(positive[-1], guided[-1]) > 0.999
    # The mean over eight nets; for one of them the cosine of two random directions has any sign.
    assert np.abs(plain).max() < 0.3


# ----- as a file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"composite": "epsilon_gamma_box"}, {"start": "one"}, {"mode": "modified_gradient"}], ids=str
)
def test_a_shipped_file_gives_the_same_and_its_residual(options: dict[str, Any], tmp_path: Path) -> None:
    proto, x = nets()[1]
    explainer = ox.compile(proto, method="lrp", threads=1, **options)
    explainer.save(tmp_path / "lrp.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "lrp.onnx", providers=["CPUExecutionProvider"])
    names = ["attribution", "residual"]
    attributions, residual = session.run(names, {"x": x, "target": np.array([0, 1, 1])})
    e = explainer(x, target=[0, 1, 1])
    np.testing.assert_allclose(attributions, e.attributions["x"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(residual, 0, atol=1e-5 * np.abs(attributions).sum())
