"""Occlusion against the published small network, and against loops over windows in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize(("target", "expected"), [(0, (0.5, -3.25)), (1, (-1.0, -2.5))])
def test_published_small_network(target: int, expected: tuple[float, float]) -> None:
    e = ox.explain(simple_model(), np.array([[1.0, 3.0]], np.float32), method="occlusion", target=target)
    np.testing.assert_allclose(e.attributions["x"], [expected], atol=1e-6)


def naive(x: Array, f: Any, window: int, starts: list[int], value: float, average: bool) -> Array:
    total, size = np.zeros(x.shape), np.zeros(x.shape)
    for i in starts:
        for j in starts:
            moved = x.copy()
            moved[:, :, i : i + window, j : j + window] = value
            total[:, :, i : i + window, j : j + window] += f(x) - f(moved)
            size[:, :, i : i + window, j : j + window] += window**2 * x.shape[1]
    return total / np.where(size > 0, size, 1) if average else total


@pytest.mark.parametrize(
    ("window", "stride", "starts"),
    [(1, 1, [0, 1, 2, 3]), (2, 2, [0, 2]), (2, 1, [0, 1, 2]), (3, 2, [0, 1]), (9, 9, [0])],
)
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_windows(window: int, stride: int, starts: list[int], average: bool, value: float) -> None:
    """Also a window past the picture, and a last window that is moved back to end with the picture."""
    proto, x = fullgrad_net()
    scores = ox.compile(proto, method="gradient")

    def f(points: Array) -> float:
        return float(scores(points, target=1).score[0])

    e = ox.explain(proto, x, method="occlusion", window=window, stride=stride, value=value, average=average, target=1)
    expected = naive(x, f, min(window, 4), starts, value, average)
    np.testing.assert_allclose(e.attributions["x"], expected, atol=1e-4)
    assert any(f"{len(starts) ** 2} windows" in note for note in e.notes)


def test_windows_side_by_side_sum_to_their_drops() -> None:
    """A linear net: what each window holds, so all of them the score without its bias."""
    w = np.random.default_rng(0).normal(size=(2 * 6 * 6, 1))
    proto = model(
        [node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": ["N", 2, 6, 6]}, {"y": ["N", 1]}, {"w": w}
    )
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)
    e = ox.explain(proto, x, method="occlusion", window=3, stride=3, layout="channels_first")
    np.testing.assert_allclose(e.attributions["x"].sum(axis=(1, 2, 3)), e.score, rtol=1e-5, atol=1e-5)


def test_gaps_between_windows_get_nothing() -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="occlusion", window=1, stride=2, target=1)
    assert not e.attributions["x"][0, 0, 1].any() and e.attributions["x"][0, 0, 0].any()


def test_blocked_gradient_is_no_obstacle() -> None:
    """Round ends all gradients; a tree ensemble has none."""
    x = np.array([[1.2, 3.9], [0.1, 2.0]], np.float32)
    proto = model(
        [node("Round", "x", "r"), node("MatMul", "r w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": [[2.0], [-1.0]]}
    )
    found = ox.explain(proto, x, method="occlusion").attributions["x"]
    np.testing.assert_allclose(found, np.round(x) * [2.0, -1.0])


def test_tree_ensemble() -> None:
    """One stump: 5 where x1 <= 0.5, else 9."""
    stump = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", name="tree", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0],
        target_weights=[5.0, 9.0],
    )  # fmt: skip
    proto = model([stump], {"x": ["N", 3]}, {"y": ["N", 1]}, dtype=TensorProto.FLOAT, domains=["ai.onnx.ml"])
    x = np.array([[1.0, 2.0, 3.0], [1.0, 0.2, 3.0]], np.float32)
    e = ox.explain(proto, x, method="occlusion")
    np.testing.assert_array_equal(e.score, [9.0, 5.0])
    np.testing.assert_array_equal(e.attributions["x"], [[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("options", [{"window": 0}, {"stride": 0}, {"value": "noise:2"}, {"reduction": "mean"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError):
        ox.explain(proto, x, method="occlusion", **options)
