"""Targets of every kind, and several in one run, against NumPy on nets whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import TargetError
from onnxplain.engine.rewrite import Slot

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 5))
X = RNG.normal(size=(4, 3)).astype(np.float32)


def linear() -> onnx.ModelProto:
    return model([node("MatMul", "x w", "y")], {"x": ["N", 3]}, {"y": ["N", 5]}, {"w": W})


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "occlusion"])
def test_the_k_largest_are_explained_one_by_one(method: str) -> None:
    found = ox.explain(linear(), X, method=method, target=ox.Target.top_k(3))
    order = np.argsort(-(X @ W), axis=1)
    assert len(found) == 3
    for rank, e in enumerate(found):
        alone = ox.explain(linear(), X, method=method, target=order[:, rank])
        assert e.target is not None
        assert e.target.tolist() == order[:, rank].tolist()
        np.testing.assert_allclose(e.attributions["x"], alone.attributions["x"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(e.score, alone.score, rtol=1e-5)


def test_several_targets_share_one_forward_pass() -> None:
    proto, x = fullgrad_net()
    explainer = ox.compile(proto, method="fullgrad")
    both = explainer(x, target=[ox.Target.index(0), ox.Target.index(1)])
    for target, e in enumerate(both):
        alone = explainer(x, target=target)
        np.testing.assert_allclose(e.map(), alone.map(), rtol=1e-6)
        assert e.score == pytest.approx(alone.score)
        assert e.terms is not None and alone.terms is not None
        np.testing.assert_allclose(e.terms.biases, alone.terms.biases, rtol=1e-6)
    forward = [n for n in explainer.program(Slot(), Slot()).model.graph if n.op_type == "Relu"]
    assert len(forward) == 2, "the net's two, once each"


def test_targets_of_several_kinds_and_outputs_in_one_run() -> None:
    nodes = [node("MatMul", "x w", "y"), node("Exp", "x", "e")]
    proto = model(nodes, {"x": ["N", 3]}, {"y": ["N", 5], "e": ["N", 3]}, {"w": W})
    weights = RNG.normal(size=3)
    targets = [ox.Target.margin(1, 4), ox.Target.weights(weights, "e"), ox.Target.index(2), ox.Target.rank(0, "e")]
    found = ox.explain(proto, X, method="gradient", target=targets)
    np.testing.assert_allclose(found[0].attributions["x"], np.tile(W[:, 1] - W[:, 4], (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(found[1].attributions["x"], weights * np.exp(X), rtol=1e-5)
    np.testing.assert_allclose(found[2].attributions["x"], np.tile(W[:, 2], (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(found[3].attributions["x"], np.eye(3)[X.argmax(axis=1)] * np.exp(X), rtol=1e-5)
    assert [e.output for e in found] == ["y", "e", "y", "e"]
    assert found[0].summary()["target"] == "margin of 1 over 4"


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "dot", "distance"])
def test_similarity_to_a_reference(metric: Any, per_sample: bool) -> None:
    reference = RNG.normal(size=(4, 5) if per_sample else 5)
    e = ox.explain(linear(), X, method="gradient", target=ox.Target.similarity(reference, metric))
    r = np.broadcast_to(reference, (4, 5))
    y = X.astype(np.float64) @ W
    length = np.linalg.norm(y, axis=1, keepdims=True)
    other = np.linalg.norm(r, axis=1, keepdims=True)
    dot = (y * r).sum(axis=1, keepdims=True)
    expected = {
        "cosine": (dot / (length * other), r / (length * other) - dot * y / (length**3 * other)),
        "dot": (dot, r),
        "distance": (-((y - r) ** 2).sum(axis=1, keepdims=True), -2 * (y - r)),
    }[metric]
    np.testing.assert_allclose(e.score, expected[0][:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(e.attributions["x"], expected[1] @ W.T, rtol=1e-4, atol=1e-6)
    assert e.target is None
    assert "reference" in e.target_words


def test_full_gradient_of_a_similarity_is_complete() -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="fullgrad", target=ox.Target.similarity([1.0, 2.0]))
    assert e.residual is not None and e.residual.ok
    with pytest.raises(TargetError, match=r"reference of shape \(3,\) do not fit"):
        ox.explain(proto, x, method="gradient", target=ox.Target.similarity([1.0, 2.0, 3.0]))
    with pytest.raises(TargetError, match="margin head"):
        ox.explain(proto, x, method="gradient", head="margin", target=ox.Target.similarity([1.0, 2.0]))


def segmenter() -> onnx.ModelProto:
    """Three classes per place, each the picture times a number of its own."""
    w = np.array([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1)
    return model([node("Conv", "x w", "y")], {"x": ["N", 1, 4, 5]}, {"y": ["N", 3, 4, 5]}, {"w": w})


def test_region_of_a_segmentation() -> None:
    x = RNG.normal(size=(2, 1, 4, 5)).astype(np.float32)
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:] = True
    e = ox.explain(segmenter(), x, method="input_x_gradient", target=ox.Target.region(mask, 1))
    np.testing.assert_allclose(e.attributions["x"][:, 0], -2.0 * x[:, 0] * mask, rtol=1e-6)
    own = ox.explain(segmenter(), x, method="input_x_gradient", target=ox.Target.region(mask))
    np.testing.assert_allclose(own.attributions["x"][:, 0], np.maximum(x[:, 0], -2 * x[:, 0]) * mask, rtol=1e-6)


BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 20], [30, 30, 40, 45]], np.float32)


def detector(after_nms: bool) -> onnx.ModelProto:
    """Three fixed boxes; scores of two classes per box are linear in the input."""
    w = np.arange(18, dtype=np.float32).reshape(3, 6) / 10
    nodes = [
        node("MatMul", "x w", "flat"),
        node("Reshape", "flat shape", "scores"),
        node("Shape", "x", "sizes"),
        node("Gather", "sizes zero", "n"),
        node("Concat", "n rest", "full", axis=0),
        node("Expand", "boxes full", "found"),
    ]
    weights = {"w": w, "shape": np.array([-1, 3, 2]), "zero": np.array([0]), "rest": np.array([3, 4])}
    outputs: dict[str, list[Any]] = {"found": ["N", 3, 4], "scores": ["N", 3, 2]}
    if after_nms:
        nodes += [
            node("Transpose", "scores", "by_class", perm=[0, 2, 1]),
            node("NonMaxSuppression", "found by_class most", "chosen"),
            node("Gather", "chosen column", "which", axis=1),
            node("Squeeze", "found batch_axis", "all_boxes"),
            node("Gather", "all_boxes which", "left", axis=0),
            node("Squeeze", "scores batch_axis", "all_scores"),
            node("Gather", "all_scores which", "rated", axis=0),
        ]
        weights |= {"most": np.array([1]), "column": np.array(2), "batch_axis": np.array([0])}
        outputs = {"left": ["M", 4], "rated": ["M", 2]}
    weights["boxes"] = BOXES[None]
    return model(nodes, {"x": ["N", 3]}, outputs, weights)


def expected_score(box: int, kind: int) -> Array:
    return np.arange(18).reshape(3, 3, 2)[:, box, kind] / 10


def test_box_before_suppression() -> None:
    x = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]], np.float32)
    e = ox.explain(
        detector(False), x, method="gradient", target=ox.Target.box([4, 6, 19, 20], 0, boxes="found", scores="scores")
    )
    np.testing.assert_allclose(e.attributions["x"], [expected_score(1, 0)] * 2, rtol=1e-6)
    assert e.output == "scores"
    with pytest.raises(TargetError, match="no detection overlaps the box enough"):
        ox.explain(detector(False), x, target=ox.Target.box([90, 90, 99, 99], boxes="found", scores="scores"))


def test_box_after_suppression() -> None:
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    target = ox.Target.box([30, 30, 41, 46], boxes="left", scores="rated")
    e = ox.explain(detector(True), x, method="gradient", target=target)
    np.testing.assert_allclose(e.attributions["x"], [expected_score(2, 1)], rtol=1e-6)
    weights = ox.Target.weights(np.ones((3, 2)), "rated", whole=True)
    with pytest.raises(TargetError, match="one sample at a time"):
        ox.explain(detector(True), np.repeat(x, 2, axis=0), method="gradient", target=weights)


def test_one_number_for_the_whole_batch_belongs_to_a_single_sample() -> None:
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    proto = model([node("ReduceSum", "x", "y", keepdims=0)], {"x": ["N", 3]}, {"y": []})
    proto.graph.output[0].CopyFrom(info)
    e = ox.explain(proto, X[:1], method="gradient", target=ox.Target.weights(2.0, "y", whole=True))
    np.testing.assert_allclose(e.attributions["x"], [[2.0, 2.0, 2.0]])
