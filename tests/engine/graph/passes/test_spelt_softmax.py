"""A softmax in its parts: which forms of it end in logits, and which look like it and do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox

W = np.random.default_rng(0).normal(size=(4, 3))
X = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
LOGITS = X.astype(np.float64) @ W
P = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)

SPREAD = [node("Shape", "z", "all"), node("Slice", "all zero one", "n"), node("Concat", "n one", "column", axis=0)]
MAXIMUM = [node("ReduceMax", "z one", "m", keepdims=1), node("Sub", "z m", "s"), node("Exp", "s", "e")]
FORMS = {
    "plain": [node("Exp", "z", "e"), node("ReduceSum", "e one", "t", keepdims=1), node("Div", "e t", "y")],
    "maximum": [*MAXIMUM, node("ReduceSum", "e last", "t", keepdims=1), node("Div", "e t", "y")],
    "rearranged": [*MAXIMUM, node("ReduceSum", "e one", "t", keepdims=1), node("Div", "e t", "p"), node("Flatten", "p", "y")],
    "jax": [
        *SPREAD, node("ReduceMax", "z one", "m", keepdims=0), node("Max", "low m", "m2"), node("Reshape", "m2 column", "c"),
        node("Expand", "c column", "m3"), node("Sub", "z m3", "s"), node("Exp", "s", "e"),
        node("ReduceSum", "e one", "t", keepdims=0), node("Reshape", "t column", "t2"), node("Expand", "t2 column", "t3"),
        node("Div", "e t3", "y"),
    ],
    "log": [node("ReduceLogSumExp", "z one", "m", keepdims=1), node("Sub", "z m", "s"), node("Exp", "s", "y")],
    "log of a vector": [
        node("ReduceLogSumExp", "z last", "m", keepdims=0), node("Reshape", "m two", "c"), node("Sub", "z c", "s"),
        node("Exp", "s", "y"),
    ],
}  # fmt: skip
OTHERS = {
    "another exponential below": [
        node("Exp", "z", "e"), node("Neg", "z", "o"), node("Exp", "o", "f"), node("ReduceSum", "f one", "t", keepdims=1),
        node("Div", "e t", "y"),
    ],
    "a sum over the batch": [node("Exp", "z", "e"), node("ReduceSum", "e zero", "t", keepdims=1), node("Div", "e t", "y")],
    "a sum over everything": [node("Exp", "z", "e"), node("ReduceSum", "e", "t", keepdims=1), node("Div", "e t", "y")],
    "a logarithm of something else": [
        node("Neg", "z", "o"), node("ReduceLogSumExp", "o one", "m", keepdims=1), node("Sub", "z m", "s"),
        node("Exp", "s", "y"),
    ],
    "a logarithm over the batch": [
        node("ReduceLogSumExp", "z zero", "m", keepdims=1), node("Sub", "z m", "s"), node("Exp", "s", "y")
    ],
    "inside": [*FORMS["plain"][:2], node("Div", "e t", "p"), node("Mul", "p p", "y")],
}  # fmt: skip


def net(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    weights = {
        "w": W, "two": np.array([-1, 1]), "zero": np.array([0]), "one": np.array([1]), "last": np.array([-1]),
        "low": np.array(-np.inf),
    }  # fmt: skip
    return model([node("MatMul", "x w", "z"), *nodes], {"x": ["N", 4]}, {"y": ["N", 3]}, weights)


@pytest.mark.parametrize("form", FORMS)
def test_the_logit_in_front_is_explained(form: str) -> None:
    e = ox.explain(net(FORMS[form]), X, method="gradient", target=1)
    assert "Softmax" in e.head_note
    np.testing.assert_allclose(e.score, LOGITS[:, 1], rtol=1e-5)
    np.testing.assert_allclose(e.attributions["x"], np.broadcast_to(W[:, 1], X.shape), rtol=1e-5)
    np.testing.assert_allclose(e.outputs["y"], P, rtol=1e-5)
    probability = ox.explain(net(FORMS[form]), X, method="gradient", target=1, head="probability")
    np.testing.assert_allclose(probability.attributions["x"], P[:, 1:2] * ((np.arange(3) == 1) - P) @ W.T, rtol=1e-4)


@pytest.mark.parametrize("form", OTHERS)
def test_what_only_looks_like_it_stays(form: str) -> None:
    e = ox.explain(net(OTHERS[form]), X, method="gradient", target=1)
    assert e.head_note == ""
    np.testing.assert_allclose(e.score, e.outputs["y"][:, 1], rtol=1e-6)


def test_a_shift_that_differs_along_the_axis_belongs_to_the_logits() -> None:
    nodes = [node("Sub", "z shift", "s"), *FORMS["plain"]]
    nodes[1] = node("Exp", "s", "e")
    proto = net(nodes)
    shift = np.array([[1.0, 2.0, 3.0]], np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(shift, "shift"))
    e = ox.explain(proto, X, method="gradient", target=1)
    np.testing.assert_allclose(e.score, LOGITS[:, 1] - 2, rtol=1e-5)


PAIR = [node("Sigmoid", "z", "p"), node("Sub", "unit p", "q"), node("Concat", "q p", "y", axis=1)]


def pair(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    weights = {"w": W[:, :1], "unit": np.array(1.0, np.float32), "two": np.array(2.0, np.float32)}
    return model([node("MatMul", "x w", "z"), *nodes], {"x": ["N", 4]}, {"y": ["N", 2]}, weights)


def test_two_probabilities_of_one_score() -> None:
    z = LOGITS[:, :1]
    for target, sign in ((0, -1.0), (1, 1.0)):
        e = ox.explain(pair(PAIR), X, method="gradient", target=target)
        assert "Sigmoid" in e.head_note
        np.testing.assert_allclose(e.score, sign * z[:, 0], rtol=1e-5)
        np.testing.assert_allclose(e.attributions["x"], np.broadcast_to(sign * W[:, 0], X.shape), rtol=1e-5)
        np.testing.assert_allclose(e.outputs["y"], 1 / (1 + np.exp(np.concatenate([z, -z], axis=1))), rtol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        [PAIR[0], node("Sub", "two p", "q"), PAIR[2]],
        [PAIR[0], PAIR[1], node("Concat", "p q", "y", axis=1)],
        [node("Tanh", "z", "p"), *PAIR[1:]],
    ],
    ids=["from two", "the other way round", "another function"],
)
def test_what_only_looks_like_such_a_pair_stays(nodes: list[onnx.NodeProto]) -> None:
    e = ox.explain(pair(nodes), X, method="gradient", target=1)
    assert e.head_note == ""
    np.testing.assert_allclose(e.score, e.outputs["y"][:, 1], rtol=1e-6)
