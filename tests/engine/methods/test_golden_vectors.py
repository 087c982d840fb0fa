"""The literature's small nets with all their published and derived values, one line a value.

Values that belong to one method stand in that method's tests: FullGrad's maps (`test_fullgrad`,
`test_simple_fullgrad`), Guided IG (`test_guided_ig`), Blur IG (`test_blur_ig`), the rules of relevance
(`test_lrp`, `test_relevance`), RevealCancel's smaller of two (`test_deeplift`), differences through max pooling
(`test_difference`), Shapley's minimum (`test_shapley_sampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import example_one, example_two, fullgrad_net, model, node, simple_model

import onnxplain as ox

Array = np.ndarray[Any, Any]

#: 100 right-hand steps put a node on each kink of these nets, and are exact there.
EXACT = {"steps": 100, "quadrature": "riemann_right", "tolerance": None}
#: As a modified gradient in DeepExplain's form: its authors test three decimals at 1e-4, and seven at 1e-9.
LRP = {"mode": "modified_gradient", "epsilon": 1e-9}


def attribution(proto: onnx.ModelProto, method: str, x: Any, **options: Any) -> Array:
    e = ox.explain(proto, np.array([x], np.float32), method=method, threads=1, **options)
    return e.attributions["x"][0].astype(np.float64)


# ----- the example pair: one function, written in two ways ----------------------------------------------

PAIR: list[tuple[str, dict[str, Any], tuple[float, float], tuple[float, float]]] = [
    ("gradient", {}, (1, -1), (1, -1)),
    ("input_x_gradient", {}, (3, -1), (3, -1)),
    ("integrated_gradients", EXACT, (1.5, -0.5), (1.5, -0.5)),
    ("integrated_gradients", {**EXACT, "steps": 500}, (1.5, -0.5), (1.5, -0.5)),
    ("deeplift", {}, (1.5, -0.5), (2, -1)),
    ("lrp", LRP, (3, -1), (3, -1)),
    ("lrp", {"mode": "layerwise", "epsilon": 1e-9}, (3, -1), (3, -1)),
    ("occlusion", {"window": 1}, (1, -1), (1, -1)),
    ("occlusion", {"window": 2}, (0.5, 0.5), (0.5, 0.5)),
    ("fullgrad", {}, (3, -1), (3, -1)),
]
PAIR_IDS = [f"{name}-{i}" for i, (name, *_) in enumerate(PAIR)]


@pytest.mark.parametrize(("method", "options", "one", "two"), PAIR, ids=PAIR_IDS)
def test_example_pair(method: str, options: dict[str, Any], one: tuple[float, float], two: tuple[float, float]) -> None:
    np.testing.assert_allclose(attribution(example_one(), method, (3, 1), **options), one, atol=1e-6)
    np.testing.assert_allclose(attribution(example_two(), method, (3, 1), **options), two, atol=1e-6)


@pytest.mark.parametrize(("method", "options", "one", "two"), PAIR, ids=PAIR_IDS)
def test_example_pair_below_all_thresholds(method: str, options: dict[str, Any], one: Any, two: Any) -> None:
    for make in (example_one, example_two):
        np.testing.assert_allclose(attribution(make(), method, (-10, -5), **options), 0, atol=1e-7)


def test_lrp_of_the_pair_at_the_authors_own_stabiliser() -> None:
    for make in (example_one, example_two):
        found = attribution(make(), "lrp", (3, 1), mode="modified_gradient", epsilon=1e-4)
        np.testing.assert_allclose(found, (3, -1), atol=5e-4)


@pytest.mark.parametrize(("x", "expected"), [((2, 0), (1, 0)), ((3, 0), (2, 0))])
def test_example_pair_from_another_baseline(x: Any, expected: Any) -> None:
    for make in (example_one, example_two):
        found = attribution(make(), "integrated_gradients", x, baseline=np.array([1.0, 0.0]))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("make", [example_one, example_two])
def test_full_gradient_of_the_pair(make: Callable[[], onnx.ModelProto]) -> None:
    """3 - 1 from the input, -1 from the bias: 1."""
    e = ox.explain(make(), np.array([[3.0, 1.0]], np.float32), method="fullgrad")
    assert e.terms is not None
    np.testing.assert_allclose(e.terms.input, [2.0])
    np.testing.assert_allclose(e.terms.biases.sum(axis=1), [-1.0])


# ----- relu(concat(3 x1, 2 x2)), summed -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "second"),
    [
        ("gradient", {}, (2, 2)), ("absolute_gradient", {}, (2, 2)), ("input_x_gradient", {}, (6, 2)),
        ("integrated_gradients", {}, (6, 2)), ("lrp", LRP, (6, 2)), ("lrp", {}, (6, 2)), ("deeplift", {}, (6, 2)),
    ],
)  # fmt: skip
def test_two_inputs_joined(method: str, options: dict[str, Any], second: tuple[float, float]) -> None:
    proto = model(
        [
            *(node("Mul", "x1 three", "a"), node("Mul", "x2 two", "b"), node("Concat", "a b", "c", axis=1)),
            node("Relu", "c", "y"),
        ],
        {"x1": ["N", 2], "x2": ["N", 2]},
        {"y": ["N", 4]},
        {"three": np.array(3.0), "two": np.array(2.0)},
    )
    feeds = {"x1": np.array([[-10.0, -5.0]], np.float32), "x2": np.array([[3.0, 1.0]], np.float32)}
    e = ox.explain(proto, feeds, method=method, target=ox.Target.weights(np.ones(4)), threads=1, **options)
    np.testing.assert_allclose(e.attributions["x1"], [[0, 0]], atol=1e-6)
    np.testing.assert_allclose(e.attributions["x2"], [second], rtol=2e-6)


# ----- the two-layer net --------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "outputs"), [((1, 0), (2.75, 5.5)), ((5, 3), (3.85, 6.9)), ((1, 3), (-0.5, 3))])
def test_outputs_of_the_two_layer_net(x: Any, outputs: Any) -> None:
    for target, expected in enumerate(outputs):
        e = ox.explain(simple_model(), np.array([x], np.float32), method="gradient", target=target)
        np.testing.assert_allclose(e.score, [expected], rtol=1e-6)


TWO_LAYERS: list[tuple[str, tuple[int, int], dict[str, Any], tuple[float, float], tuple[float, float]]] = [
    ("gradient", (5, 3), {}, (1.1, -1.1), (1.4, -1.4)),
    ("input_x_gradient", (5, 3), {}, (5.5, -3.3), (7, -4.2)),
    ("input_x_gradient", (1, 3), {}, (0.5, -1.5), (-1, 3)),
    ("integrated_gradients", (1, 3), {**EXACT, "quadrature": "riemann_middle"}, (1.075, -3.225), (0.55, -1.65)),
    ("deeplift", (1, 3), {}, (1.075, -3.225), (0.55, -1.65)),
    ("occlusion", (1, 3), {"window": 1}, (0.5, -3.25), (-1, -2.5)),
]


@pytest.mark.parametrize(("method", "x", "options", "first", "second"), TWO_LAYERS)
def test_two_layer_net(method: str, x: Any, options: dict[str, Any], first: Any, second: Any) -> None:
    for target, expected in enumerate((first, second)):
        np.testing.assert_allclose(
            attribution(simple_model(), method, x, target=target, **options), expected, atol=2e-6
        )


# ----- FullGrad, the one map that is printed in part ------------------------------------------------------


def test_map_rescaled_per_channel() -> None:
    """What the per-layer map and this one share, entry by entry; the rest stands in `test_fullgrad`."""
    proto, x = fullgrad_net()
    found = ox.explain(proto, x, method="fullgrad", target=1, scope="channel").map()
    expected = [
        [1.00000, 1.14166, 0.46765, 0.93968],
        [1.37222, 2.63055, 1.13889, 0.34167],
        [1.66666, 1.52916, 0.85555, 1.85317],
        [2.08104, 2.13293, 2.00000, 1.54166],
    ]
    np.testing.assert_allclose(found, expected, atol=6e-6)
