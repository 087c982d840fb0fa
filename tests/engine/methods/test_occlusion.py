"""Occlusion against the published small network, and against loops over windows in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import example_one, example_two, fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize(("target", "expected"), [(0, (0.5, -3.25)), (1, (-1.0, -2.5))])
def test_published_small_network(target: int, expected: tuple[float, float]) -> None:
    e = ox.explain(simple_model(), np.array([[1.0, 3.0]], np.float32), method="occlusion", target=target)
    np.testing.assert_allclose(e.attributions["x"], [expected], atol=1e-6)


@pytest.mark.parametrize("make", [example_one, example_two])
@pytest.mark.parametrize(
    ("x", "window", "expected"), [((3, 1), 1, (1, -1)), ((3, 1), 2, (0.5, 0.5)), ((-10, -5), 1, (0, 0))]
)
def test_published_example_pair(make: Any, x: Any, window: int, expected: Any) -> None:
    e = ox.explain(make(), np.array([x], np.float32), method="occlusion", window=window)
    np.testing.assert_allclose(e.attributions["x"], [expected], atol=1e-6)


def test_occlusion_one_of_pictures() -> None:
    """Every element by itself: single features as players, and Sensitivity-1 holds exactly."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 4, 4)).astype(np.float32), rng.normal(size=(3, 4, 4))
    proto = model(
        [node("Mul", "x x", "s"), node("Mul", "s w", "t"), node("ReduceSum", "t axes", "y", keepdims=0)],
        {"x": ["N", 3, 4, 4]}, {"y": ["N"]}, {"w": w, "axes": np.array([1, 2, 3])},
    )  # fmt: skip
    e = ox.explain(proto, x, method="occlusion", window=1, stride=1, per_channel=True)
    np.testing.assert_allclose(e.attributions["x"], x**2 * w, atol=1e-5)
    together = ox.explain(proto, x, method="occlusion", window=1, stride=1)
    np.testing.assert_allclose(together.saliency, (x**2 * w).sum(axis=1), atol=1e-5)


def test_windows_of_two_sizes() -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="occlusion", window=[4, 1], stride=[4, 1], target=1)
    a = e.attributions["x"][0, 0]
    np.testing.assert_allclose(a, np.broadcast_to(a[:1], a.shape), rtol=1e-6)
    assert len(set(a[0].round(5))) > 1
    with pytest.raises(OptionError, match="has 1 numbers, and there are 2 axes"):
        ox.explain(proto, x, method="occlusion", window=[4])


def test_tokens_go_one_by_one() -> None:
    """A bag of words: each gets what its own embedding adds."""
    table = np.random.default_rng(0).normal(size=(9, 5))
    proto = model(
        [node("Gather", "table ids", "e"), node("ReduceSum", "e axes", "y", keepdims=0)],
        {"ids": ["N", 40]}, {"y": ["N"]}, {"table": table, "axes": np.array([1, 2])},
    )  # fmt: skip
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 40]))
    ids = np.random.default_rng(1).integers(0, 9, size=(2, 40))
    e = ox.explain(proto, ids, method="occlusion")
    assert e.saliency is not None
    np.testing.assert_allclose(e.saliency, table[ids].sum(axis=2), atol=1e-4)


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
    assert "12 elements of 'x' lie under no window and get 0" in e.notes


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0},
        {"stride": 0},
        {"window": 1.5},
        {"window": []},
        {"stride": "all"},
        {"value": "noise:2"},
        {"reduction": "mean"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError):
        ox.explain(proto, x, method="occlusion", **options)
