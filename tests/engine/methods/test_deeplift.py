"""DeepLIFT and DeepSHAP: golden values, derivations by hand, equivalences, references of all kinds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import example_one, example_two, fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import InputError, OptionError

Array = np.ndarray[Any, Any]

#: float32 through a few layers.
ROUNDING = 1e-5


def explain(proto: Any, x: Any, method: str = "deeplift", **options: Any) -> ox.Explanation:
    return ox.explain(proto, np.asarray(x, np.float32), method=method, threads=1, **options)


def attribution(proto: Any, x: Any, method: str = "deeplift", **options: Any) -> Array:
    return explain(proto, x, method, **options).attributions["x"].astype(np.float64)


# ----- golden values ----------------------------------------------------------------------------------


def smaller_of_two() -> onnx.ModelProto:
    """``x1 - relu(x1 - x2)``."""
    return model(
        [
            node("MatMul", "x w", "d"),
            node("Relu", "d", "r"),
            node("MatMul", "x first", "a"),
            node("Sub", "a r", "y"),
        ],
        {"x": ["N", 2]},
        {"y": ["N", 1]},
        {"w": np.array([[1.0], [-1.0]]), "first": np.array([[1.0], [0.0]])},
    )


def shifted() -> onnx.ModelProto:
    """``2 relu(x1) + 2 relu(x2 - 1.5)``."""
    return model(
        [node("Sub", "x s", "z"), node("Relu", "z", "a"), node("MatMul", "a w", "y")],
        *({"x": ["N", 2]}, {"y": ["N", 1]}, {"s": np.array([0.0, 1.5]), "w": np.array([[2.0], [2.0]])}),
    )


GOLDEN: list[tuple[str, Callable[[], onnx.ModelProto], list[float], dict[str, Any], list[float]]] = [
    ("example one", example_one, [3, 1], {}, [1.5, -0.5]),
    ("example one, all off", example_one, [-10, -5], {}, [0, 0]),
    ("example two", example_two, [3, 1], {}, [2, -1]),
    ("example two, all off", example_two, [-10, -5], {}, [0, 0]),
    ("simple model, first class", simple_model, [1, 3], {"target": 0}, [1.075, -3.225]),
    ("simple model, second class", simple_model, [1, 3], {"target": 1}, [0.55, -1.65]),
    ("shifted", shifted, [1, 2], {}, [2, 1]),
    ("smaller of two, rescale", smaller_of_two, [4, 2], {}, [0, 2]),
    ("smaller of two, parts apart", smaller_of_two, [4, 2], {"rule": "reveal_cancel"}, [1, 1]),
    ("smaller of two, exchanged", smaller_of_two, [2, 4], {"rule": "reveal_cancel"}, [1, 1]),
    ("smaller of two, dense", smaller_of_two, [4, 2], {"rule": "genomics_default"}, [1, 1]),
]


@pytest.mark.parametrize(("name", "make", "x", "options", "expected"), GOLDEN, ids=[g[0] for g in GOLDEN])
def test_golden_values(
    name: str, make: Callable[[], onnx.ModelProto], x: list[float], options: dict[str, Any], expected: list[float]
) -> None:
    np.testing.assert_allclose(attribution(make(), [x], **options)[0], expected, atol=2e-6)


def test_golden_values_of_two_inputs() -> None:
    """relu(concat(3 x1, 2 x2)), summed; a reference per input."""
    proto = model(
        [
            *(node("Mul", "x1 three", "a"), node("Mul", "x2 two", "b"), node("Concat", "a b", "c", axis=1)),
            *(node("Relu", "c", "r"), node("MatMul", "r ones", "y")),
        ],
        {"x1": ["N", 2], "x2": ["N", 2]},
        {"y": ["N", 1]},
        {"three": np.array(3.0), "two": np.array(2.0), "ones": np.ones((4, 1))},
    )
    x = {"x1": np.array([[-10.0, -5.0]], np.float32), "x2": np.array([[3.0, 1.0]], np.float32)}
    e = ox.explain(proto, x, method="deeplift", threads=1)
    np.testing.assert_array_equal(e.attributions["x1"], [[0, 0]])
    np.testing.assert_array_equal(e.attributions["x2"], [[6, 2]])
    other = ox.explain(proto, x, method="deeplift", baseline={"x2": [[1.0, 2.0]]}, threads=1)
    np.testing.assert_array_equal(other.attributions["x2"], [[4, -2]])
    assert e.residual is not None
    assert e.residual.ok


# ----- derived by hand --------------------------------------------------------------------------------

Layers = Sequence[tuple[Array, Array]]


def by_hand(x: Array, x0: Array, layers: Layers, rules: Sequence[str], s: Callable[[Array], Array]) -> Array:
    """Contributions of one sample to the only output, unit by unit and weight by weight.

    The layers' weights are [in, out]; ``rules`` has the rule of the activation behind each layer but the last.
    """
    inputs, before = [(x, x0)], []
    for w, b in layers[:-1]:
        z, z0 = (v @ w + b for v in inputs[-1])
        before.append((z, z0))
        inputs.append((s(z), s(z0)))
    multiplier = layers[-1][0][:, 0]
    for (w, _), (z, z0), (a, a0), rule in list(zip(layers, before, inputs, rules, strict=False))[::-1]:
        d = a - a0
        if rule == "rescale":
            multiplier = w @ (multiplier * (s(z) - s(z0)) / (z - z0))
            continue
        result = np.zeros(len(d))
        for j in range(w.shape[1]):
            up = sum(d[i] * w[i, j] for i in range(len(d)) if d[i] * w[i, j] > 0)
            down = sum(d[i] * w[i, j] for i in range(len(d)) if d[i] * w[i, j] < 0)
            rise = (s(z0 + up) - s(z0))[j] / 2 + (s(z0 + down + up) - s(z0 + down))[j] / 2
            fall = (s(z0 + down) - s(z0))[j] / 2 + (s(z0 + up + down) - s(z0 + up))[j] / 2
            plus, minus = rise / up if up else 0.0, fall / down if down else 0.0
            for i in range(len(d)):
                sign = d[i] * w[i, j]
                share = plus if sign > 0 else minus if sign < 0 else (plus + minus) / 2
                result[i] += multiplier[j] * share * w[i, j]
        multiplier = result
    return multiplier * (x - x0)


def relu(z: Array) -> Array:
    return np.maximum(z, 0)


def tanh(z: Array) -> Array:
    return np.tanh(z)


def stack(layers: Layers, activation: str) -> onnx.ModelProto:
    nodes, weights, at = [], {}, "x"
    for i, (w, b) in enumerate(layers):
        weights |= {f"w{i}": w, f"b{i}": b}
        last = i == len(layers) - 1
        nodes.append(node("Gemm", f"{at} w{i} b{i}", "y" if last else f"z{i}"))
        if not last:
            nodes.append(node(activation, f"z{i}", f"a{i}"))
        at = f"a{i}"
    return model(nodes, {"x": ["N", len(layers[0][0])]}, {"y": ["N", 1]}, weights)


def random_layers(*sizes: int, seed: int = 0, bias: float = 1.0) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(a, b)), bias * rng.normal(size=b)) for a, b in itertools.pairwise(sizes)]


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize(("activation", "function"), [("Relu", relu), ("Tanh", tanh)])
def test_three_layers_by_hand(rule: str, activation: str, function: Callable[[Array], Array]) -> None:
    layers = random_layers(4, 7, 5, 1)
    rng = np.random.default_rng(1)
    x, x0 = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    x[0, 1] = x0[0, 1]
    found = attribution(stack(layers, activation), x, baseline=x0, rule=rule)
    expected = [by_hand(a, b, layers, [rule, rule], function) for a, b in zip(x, x0, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("rule", "rules"),
    [
        ("rescale", ["rescale", "rescale"]),
        ("reveal_cancel", ["reveal", "reveal"]),
        ("genomics_default", ["rescale", "reveal"]),
    ],
)
def test_convolution_then_dense_by_hand(rule: str, rules: list[str]) -> None:
    """A convolution as the matrix that it is: BatchNormalization behind both layers is looked through."""
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(3, 1, 3))
    gamma, beta, mean, var = [*rng.normal(size=(3, 3)), rng.uniform(0.5, 2, size=3)]
    scale = gamma / np.sqrt(var + 1e-5)
    toeplitz = np.zeros((8, 3, 6))
    for t in range(6):
        toeplitz[t : t + 3, :, t] = kernel[:, 0].T * scale
    bias = np.repeat(beta - scale * mean, 6)
    layers = [(toeplitz.reshape(8, 18), bias), *random_layers(18, 5, 1, seed=3)]
    proto = model(
        [
            *(node("Conv", "x k", "c"), node("BatchNormalization", "c g b m v", "z"), node("Relu", "z", "a")),
            *(node("Flatten", "a", "f"), node("MatMul", "f w1", "u"), node("Add", "u b1", "h"), node("Relu", "h", "r")),
            node("Gemm", "r w2 b2", "y"),
        ],
        {"x": ["N", 1, 8]},
        {"y": ["N", 1]},
        {
            "k": kernel, "g": gamma, "b": beta, "m": mean, "v": var,
            "w1": layers[1][0], "b1": layers[1][1], "w2": layers[2][0], "b2": layers[2][1],
        },
    )  # fmt: skip
    x, x0 = rng.normal(size=(4, 8)), rng.normal(size=(4, 8))
    found = attribution(proto, x[:, None], baseline=x0[:, None], rule=rule)[:, 0]
    expected = [by_hand(a, b, layers, rules, relu) for a, b in zip(x, x0, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_parts_of_a_sum_of_branches() -> None:
    """What enters an activation through Add, Sub, Neg, Mul by a constant, Concat and pooling keeps its parts.

    The same function as one dense layer, by hand.
    """
    rng = np.random.default_rng(4)
    u, v, c = rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), rng.normal(size=6)
    head = rng.normal(size=(3, 1))
    proto = model(
        [
            *(node("MatMul", "x u", "p"), node("MatMul", "x v", "q"), node("Mul", "p c", "pc"), node("Neg", "q", "n")),
            *(node("Sub", "pc n", "d"), node("Add", "d c", "e"), node("Unsqueeze", "e one", "g")),
            *(node("AveragePool", "g", "h", kernel_shape=[2], strides=[2]), node("Flatten", "h", "z")),
            *(node("Relu", "z", "a"), node("MatMul", "a head", "y")),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 1]},
        {"u": u, "v": v, "c": c, "head": head, "one": np.array([1])},
    )
    x, x0 = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    found = explain(proto, x, baseline=x0, rule="reveal_cancel")
    expected = []
    for a, b in zip(x, x0, strict=True):
        # Parts are those of each weight of each branch: as a layer, x twice and pools spread out.
        branches = np.concatenate([u * c, v])
        wide = np.concatenate([branches[:, 0::2], branches[:, 1::2]]) / 2
        layers = [(wide, (c[0::2] + c[1::2]) / 2), (head, np.zeros(1))]
        parts = by_hand(np.tile(a, 4), np.tile(b, 4), layers, ["reveal"], relu)
        expected.append(parts.reshape(4, 4).sum(axis=0))
    np.testing.assert_allclose(found.attributions["x"], expected, rtol=1e-4, atol=2e-5)


# ----- equivalences -----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "Softplus", "Elu", "Gelu"])
def test_one_hidden_layer_is_integrated_gradients(activation: str) -> None:
    """The mean slope along the straight line is the slope of the secant."""
    layers = random_layers(4, 9, 1, seed=5)
    rng = np.random.default_rng(6)
    x, x0 = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    proto = stack(layers, activation)
    proto.opset_import[0].version = 20
    path = explain(proto, x, "integrated_gradients", baseline=x0, steps=1000, tolerance=None)
    found = attribution(proto, x, baseline=x0)
    # The integral of a step function at 1000 points is that far off; smooth ones are exact.
    tolerance = 2e-3 if activation == "Relu" else 2e-5
    np.testing.assert_allclose(found, path.attributions["x"], atol=tolerance * np.abs(found).max())


def test_without_biases_relu_nets_agree_with_gradient_times_input() -> None:
    proto = stack(random_layers(4, 7, 5, 1, bias=0.0), "Relu")
    x = np.random.default_rng(7).normal(size=(5, 4))
    found = attribution(proto, x)
    scale = np.abs(found).max()
    for method in ("input_x_gradient", "integrated_gradients"):
        np.testing.assert_allclose(attribution(proto, x, method), found, atol=ROUNDING * scale)
    np.testing.assert_allclose(found.sum(axis=1), explain(proto, x).score, atol=ROUNDING * scale)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_epsilon_lrp_as_a_modified_gradient(bias: float) -> None:
    """With g = s(z) / z in the derivative's place: DeepLIFT against zero where biases are 0, another map where not."""
    layers = random_layers(4, 7, 5, 1, bias=bias)
    x = np.random.default_rng(8).normal(size=(5, 4))
    found = attribution(stack(layers, "Tanh"), x)
    expected = []
    for row in x:
        gates, a = [], row
        for w, b in layers[:-1]:
            z = a @ w + b
            gates.append(np.tanh(z) / z)
            a = np.tanh(z)
        signal = layers[-1][0][:, 0]
        for (w, _), gate in zip(layers[:-1][::-1], gates[::-1], strict=True):
            signal = w @ (signal * gate)
        expected.append(row * signal)
    relevance = attribution(stack(layers, "Tanh"), x, "lrp", mode="modified_gradient", epsilon=1e-7)
    np.testing.assert_allclose(relevance, expected, rtol=1e-4, atol=1e-5)
    gap = np.abs(found - expected).max() / np.abs(found).max()
    assert gap < ROUNDING if bias == 0 else gap > 0.01


