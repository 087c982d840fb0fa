"""Where the theory says that two methods are one, they are: to 1e-5 of the largest attribution.

Batched results equal those one by one in `test_batches`; the two readings of epsilon-LRP, LRP on transformers and
the balanced gradient in `test_lrp`; neurons that add up to Integrated Gradients in `test_layer_conductance`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node
from tiny_transformers import attention_block, vision_transformer

import onnxplain as ox

Array = np.ndarray[Any, Any]

#: The issue's tolerance, of the largest attribution.
CLOSE = 1e-5
#: Of LRP's stabiliser, so that what it takes is below the tolerance.
TINY = 1e-9
SEEDS = range(2)


def attribution(proto: onnx.ModelProto, x: Array, method: str, **options: Any) -> Array:
    e = ox.explain(proto, x.astype(np.float32), method=method, threads=1, **options)
    (found,) = e.attributions.values()
    return found.astype(np.float64)


def assert_one(first: Array, second: Array) -> None:
    assert np.abs(second).max() > 1e-3, "nothing was attributed, so nothing was compared"
    np.testing.assert_allclose(first, second, atol=CLOSE * np.abs(second).max(), rtol=0)


def dense(*sizes: int, activation: str = "Relu", bias: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """Fully connected layers of random weights."""
    rng = np.random.default_rng(seed)
    nodes, weights, at = [], {}, "x"
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        weights |= {f"w{k}": rng.normal(size=(n, m)) / np.sqrt(n / 2), f"b{k}": bias * rng.normal(size=m)}
        last = k == len(sizes) - 2
        nodes.append(node("Gemm", f"{at} w{k} b{k}", "y" if last else f"z{k}"))
        nodes += [] if last else [node(activation, f"z{k}", f"a{k}")]
        at = f"a{k}"
    return model(nodes, {"x": ["N", sizes[0]]}, {"y": ["N", sizes[-1]]}, weights)


def convolutional(bias: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """Two convolutions with skip connection, max and average pooling, and a dense layer."""
    rng = np.random.default_rng(seed)
    weights = {
        "k1": rng.normal(size=(4, 2, 3, 3)) / 3, "b1": bias * rng.normal(size=4),
        "k2": rng.normal(size=(4, 4, 3, 3)) / 4, "b2": bias * rng.normal(size=4),
        "w": rng.normal(size=(36, 3)), "c": bias * rng.normal(size=3),
    }  # fmt: skip
    nodes = [
        *(node("Conv", "x k1 b1", "z1", pads=[1, 1, 1, 1]), node("Relu", "z1", "a1")),
        node("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        *(node("Conv", "p1 k2 b2", "z2", pads=[1, 1, 1, 1]), node("Add", "z2 p1", "s"), node("Relu", "s", "a2")),
        node("AveragePool", "a2", "p2", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 0, 0]),
        *(node("Flatten", "p2", "f"), node("Gemm", "f w c", "y")),
    ]
    weights["w"] = rng.normal(size=(4 * 3 * 3, 3))
    return model(nodes, {"x": ["N", 2, 8, 8]}, {"y": ["N", 3]}, weights)


def rows(seed: int = 0, features: int = 5) -> Array:
    return np.random.default_rng(100 + seed).normal(size=(4, features))


def pictures(seed: int = 0) -> Array:
    return np.random.default_rng(100 + seed).normal(size=(3, 2, 8, 8))


def rectifier_nets(bias: float) -> list[tuple[onnx.ModelProto, Array]]:
    nets = [(dense(5, 9, 7, 3, bias=bias, seed=s), rows(s)) for s in SEEDS]
    return nets + [(convolutional(bias, s), pictures(s)) for s in SEEDS]


# ----- relevance, gradients, differences, paths ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["layerwise", "modified_gradient"])
def test_epsilon_relevance_is_input_times_gradient_on_rectifier_nets(mode: str) -> None:
    for proto, x in rectifier_nets(bias=1.0):
        assert_one(
            attribution(proto, x, "lrp", mode=mode, epsilon=TINY, target=1),
            attribution(proto, x, "input_x_gradient", target=1),
        )


def test_all_coincide_on_rectifier_nets_without_biases() -> None:
    """Positively homogeneous of degree 1: the gradient is the same all along the ray from 0, and x times it is f(x)."""
    for proto, x in rectifier_nets(bias=0.0):
        plain = attribution(proto, x, "input_x_gradient", target=2)
        score = ox.explain(proto, x.astype(np.float32), method="gradient", target=2).score
        np.testing.assert_allclose(plain.reshape(len(x), -1).sum(axis=1), score, rtol=1e-4, atol=1e-5)
        for method, options in (
            ("lrp", {"epsilon": TINY}), ("lrp", {"epsilon": TINY, "mode": "modified_gradient"}),
            ("lrp", {"epsilon": TINY, "bias": "ignore"}), ("integrated_gradients", {"steps": 3}), ("deeplift", {}),
            ("expected_gradients", {"draws": 3, "background": "zero"}),
            ("input_x_gradient", {"balanced": True}),
        ):  # fmt: skip
            assert_one(attribution(proto, x, method, target=2, **options), plain)
        e = ox.explain(proto, x.astype(np.float32), method="fullgrad", target=2)
        assert e.terms is not None
        assert_one(e.attributions["x"], plain)
        np.testing.assert_allclose(e.terms.biases, 0, atol=1e-6)


@pytest.mark.parametrize("activation", ["Tanh", "Sigmoid", "Softplus"])
def test_one_hidden_layer_paths_are_differences(activation: str) -> None:
    """The mean slope along the straight line is the slope of the secant; 200 Gauss points have it to 1e-5."""
    for seed in SEEDS:
        proto, x, x0 = dense(5, 9, 3, activation=activation, seed=seed), rows(seed), 0.5 * rows(seed + 10)
        path = attribution(proto, x, "integrated_gradients", steps=200, tolerance=None, target=1, baseline=x0)
        assert_one(attribution(proto, x, "deeplift", target=1, baseline=x0), path)


def test_one_hidden_layer_of_rectifiers_paths_are_differences() -> None:
    """With biases that put every kink on a hundredth of the way, 100 middle points are exact."""
    rng = np.random.default_rng(0)
    w, v, x = rng.normal(size=(5, 12)), rng.normal(size=(12, 2)), rng.normal(size=(1, 5)).astype(np.float32)
    places = rng.integers(-30, 130, size=12) / 100  # some units switch on the way, some never
    proto = model(
        [node("Gemm", "x w b", "z"), node("Relu", "z", "a"), node("MatMul", "a v", "y")],
        *({"x": ["N", 5]}, {"y": ["N", 2]}, {"w": w, "b": -places * (x[0] @ w), "v": v}),
    )
    exact = {"steps": 100, "quadrature": "riemann_middle", "tolerance": None}
    for target in (0, 1):
        found = attribution(proto, x, "deeplift", target=target)
        assert_one(found, attribution(proto, x, "integrated_gradients", target=target, **exact))
        plain = attribution(proto, x, "input_x_gradient", target=target)
        assert np.abs(found - plain).max() > 0.01, "kinks on the way, or this shows nothing"


def test_without_biases_relevance_is_differences_from_zero() -> None:
    """Where every function is 0 at 0: f(z) / z is the secant's slope."""
    for seed in SEEDS:
        proto = dense(5, 9, 7, 3, activation="Tanh", bias=0.0, seed=seed)
        relevance = attribution(proto, rows(seed), "lrp", mode="modified_gradient", epsilon=1e-7, target=0)
        assert_one(relevance, attribution(proto, rows(seed), "deeplift", target=0))


