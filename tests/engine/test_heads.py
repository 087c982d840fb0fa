"""Logit, probability, log-probability and margin against NumPy, through whatever follows a Softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import forest, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError, TargetError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.heads import HEADS, trailing_activation
from onnxplain.engine.rewrite import Rewriter

Array = np.ndarray[Any, Any]
W = np.array([[1.0, -2.0, 0.5], [0.3, 0.7, -1.1]])
B = np.array([0.2, -0.1, 0.4])
X = np.array([[0.5, -1.5], [2.0, 0.3], [-0.7, -0.2]], np.float32)
LOGITS = X.astype(np.float64) @ W + B

#: What may stand behind the logits, and what the output then is.
TAILS = {
    "none": [node("Identity", "z", "y")],
    "softmax": [node("Softmax", "z", "y", axis=1)],
    "log_softmax": [node("LogSoftmax", "z", "y", axis=-1)],
    "softmax_reshape": [node("Softmax", "z", "p", axis=1), node("Reshape", "p shape", "y")],
    "softmax_flatten": [node("Softmax", "z", "p", axis=1), node("Flatten", "p", "y")],
    "softmax_unsqueeze_squeeze": [
        node("Softmax", "z", "p", axis=1), node("Unsqueeze", "p axes", "u"), node("Squeeze", "u axes", "y"),
    ],
    "sigmoid": [node("Sigmoid", "z", "y")],
    "sigmoid_reshape": [node("Sigmoid", "z", "p"), node("Reshape", "p shape", "y")],
}  # fmt: skip
ENDS = {"none": "", "softmax": "Softmax", "log_softmax": "LogSoftmax", "sigmoid": "Sigmoid"}


def net(tail: str) -> onnx.ModelProto:
    return model(
        [node("Gemm", "x w b", "z"), *TAILS[tail]],
        {"x": ["N", 2]},
        {"y": ["N", 3]},
        {"w": W, "b": B, "shape": np.array([0, 3]), "axes": np.array([2])},
    )


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def expected(head: str, tail: str, target: int) -> tuple[Array, Array]:
    """Score and gradient by the logits, both by hand."""
    z, one = LOGITS, np.eye(3)[target]
    n = np.arange(len(z))
    if head == "logit":
        return z[:, target], np.broadcast_to(one, z.shape)
    if head == "margin":
        rest = z.copy()
        rest[:, target] = -np.inf
        second = rest.argmax(axis=1)
        return z[:, target] - z[n, second], one - np.eye(3)[second]
    p = 1 / (1 + np.exp(-z)) if tail.startswith("sigmoid") else softmax(z)
    if tail.startswith("sigmoid"):
        slope = (p * (1 - p) if head == "probability" else 1 - p) * one
    else:
        slope = (p[:, [target]] if head == "probability" else 1) * (one - p)
    return (p if head == "probability" else np.log(p))[:, target], slope


@pytest.mark.parametrize("target", [0, 2])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tail", TAILS)
def test_score_and_gradient(tail: str, head: str, target: int) -> None:
    e = ox.explain(net(tail), X, method="gradient", target=target, head=head)
    score, slope = expected(head, tail, target)
    np.testing.assert_allclose(e.score, score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(e.attributions["x"], slope @ W.T, rtol=1e-4, atol=1e-6)
    assert e.head == head


@pytest.mark.parametrize("tail", TAILS)
def test_the_logit_is_the_default_and_the_result_says_so(tail: str) -> None:
    e = ox.explain(net(tail), X, method="gradient")
    np.testing.assert_allclose(e.score, LOGITS.max(axis=1), rtol=1e-5)
    assert e.head == "logit"
    end = ENDS[tail.split("_reshape")[0].split("_flatten")[0].split("_unsqueeze")[0]]
    assert (end in e.head_note) if end else e.head_note == ""


@pytest.mark.parametrize("tail", TAILS)
def test_full_gradient_is_complete_in_front_of_the_activation_and_behind_it(tail: str) -> None:
    for head in HEADS:
        e = ox.explain(net(tail), X, method="fullgrad", head=head)
        assert e.residual is not None
        assert e.residual.relative.max() < 1e-5


def test_a_saturated_probability_has_no_gradient_and_the_logit_has() -> None:
    x = np.array([[60.0, -60.0]], np.float32)
    probability = ox.explain(net("softmax"), x, method="gradient", head="probability")
    logit = ox.explain(net("softmax"), x, method="gradient")
    assert np.abs(probability.attributions["x"]).max() < 1e-12
    assert np.abs(logit.attributions["x"]).max() > 0.1
    assert not np.isnan(probability.attributions["x"]).any()


@pytest.mark.parametrize(
    ("nodes", "found", "between"),
    [
        ([node("Softmax", "z", "y")], "Softmax", 0),
        ([node("Sigmoid", "z", "p"), node("Reshape", "p shape", "q"), node("Flatten", "q", "y")], "Sigmoid", 2),
        ([node("Softmax", "z", "p"), node("Mul", "p two", "y")], None, 0),
        ([node("Softmax", "z", "p"), node("Transpose", "p", "y")], None, 0),
        ([node("Relu", "z", "y")], None, 0),
    ],
    ids=["direct", "rearranged", "scaled", "transposed", "other"],
)
def test_what_counts_as_trailing(nodes: list[onnx.NodeProto], found: str | None, between: int) -> None:
    """Only what merely rearranges the result is looked through; anything that computes ends the search."""
    proto = model(
        [node("Gemm", "x w b", "z"), *nodes], {"x": [3, 2]}, {"y": [3, 3]},
        {"w": W, "b": B, "shape": np.array([0, 3]), "two": np.array(2.0)},
    )  # fmt: skip
    activation, rest = trailing_activation(Rewriter(canonicalise(read_model(proto))).output_value())
    assert (activation.op_type if activation is not None else None) == found
    assert len(rest) == between


def test_softmax_of_another_domain_is_not_recognised() -> None:
    mine = onnx.helper.make_node("Softmax", ["z"], ["y"], domain="com.example")
    proto = model(
        [node("Gemm", "x w b", "z"), mine], {"x": ["N", 2]}, {"y": ["N", 3]}, {"w": W, "b": B}, domains=["com.example"]
    )
    assert trailing_activation(Rewriter(canonicalise(read_model(proto))).output_value())[0] is None


@pytest.mark.parametrize("shape", [["N", 1], ["N"]], ids=["column", "vector"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_one_class(shape: list[Any], sigmoid: bool) -> None:
    """A single logit's probability is its sigmoid, whether the model has one or not."""
    nodes = [node("MatMul", "x w", "z")]
    nodes += [node("Sigmoid", "z", "s")] if sigmoid else [node("Identity", "z", "s")]
    nodes += [node("Squeeze", "s axes", "y")] if len(shape) == 1 else [node("Identity", "s", "y")]
    proto = model(nodes, {"x": ["N", 2]}, {"y": shape}, {"w": W[:, :1], "axes": np.array([1])})
    z = (X.astype(np.float64) @ W[:, :1])[:, 0]
    p = 1 / (1 + np.exp(-z))
    for head, score, slope in [
        ("logit", z, np.ones_like(z)), ("probability", p, p * (1 - p)), ("log_probability", np.log(p), 1 - p),
    ]:  # fmt: skip
        e = ox.explain(proto, X, method="gradient", head=head)
        np.testing.assert_allclose(e.score, score, rtol=1e-5)
        np.testing.assert_allclose(e.attributions["x"], slope[:, None] * W[:, 0], rtol=1e-5)
    with pytest.raises(TargetError, match="at least two classes"):
        ox.explain(proto, X, method="gradient", head="margin")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("head", ["probability", "log_probability"])
