"""Operators of ai.onnx.ml against NumPy: the same answers as onnxruntime, and gradients against differences.

The functions here are written from the operators' definitions; where the standard leaves a choice, they are
held against onnxruntime as well, whose answer is the one that is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import onnxplain as ox
from onnxplain.engine.errors import BlockedGradientError, UnsupportedNodeError
from onnxplain.engine.vjp import vjp

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
X = RNG.normal(size=(5, 4)).astype(np.float32)
W = RNG.normal(size=(3, 4)).astype(np.float32)
B = RNG.normal(size=3).astype(np.float32)
VECTORS = RNG.normal(size=(5, 4)).astype(np.float32)
ALPHA = RNG.normal(size=(2, 5)).astype(np.float32)
MISSING = np.where(RNG.uniform(size=X.shape) < 0.3, np.nan, X).astype(np.float32)


def model(
    op_type: str, x: Array, outputs: int, behind: list[onnx.NodeProto] | None = None, **attributes: Any
) -> onnx.ModelProto:
    """One operator of ai.onnx.ml, its last result (or that of the nodes behind it) in ``y``."""
    names = [f"r{i}" for i in range(outputs - 1)] + ["s" if behind else "y"]
    nodes = [helper.make_node(op_type, ["x"], names, domain="ai.onnx.ml", name="it", **attributes), *(behind or [])]
    results = [
        *(helper.make_empty_tensor_value_info(n) for n in names[:-1]),
        helper.make_tensor_value_info("y", 1, None),
    ]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", *x.shape[1:]])], results)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def plain(proto: onnx.ModelProto, x: Array) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def linear(x: Array) -> Array:
    return np.asarray(x @ W.T.astype(np.float64) + B)


def kernel(x: Array, kind: str) -> Array:
    inner = x @ VECTORS.T.astype(np.float64)
    if kind == "RBF":
        return np.asarray(np.exp(-0.4 * ((x[:, None] - VECTORS) ** 2).sum(axis=2)))
    return np.asarray({"LINEAR": inner, "POLY": (0.4 * inner + 0.1) ** 3, "SIGMOID": np.tanh(0.4 * inner + 0.1)}[kind])


def decisions(x: Array, per_class: list[int], kind: str) -> Array:
    """One against one: the vectors of both classes with the coefficients against each other."""
    k, ends, columns = kernel(x, kind), np.cumsum([0, *per_class]), []
    for i in range(len(per_class)):
        for j in range(i + 1, len(per_class)):
            one, two = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            columns.append(k[:, one] @ ALPHA[j - 1, one] + k[:, two] @ ALPHA[i, two] + B[len(columns)])
    return np.stack(columns, axis=1)


LINEAR = {"coefficients": W.ravel().tolist(), "intercepts": B.tolist()}
ONE = {"coefficients": W[0].tolist(), "intercepts": B[:1].tolist(), "classlabels_ints": [3, 8]}
SVM = {"kernel_params": [0.4, 0.1, 3.0], "support_vectors": VECTORS.ravel().tolist()}
PAIR = {**SVM, "kernel_type": "RBF", "vectors_per_class": [2, 3], "classlabels_ints": [0, 1], "rho": B[:1].tolist(),
        "coefficients": ALPHA[0].tolist()}  # fmt: skip
THREE = {**SVM, "vectors_per_class": [2, 1, 2], "classlabels_strings": ["a", "b", "c"], "rho": B.tolist(),
         "coefficients": ALPHA.ravel().tolist()}  # fmt: skip


def both(s: Array) -> Array:
    return np.concatenate([-s, s], axis=1)


def one(x: Array) -> Array:
    return linear(x)[:, :1]


def regression(kind: str) -> Callable[[Array], Array]:
    return lambda x: np.asarray((kernel(x, kind) @ ALPHA[0] + 0.3)[:, None])


Entry = tuple[str, int, dict[str, Any], Callable[[Array], Array]]
SERVED: dict[str, Entry] = {
    "scaler": ("Scaler", 1, {"offset": B[:1].tolist() * 4, "scale": [2.0, 0.5, -1.0, 3.0]},
               lambda x: (x - B[0]) * np.asarray([2.0, 0.5, -1.0, 3.0])),
    "scaler-one": ("Scaler", 1, {"offset": [0.5], "scale": [2.0]}, lambda x: (x - 0.5) * 2),
    "largest": ("Normalizer", 1, {"norm": "MAX"}, lambda x: x / x.max(axis=1, keepdims=True)),
    "magnitude": ("Normalizer", 1, {"norm": "L1"}, lambda x: x / np.abs(x).sum(axis=1, keepdims=True)),
    "length": ("Normalizer", 1, {"norm": "L2"}, lambda x: x / np.sqrt((x * x).sum(axis=1, keepdims=True))),
    "regressor": ("LinearRegressor", 1, {**LINEAR, "targets": 3}, linear),
    "regressor-bare": ("LinearRegressor", 1, {"coefficients": W[0].tolist()}, lambda x: x @ W[:1].T.astype(np.float64)),
    "regressor-softmax": ("LinearRegressor", 1, {**LINEAR, "targets": 3, "post_transform": "SOFTMAX"},
                          lambda x: softmax(linear(x))),
    "classifier": ("LinearClassifier", 2, {**LINEAR, "classlabels_ints": [1, 5, 2]}, linear),
    "classifier-softmax": ("LinearClassifier", 2, {**LINEAR, "classlabels_strings": ["a", "b", "c"],
                                                   "post_transform": "SOFTMAX"}, lambda x: softmax(linear(x))),
    "classifier-logistic": ("LinearClassifier", 2, {**LINEAR, "classlabels_ints": [1, 5, 2], "post_transform": "LOGISTIC"},
                            lambda x: sigmoid(linear(x))),
    "classifier-one": ("LinearClassifier", 2, ONE, lambda x: np.concatenate([1 - one(x), one(x)], axis=1)),
    "classifier-one-logistic": ("LinearClassifier", 2, {**ONE, "post_transform": "LOGISTIC"},
                                lambda x: sigmoid(both(one(x)))),
    "svr-without-vectors": ("SVMRegressor", 1, {"coefficients": W[0].tolist(), "rho": [0.3], "kernel_type": "LINEAR",
                                                "kernel_params": [0.0, 0.0, 0.0]},
                            lambda x: x @ W[:1].T.astype(np.float64) + 0.3),
    "svc": ("SVMClassifier", 2, PAIR, lambda x: both(decisions(x, [2, 3], "RBF"))),
    "svc-logistic": ("SVMClassifier", 2, {**PAIR, "post_transform": "LOGISTIC"},
                     lambda x: sigmoid(both(decisions(x, [2, 3], "RBF")))),
    "svc-three": ("SVMClassifier", 2, {**THREE, "kernel_type": "RBF"}, lambda x: decisions(x, [2, 1, 2], "RBF")),
    "svc-three-softmax": ("SVMClassifier", 2, {**THREE, "kernel_type": "LINEAR", "post_transform": "SOFTMAX"},
                          lambda x: softmax(decisions(x, [2, 1, 2], "LINEAR"))),
    "svc-without-vectors": ("SVMClassifier", 2, {"coefficients": W.ravel().tolist(), "rho": [0.3], "kernel_type": "LINEAR",
                                                 "kernel_params": [0.0] * 3, "classlabels_ints": [0, 1, 2]},
                            lambda x: x @ W.T.astype(np.float64) + 0.3),
    **{
        f"svr-{kind.lower()}": ("SVMRegressor", 1, {**SVM, "kernel_type": kind, "n_supports": 5, "rho": [0.3],
                                                    "coefficients": ALPHA[0].tolist()}, regression(kind))
        for kind in ("LINEAR", "POLY", "RBF", "SIGMOID")
    },
}  # fmt: skip


@pytest.mark.parametrize("entry", SERVED.values(), ids=SERVED)
def test_answers_stay_and_gradients_are_those_of_the_definition(entry: Entry) -> None:
    op_type, outputs, attributes, function = entry
    proto = model(op_type, X, outputs, **attributes)
    before = plain(proto, X)
    np.testing.assert_allclose(before[-1], function(X.astype(np.float64)), rtol=2e-5, atol=2e-6)
    seed = RNG.normal(size=before[-1].shape).astype(np.float32)
    found = vjp(proto, {"x": X}, {"y": seed})["x"]
    for _ in range(3):
        v, h = RNG.normal(size=X.shape), 1e-5
        slope = np.vdot(seed, function(X + h * v) - function(X - h * v)) / (2 * h)
        # float32 gradients: 24 bits through a few operators
        assert np.vdot(found, v) == pytest.approx(slope, rel=1e-4, abs=1e-4)
    rewritten = ox.compile(proto, method="fullgrad", output="y")
    assert rewritten.model is not None
    e = rewritten(X)
    assert e.residual is not None and e.residual.relative.max() < 1e-5


def test_a_label_is_still_given_by_the_operator(tmp_path: Path) -> None:
    """The file that is handed on answers both; no gradient leads to a label."""
    proto = model("SVMClassifier", X, 2, **THREE, kernel_type="RBF")
    ox.compile(proto, method="gradient", output="y").save(tmp_path / "it.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx", providers=["CPUExecutionProvider"])
    label, scores = session.run(["r0", "y"], {"x": X, "target": np.full(5, -1, np.int64)})
    before = plain(proto, X)
    assert label.tolist() == before[0].tolist()
    np.testing.assert_allclose(scores, before[1], rtol=1e-5, atol=1e-6)


def test_what_is_missing_passes_no_gradient_on() -> None:
    proto = model("Imputer", MISSING, 1, imputed_value_floats=[1.0, 2.0, 3.0, 4.0], replaced_value_float=float("nan"))
    np.testing.assert_array_equal(plain(proto, MISSING)[0], np.where(np.isnan(MISSING), [1, 2, 3, 4], MISSING))
    found = vjp(proto, {"x": MISSING}, {"y": np.full_like(MISSING, 2.0)})["x"]
    np.testing.assert_array_equal(found, np.where(np.isnan(MISSING), 0, 2))


@pytest.mark.parametrize("width", [2, 4, 6])
def test_columns_of_several_inputs_side_by_side(width: int) -> None:
    node = helper.make_node("FeatureVectorizer", ["x", "z"], ["y"], domain="ai.onnx.ml", inputdimensions=[width, 3])
    infos = [helper.make_tensor_value_info(n, 1, ["N", k]) for n, k in (("x", 4), ("z", 3))]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", 1, ["N", width + 3])])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    seed = RNG.normal(size=(5, width + 3)).astype(np.float32)
    found = vjp(proto, {"x": X, "z": X[:, :3]}, {"y": seed})
    np.testing.assert_array_equal(found["x"][:, : min(width, 4)], seed[:, : min(width, 4)])
    np.testing.assert_array_equal(found["x"][:, min(width, 4) :], 0)
    np.testing.assert_array_equal(found["z"], seed[:, width:])


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "one class": ("SVMRegressor", {**SVM, "kernel_type": "RBF", "n_supports": 5, "rho": [0.3], "one_class": 1,
                                   "coefficients": ALPHA[0].tolist()}, "sign of its score"),
    "probabilities": ("SVMClassifier", {**PAIR, "prob_a": [-1.0], "prob_b": [0.1]}, "stops early"),
    "probit": ("LinearClassifier", {**LINEAR, "classlabels_ints": [1, 5, 2], "post_transform": "PROBIT"}, "PROBIT"),
}  # fmt: skip


@pytest.mark.parametrize("entry", REFUSED.values(), ids=REFUSED)
def test_what_is_not_smooth_is_refused_in_words(entry: tuple[str, dict[str, Any], str]) -> None:
    op_type, attributes, words = entry
    proto = model(op_type, X, 2 if "Classifier" in op_type else 1, **attributes)
    with pytest.raises(UnsupportedNodeError, match=words) as raised:
        vjp(proto, {"x": X}, {"y": np.ones((5, 3), np.float32)})
    assert raised.value.hint


@pytest.mark.parametrize(
    ("attributes", "logits"),
    [
        ({**LINEAR, "classlabels_ints": [1, 5, 2], "post_transform": "SOFTMAX"}, linear),
        ({**ONE, "post_transform": "LOGISTIC"}, lambda x: both(one(x))),
    ],
    ids=["softmax", "logistic"],
)
def test_probabilities_that_are_normalised_again_keep_their_logits(
    attributes: dict[str, Any], logits: Callable[[Array], Array]
) -> None:
    """Converters put a Normalizer behind every classifier: a softmax sums to 1 as it is."""
    behind = [helper.make_node("Normalizer", ["s"], ["y"], domain="ai.onnx.ml", norm="L1")]
    proto = model("LinearClassifier", X, 2, behind, **attributes)
    e = ox.explain(proto, X, method="gradient", output="y", target=1)
    np.testing.assert_allclose(e.score, logits(X.astype(np.float64))[:, 1], rtol=1e-5)
    np.testing.assert_allclose(e.outputs["y"], plain(proto, X)[-1], rtol=1e-5)


def test_normalised_sigmoids_of_several_classes_are_no_softmax() -> None:
    behind = [helper.make_node("Normalizer", ["s"], ["y"], domain="ai.onnx.ml", norm="L1")]
    proto = model("LinearClassifier", X, 2, behind, **LINEAR, classlabels_ints=[1, 5, 2], post_transform="LOGISTIC")
    e = ox.explain(proto, X, method="gradient", output="y", target=1)
    np.testing.assert_allclose(e.score, plain(proto, X)[-1][:, 1], rtol=1e-5)


def test_scores_take_the_place_of_dictionaries() -> None:
    """What converters of classical models write by default: a linear model, normalised, as dictionaries."""
    behind = [
        helper.make_node("Normalizer", ["s"], ["p"], domain="ai.onnx.ml", norm="L1"),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[1, 5, 2]),
    ]
    proto = model("LinearClassifier", X, 2, behind, **LINEAR, classlabels_ints=[1, 5, 2], post_transform="LOGISTIC")
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    )
    proto.graph.output[-1].type.CopyFrom(kind)
    dictionaries = plain(proto, X)[-1]
    e = ox.explain(proto, X, method="gradient", output="y", target=1)
    assert e.score == pytest.approx([d[5] for d in dictionaries], rel=1e-5)
    direction = RNG.normal(size=X.shape)

    def shares(x: Array) -> Array:
        scores = sigmoid(linear(x))
        return np.asarray(scores[:, 1] / scores.sum(axis=1))

    slopes = (shares(X + 1e-5 * direction) - shares(X - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose((e.attributions["x"] * direction).sum(axis=1), slopes, rtol=1e-4, atol=1e-5)


def test_dictionaries_made_otherwise_are_refused_in_words() -> None:
    proto = model("DictVectorizer", X, 1, string_vocabulary=["a", "b"])
    proto.graph.input[0].type.CopyFrom(
        helper.make_map_type_proto(onnx.TensorProto.STRING, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    )
    with pytest.raises(ox.OnnxplainError, match="'x' holds dictionaries"):
        ox.load(proto).summary()


@pytest.mark.parametrize("op_type", ["TreeEnsembleRegressor", "Binarizer"])
def test_steps_are_told_with_the_methods_that_see_them(op_type: str) -> None:
    tree = {"n_targets": 1, "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
            "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.1, 0.0, 0.0], "target_treeids": [0, 0],
            "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "target_nodeids": [1, 2],
            "target_ids": [0, 0], "target_weights": [1.0, 2.0]}  # fmt: skip
    proto = model(op_type, X, 1, **(tree if op_type.startswith("Tree") else {"threshold": 0.1}))
    with pytest.raises(BlockedGradientError, match="occlusion"):
        ox.explain(proto, X, method="gradient")
    if op_type.startswith("Tree"):
        e = ox.explain(proto, X, method="occlusion")
        assert np.abs(e.attributions["x"][:, 1]).max() > 0
        np.testing.assert_array_equal(e.attributions["x"][:, [0, 2, 3]], 0)