def test_all_coincide_on_linear_models() -> None:
    """w_i x_i, by definition of each; only linear models give every subset of features its own sum."""
    w = np.random.default_rng(0).normal(size=(5, 3))
    proto, x = model([node("MatMul", "x w", "y")], {"x": ["N", 5]}, {"y": ["N", 3]}, {"w": w}), rows()
    for method, options in (
        ("input_x_gradient", {}), ("integrated_gradients", {}), ("deeplift", {}), ("lrp", {"epsilon": TINY}),
        ("deeplift", {"rule": "reveal_cancel"}), ("occlusion", {"window": 1}), ("shapley_sampling", {}),
        ("kernel_shap", {}), ("guided_ig", {}), ("expected_gradients", {"background": "zero"}), ("fullgrad", {}),
        ("deepshap", {"background": np.zeros((2, 5), np.float32)}),
    ):  # fmt: skip
        assert_one(attribution(proto, x, method, target=1, **options), x * w[:, 1])


# ----- paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_dist": 0.0}, {"fraction": 1.0}])
def test_guided_paths_on_the_straight_line_are_integrated_gradients(options: dict[str, float]) -> None:
    for proto, x in rectifier_nets(bias=1.0):
        straight = {"steps": 40, "quadrature": "riemann_left", "tolerance": None}
        assert_one(
            attribution(proto, x, "guided_ig", steps=40, target=1, **options),
            attribution(proto, x, "integrated_gradients", target=1, **straight),
        )