def test_how_many_classes_there_are_is_known_when_the_model_runs(count: int, head: str) -> None:
    """The number of columns is the product of an operand: one is a sigmoid's, several are a softmax's."""
    nodes = [
        node("MatMul", "x w", "z"),
        node("Shape", "z", "s"),
        node("Mul", "s one", "t"),
        node("Reshape", "z t", "y"),
    ]
    proto = model(nodes, {"x": ["N", 2], "w": [2, "K"]}, {"y": ["N", "K"]}, {"one": np.array([1, 1])})
    e = ox.explain(
        proto, {"x": X, "w": W[:, :count].astype(np.float32)}, method="gradient", head=head, wrt="x", target=0
    )
    z = X.astype(np.float64) @ W[:, :count]
    p = softmax(z) if count > 1 else 1 / (1 + np.exp(-z))
    first = p[:, :1] if count > 1 else p
    slope = first * ((np.arange(count) == 0) - p) if count > 1 else p * (1 - p)
    if head == "log_probability":
        slope = slope / first
    np.testing.assert_allclose(e.score, (first if head == "probability" else np.log(first))[:, 0], rtol=1e-5)
    np.testing.assert_allclose(e.attributions["x"], slope @ W[:, :count].T, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("head", "word"), [(None, "output"), ("margin", "margin")])
