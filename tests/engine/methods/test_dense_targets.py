"""Regions of a segmentation and boxes of a detector, by every method: as if the network gave that one number.

The explained scalar is chosen by a target on the one side, and built into the network as its only output on the
other; attributions and maps have to be the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
METHODS = {entry["name"]: entry["quick"] for entry in ox.methods()}
X = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
MASK = np.zeros((8, 8), np.float32)
MASK[2:5, 3:7] = 1.0
CLASS = 1


def trunk(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    nodes = [
        *(node("Conv", "x k1 b1", "z1", pads=[1, 1, 1, 1]), node("Relu", "z1", "a1")),
        node("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        *(node("Conv", "p1 k2 b2", "z2", pads=[1, 1, 1, 1]), node("Relu", "z2", "a2")),
    ]
    return nodes, {
        "k1": rng.normal(size=(4, 1, 3, 3)), "b1": rng.normal(size=4),
        "k2": rng.normal(size=(5, 4, 3, 3)) / 3, "b2": rng.normal(size=5),
    }  # fmt: skip


def segmenter(scalar: bool) -> onnx.ModelProto:
    """Down by two, up again, two classes per pixel; ``scalar``: the sum of one over the region."""
    nodes, weights = trunk(np.random.default_rng(1))
    nodes += [
        node("Resize", "a2 - scales", "up", mode="linear"),
        node("Conv", "up k3 b3", "y", pads=[0, 0, 0, 0]),
    ]
    rng = np.random.default_rng(2)
    weights |= {"k3": rng.normal(size=(2, 5, 1, 1)), "b3": rng.normal(size=2), "scales": np.array([1, 1, 2, 2.0])}
    if not scalar:
        return model(nodes, {"x": ["N", 1, 8, 8]}, {"y": ["N", 2, 8, 8]}, weights)
    region = np.zeros((1, 2, 8, 8))
    region[0, CLASS] = MASK
    weights |= {"region": region, "axes": np.array([1, 2, 3])}
    nodes += [node("Mul", "y region", "inside"), node("ReduceSum", "inside axes", "total", keepdims=0)]
    return model(nodes, {"x": ["N", 1, 8, 8]}, {"total": ["N"]}, weights)


PLACE = 6


def detector(scalar: bool) -> onnx.ModelProto:
    """A row per cell of 4 x 4: four numbers of a box, scores of two classes; ``scalar``: one of the scores."""
    nodes, weights = trunk(np.random.default_rng(3))
    nodes += [
        node("Conv", "a2 k3 b3", "head"), node("Reshape", "head rows", "flat"),
        node("Transpose", "flat", "raw", perm=[0, 2, 1]), node("Add", "raw anchors", "y"),
    ]  # fmt: skip
    rng = np.random.default_rng(4)
    corners = np.array([[2 * (k % 4), 2 * (k // 4), 2 * (k % 4) + 2, 2 * (k // 4) + 2, 0, 0] for k in range(16)])
    kernel = rng.normal(size=(6, 5, 1, 1))
    kernel[:4] *= 0.01  # boxes stay near their cells
    weights |= {"k3": kernel, "b3": np.zeros(6), "rows": np.array([0, 6, 16]), "anchors": corners[None] * 1.0}
    if not scalar:
        return model(nodes, {"x": ["N", 1, 8, 8]}, {"y": ["N", 16, 6]}, weights)
    pick = np.zeros((1, 16, 6))
    pick[0, PLACE, 4 + CLASS] = 1.0
    weights |= {"pick": pick, "axes": np.array([1, 2])}
    nodes += [node("Mul", "y pick", "inside"), node("ReduceSum", "inside axes", "total", keepdims=0)]
    return model(nodes, {"x": ["N", 1, 8, 8]}, {"total": ["N"]}, weights)


@cache
def serving() -> tuple[str, ...]:
    """Methods that take a picture, where the network has no attention."""
    found = []
    for method in METHODS:
        try:
            ox.compile(segmenter(True), method=method, threads=1)
        except OptionError:
            continue
        found.append(method)
    return tuple(found)


def chosen(method: str) -> dict[str, Any]:
    """Options: the layer by name where there is one, so that both nets are asked about the same."""
    entry = next(m for m in ox.methods() if m["name"] == method)
    layer = {"layer": "a2"} if isinstance(entry["options"].get("layer"), str) else {}
    return {**METHODS[method], **layer}


def assert_same(method: str, many: onnx.ModelProto, one: onnx.ModelProto, target: ox.Target) -> None:
    options = chosen(method)
    found = ox.explain(many, X, method=method, target=target, seed=1, threads=1, **options)
    wanted = ox.explain(one, X, method=method, seed=1, threads=1, **options)
    np.testing.assert_allclose(found.score, wanted.score, rtol=1e-5)
    assert found.saliency is not None and wanted.saliency is not None and found.saliency.shape == (1, 8, 8)
    pairs = [(found.saliency, wanted.saliency)]
    pairs += list(zip(found.attributions.values(), wanted.attributions.values(), strict=True))
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-9, rtol=0)


@pytest.mark.parametrize("method", serving())
def test_region_of_a_segmentation(method: str) -> None:
    assert_same(method, segmenter(False), segmenter(True), ox.Target.region(MASK, CLASS))


@pytest.mark.parametrize("method", serving())
def test_box_of_a_detector(method: str) -> None:
    rows = np.asarray(ReferenceEvaluator(detector(False)).run(None, {"x": X})[0])[0]
    assert_same(method, detector(False), detector(True), ox.Target.box(rows[PLACE, :4].tolist(), CLASS))


@pytest.mark.parametrize(
    ("make", "target", "words"),
    [
        (segmenter, ox.Target.region(MASK, CLASS), "before 'y_node' (Conv) makes the prediction"),
        (detector, (PLACE, 4 + CLASS), "before 'head_node' (Conv) makes the prediction"),
    ],
)
def test_the_layer_in_front_of_a_dense_prediction(make: Any, target: Any, words: str) -> None:
    """Not the prediction itself, or what only moves and shifts it: the map would be the region that was asked for."""
    e = ox.explain(make(False), X, method="gradcam", target=target)
    assert e.saliency is not None and e.saliency.shape == (1, 8, 8)
    assert list(e.attributions) == ["a2"] and words in e.notes[0]
