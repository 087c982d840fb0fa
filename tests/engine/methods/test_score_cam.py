"""Score-CAM against a loop over channels in NumPy, on pictures in both layouts and on a series."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
WEIGHTS = {"k": RNG.normal(size=(4, 2, 3, 3)), "b": np.array([0.3, -0.2, 0.1, -99.0]), "v": RNG.normal(size=(4, 3))}
X = RNG.normal(size=(2, 2, 12, 16)).astype(np.float32)


def net(channels_last: bool = False) -> onnx.ModelProto:
    """Conv with stride 4 (a 3 x 4 map, whose last channel is dead), ReLU, mean, classes."""
    nodes = [node("Conv", "x k b" if not channels_last else "t k b", "c", strides=[4, 4], pads=[1, 1, 1, 1]),
             node("Relu", "c", "a"), node("GlobalAveragePool", "a", "g"), node("Flatten", "g", "f"),
             node("MatMul", "f v", "y")]  # fmt: skip
    if channels_last:
        nodes.insert(0, node("Transpose", "x", "t", perm=[0, 3, 1, 2]))
    shape = ["N", 12, 16, 2] if channels_last else ["N", 2, 12, 16]
    return model(nodes, {"x": shape}, {"y": ["N", 3]}, WEIGHTS)


def naive(x: Array, target: int, weights: str, baseline: float) -> tuple[Array, Array]:
    """Map and layer attribution of one picture ``[2, 12, 16]``, scored through another method's explainer."""
    scores = ox.compile(net(), method="gradient", threads=1)

    def f(point: Array) -> float:
        return float(scores(point[None].astype(np.float32), target=target).score[0])

    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    a = np.zeros((4, 3, 4))
    for k in range(4):
        for i in range(3):
            for j in range(4):
                a[k, i, j] = (padded[:, 4 * i : 4 * i + 3, 4 * j : 4 * j + 3] * WEIGHTS["k"][k]).sum() + WEIGHTS["b"][k]
    a = np.maximum(a, 0)
    found = []
    for k in range(3):
        mask = cv2.resize(a[k].astype(np.float32), (16, 12), interpolation=cv2.INTER_LINEAR)
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        found.append(f(baseline + mask * (x - baseline)))
    s = np.array(found)
    w = np.exp(s) / np.exp(s).sum() if weights == "softmax" else s - f(np.full_like(x, baseline))
    product = np.append(w, 0)[:, None, None] * a
    drawing = np.maximum(product.sum(axis=0), 0).astype(np.float32)
    return cv2.resize(drawing, (16, 12), interpolation=cv2.INTER_LINEAR), product


@pytest.mark.parametrize("weights", ["softmax", "increase"])
@pytest.mark.parametrize("baseline", [0.0, 0.4])
@pytest.mark.parametrize("channels_last", [False, True])
def test_against_a_loop(weights: str, baseline: float, channels_last: bool) -> None:
    x = X.transpose(0, 2, 3, 1) if channels_last else X
    e = ox.explain(
        net(channels_last), np.ascontiguousarray(x), method="score_cam", weights=weights, baseline=baseline, target=1,
        layout="channels_last" if channels_last else "auto",
    )  # fmt: skip
    assert e.saliency is not None and e.saliency.shape == (2, 12, 16)
    assert any("'a'" in note for note in e.notes) and any("3 channels" in note for note in e.notes)
    for n in range(2):
        drawing, product = naive(X[n], 1, weights, baseline)
        # 1e-4: OpenCV's coordinates are rounded to 1/2048 of a pixel.
        np.testing.assert_allclose(e.saliency[n], drawing, atol=1e-3 * max(1.0, np.abs(drawing).max()))
        np.testing.assert_allclose(e.attributions["a"][n], product, atol=1e-3 * max(1.0, np.abs(product).max()))


def test_series_and_fewer_channels() -> None:
    proto = model(
        [node("Conv", "x k", "c", strides=[2]), node("Relu", "c", "a"), node("GlobalAveragePool", "a", "g"),
         node("Flatten", "g", "y")],
        {"x": ["N", 1, 20]}, {"y": ["N", 5]}, {"k": np.random.default_rng(1).normal(size=(5, 1, 4))},
    )  # fmt: skip
    x = np.random.default_rng(2).normal(size=(3, 1, 20)).astype(np.float32)
    e = ox.explain(proto, x, method="score_cam", channels=2, target=0)
    assert e.saliency is not None and e.saliency.shape == (3, 20)
    used = np.abs(e.attributions["a"]).max(axis=2) > 0
    assert (used.sum(axis=1) == 2).all()
    layer = np.maximum(np.stack([[np.convolve(r[0], k[0, ::-1], "valid")[::2] for k in
              np.random.default_rng(1).normal(size=(5, 1, 4))] for r in x]), 0)  # fmt: skip
    for n in range(3):
        assert set(np.flatnonzero(used[n])) == set(np.argsort(-layer[n].std(axis=1))[:2])


def test_what_it_cannot_do() -> None:
    rows = model([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1))})
    with pytest.raises(OptionError, match="feature maps"):
        ox.explain(rows, np.ones((1, 2), np.float32), method="score_cam")
    for options in ({"weights": "mean"}, {"channels": 0}, {"baseline": "noise:2"}):
        with pytest.raises(OptionError):
            ox.explain(net(), X, method="score_cam", **options)  # type: ignore[arg-type]