@pytest.mark.parametrize("reshaped", [False, True])
def test_the_score_of_a_tree_is_not_called_a_logit(head: str | None, word: str, reshaped: bool) -> None:
    proto = forest()
    if reshaped:
        proto.graph.output[1].name = "flat"
        proto.graph.node.append(node("Flatten", "probabilities", "flat"))
    e = ox.explain(proto, X, method="occlusion", head=head)
    np.testing.assert_allclose(e.score, [0.9, 0.9, 0.9] if head is None else [0.8] * 3, rtol=1e-6)
    assert (e.head, e.head_note) == (word, "")


def test_a_sigmoid_behind_a_tree_has_a_logit_in_front() -> None:
    proto = forest()
    proto.graph.output[1].name = "p"
    proto.graph.node.append(node("Sigmoid", "probabilities", "p"))
    e = ox.explain(proto, X, method="occlusion")
    np.testing.assert_allclose(e.score, [0.9] * 3, rtol=1e-6)
    assert (e.head, "the logit in front of it" in e.head_note) == ("logit", True)


@pytest.mark.parametrize(
    ("weights", "transform", "expected"),
    [
        ([0.9, 0.1, 0.2, 0.8], "NONE", 0.9),  # shares are probabilities
        ([1.5, -1.5, -2.0, 2.0], "SOFTMAX", softmax(np.array([[1.5, -1.5]]))[0, 0]),  # as the operator gives them
        ([1.5, -1.5, -2.0, 2.0], "NONE", softmax(np.array([[1.5, -1.5]]))[0, 0]),  # sums of both signs are logits
    ],
)
def test_probabilities_of_trees(weights: list[float], transform: str, expected: float) -> None:
    proto = forest()
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == "class_weights":
            attribute.floats[:] = weights
        if attribute.name == "post_transform":
            attribute.s = transform.encode()
    e = ox.explain(proto, X, method="occlusion", head="probability", target=0)
    np.testing.assert_allclose(e.score, [expected] * 3, rtol=1e-6)


def test_shares_in_doubles_are_probabilities_too() -> None:
    proto = forest()
    attributes = proto.graph.node[0].attribute
    kept = [a for a in attributes if a.name not in ("class_weights", "nodes_values")]
    del attributes[:]
    attributes.extend(kept)
    for name, values in (("class_weights", [0.9, 0.1, 0.2, 0.8]), ("nodes_values", [0.5, 0.0, 0.0])):
        tensor = onnx.numpy_helper.from_array(np.array(values), name)
        attributes.append(onnx.helper.make_attribute(f"{name}_as_tensor", tensor))
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    next(o for o in proto.opset_import if o.domain == "ai.onnx.ml").version = 3  # the first with these attributes
    e = ox.explain(proto, X.astype(np.float64), method="occlusion", head="probability", target=0)
    np.testing.assert_allclose(e.score, [0.9] * 3, rtol=1e-6)


def test_shares_have_no_logarithm() -> None:
    with pytest.raises(OptionError, match="may be 0, which has no logarithm; use head='probability'"):
        ox.explain(forest(), X, method="occlusion", head="log_probability")


def test_margin_needs_an_index() -> None:
    with pytest.raises(TargetError, match="margin head needs a class index"):
        ox.explain(net("none"), X, method="gradient", head="margin", target=ox.Target.weights([1.0, 0.0, 0.0]))


def test_unknown_head() -> None:
    with pytest.raises(OptionError, match="unknown head 'odds'; choose one of logit, probability"):
        ox.explain(net("none"), X, method="gradient", head="odds")