# ----- references -------------------------------------------------------------------------------------


def test_several_references_are_averaged() -> None:
    proto, x = fullgrad_net()
    x = np.concatenate([x, -x, x[:, :, ::-1] * 0.3])
    e = explain(proto, x, baseline=["zero", "blur", 0.3])
    single = [explain(proto, x, baseline=b, target=e.target) for b in ("zero", "blur", 0.3)]
    mean = np.mean([s.attributions["x"] for s in single], axis=0)
    np.testing.assert_allclose(e.attributions["x"], mean, atol=1e-6)
    np.testing.assert_allclose(e.baseline_score, np.mean([s.baseline_score for s in single], axis=0), rtol=1e-6)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING
    assert "averaged over 3 references" in e.notes


def test_a_reference_per_sample_is_that_samples_own() -> None:
    proto, x = fullgrad_net()
    x = np.concatenate([x, -x, x[:, :, ::-1] * 0.3])
    references = np.random.default_rng(10).normal(size=x.shape).astype(np.float32)
    whole = explain(proto, x, target=1, baseline=references)
    for n in range(3):
        alone = explain(proto, x[n : n + 1], target=1, baseline=references[n : n + 1])
        np.testing.assert_allclose(alone.attributions["x"][0], whole.attributions["x"][n], atol=1e-6)
    one = explain(proto, x, target=1, baseline=references[:1])
    np.testing.assert_allclose(one.attributions["x"][0], whole.attributions["x"][0], atol=1e-6)
    assert np.abs(one.attributions["x"][1] - whole.attributions["x"][1]).max() > 0.01


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
def test_float64_keeps_the_sum_to_its_digits(rule: str) -> None:
    proto, x = fullgrad_net(onnx.TensorProto.DOUBLE)
    e = ox.explain(proto, x, method="deeplift", rule=rule, providers=["reference"])
    assert e.attributions["x"].dtype == np.float64
    assert e.residual is not None
    assert e.residual.relative.max() < 1e-13