# ----- rules at rectifiers ------------------------------------------------------------------------------


def test_rectified_gradients_without_threshold_are_guided_backpropagation_times_input() -> None:
    for proto, x in rectifier_nets(bias=1.0):
        guided = attribution(proto, x, "guided_backprop", target=1)
        assert_one(attribution(proto, x, "rectgrad", tau=0.0, target=1), guided * x)


def test_no_noise_is_no_noise() -> None:
    proto, x = convolutional(), pictures()
    plain = attribution(proto, x, "gradient", target=1)
    for method, options in (("smoothgrad", {}), ("smoothed", {"around": "gradient"})):
        assert_one(attribution(proto, x, method, spread=0.0, target=1, **options), plain)
    assert_one(attribution(proto, x, "smoothgrad_squared", spread=0.0, target=1), plain**2)


# ----- class activation maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_class_activation_maps_sum_to_the_logit_without_its_bias(method: str, layout: str) -> None:
    """Global pooling and one linear layer; for pictures of either layout."""
    rng = np.random.default_rng(3)
    c, w = rng.normal(size=3), rng.normal(size=(4, 3))
    last = layout == "channels_last"
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2])] if last else []
    nodes += [node("Conv", f"{'t' if last else 'x'} k b", "z", pads=[1, 1, 1, 1]), node("Relu", "z", "a")]
    nodes += [node("GlobalAveragePool", "a", "p"), node("Flatten", "p", "f"), node("Gemm", "f w c", "y")]
    proto = model(
        nodes,
        {"x": ["N", 8, 8, 2] if last else ["N", 2, 8, 8]},
        {"y": ["N", 3]},
        {"k": rng.normal(size=(4, 2, 3, 3)), "b": rng.normal(size=4), "w": w, "c": c},
    )
    x = pictures().transpose(0, 2, 3, 1) if last else pictures()
    for target in range(3):
        e = ox.explain(proto, x.astype(np.float32), method=method, target=target, relu=False, layout=layout)
        assert e.saliency is not None and e.saliency.shape == (3, 8, 8)
        np.testing.assert_allclose(e.saliency.sum(axis=(1, 2)), e.score - c[target], rtol=CLOSE, atol=CLOSE)


# ----- attention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [False, True])
def test_a_bias_of_the_keys_gets_nothing(balanced: bool) -> None:
    """It moves all scores of a query by one number, which a softmax does not see."""
    text = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for proto, x in (vision_transformer(blocks=2), (attention_block(), text)):
        e = ox.explain(proto, x, method="fullgrad", target=1, balanced=balanced, layout="auto", threads=1)
        assert e.terms is not None
        found = {i.parameter: np.abs(e.terms.biases[:, k]).max() for k, i in enumerate(e.terms.info)}
        values = max(size for name, size in found.items() if name.endswith("_bv"))
        keys = [size for name, size in found.items() if name.endswith("_bk")]
        assert values > 1e-3
        assert max(keys, default=0.0) <= CLOSE * values
        assert keys or balanced, "with the softmax held constant nothing comes back to the keys at all"


def test_the_small_net_has_all_its_equivalences() -> None:
    """The hand-made net of the golden values, where every number can be looked up."""
    proto, x = fullgrad_net()
    plain = attribution(proto, x, "input_x_gradient", target=1)
    np.testing.assert_allclose(plain.sum(), 6.771875, rtol=1e-6)
    assert_one(attribution(proto, x, "lrp", epsilon=TINY, target=1), plain)
    assert_one(
        attribution(proto, x, "rectgrad", tau=0.0, target=1), attribution(proto, x, "guided_backprop", target=1) * x
    )