def test_half_precision_is_explained_in_float32() -> None:
    proto, x = fullgrad_net(onnx.TensorProto.FLOAT16)
    e = ox.explain(proto, x, method="deeplift", baseline="blur", threads=1)
    single = explain(fullgrad_net()[0], x, baseline="blur")
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING
    # Weights of 16 bits have three digits.
    np.testing.assert_allclose(
        e.attributions["x"], single.attributions["x"], atol=5e-3 * np.abs(single.attributions["x"]).max()
    )


def test_several_targets() -> None:
    proto, x = fullgrad_net()
    both = ox.compile(proto, method="deeplift", baseline="blur", threads=1)(
        x, target=[ox.Target.index(0), ox.Target.index(1)]
    )
    for target, e in enumerate(both):
        np.testing.assert_allclose(
            e.attributions["x"], attribution(proto, x, target=target, baseline="blur"), atol=1e-6
        )


def test_deepshap_is_the_mean_over_its_background(tmp_path: Any) -> None:
    proto, x = fullgrad_net()
    x = np.concatenate([x, -x])
    background = np.random.default_rng(9).normal(size=(7, 1, 4, 4)).astype(np.float32)
    e = explain(proto, x, "deeplift", target=1, baseline=[b[None] for b in background])
    shap = explain(proto, x, "deepshap", target=1, background=background)
    np.testing.assert_allclose(shap.attributions["x"], e.attributions["x"], atol=1e-6)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": background})[0][:, 1].mean()
    np.testing.assert_allclose(shap.baseline_score, [expected] * 2, rtol=1e-5)
    path = tmp_path / "background.npy"
    np.save(path, background)
    again = explain(proto, x, "deepshap", target=1, background=str(path))
    np.testing.assert_array_equal(again.attributions["x"], shap.attributions["x"])


def test_deepshap_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxplain.engine.methods import differences

    proto, x = fullgrad_net()
    background = np.random.default_rng(9).normal(size=(7, 1, 4, 4)).astype(np.float32)
    whole = explain(proto, x, "deepshap", background=background)
    monkeypatch.setattr(differences, "STAGING_BYTES", 300)
    cut = explain(proto, x, "deepshap", background=background)
    np.testing.assert_allclose(cut.attributions["x"], whole.attributions["x"], rtol=1e-6)


def test_a_background_that_does_not_fit_is_refused() -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError, match="does not fit 'x'"):
        explain(proto, x, "deepshap", background=np.zeros((3, 1, 4, 5)))


def test_inner_tensors_against_the_models_own_reference() -> None:
    proto, x = fullgrad_net()
    e = explain(proto, x, wrt="a1", baseline="input:zero")
    f = explain(proto, x)
    np.testing.assert_allclose(e.attributions["a1"].sum(), f.attributions["x"].sum(), rtol=1e-5)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING


@pytest.mark.parametrize("fallback", ["midpoint", "reference"])
def test_the_fallback_is_taken_where_it_says(fallback: str) -> None:
    """tanh from 0 to 1 with a threshold that covers it: the slope at 1/2, or at 0."""
    proto = model([node("Tanh", "x", "y")], {"x": ["N", 1]}, {"y": ["N", 1]})
    e = explain(proto, [[1.0]], fallback=fallback, threshold=1.5)
    place = 0.5 if fallback == "midpoint" else 0.0
    np.testing.assert_allclose(e.attributions["x"], [[1 - np.tanh(place) ** 2]], rtol=1e-6)
    assert e.residual is not None
    assert not e.residual.ok, "and the result says that the sum is not kept"


def test_equal_operands_get_the_gradient() -> None:
    """x = x': contributions are 0, and features that cancel in front of a unit share its gradient."""
    proto = model(
        [node("MatMul", "x w", "z"), node("Sigmoid", "z", "y")],
        {"x": ["N", 2]},
        {"y": ["N", 1]},
        {"w": np.ones((2, 1))},
    )
    np.testing.assert_allclose(attribution(proto, [[1.0, -1.0]], head="probability"), [[0.25, -0.25]], rtol=1e-6)


def test_a_baseline_for_an_unknown_input_is_refused() -> None:
    proto, x = fullgrad_net()
    with pytest.raises((OptionError, InputError), match="baseline names"):
        explain(proto, x, baseline={"z": "zero"})
