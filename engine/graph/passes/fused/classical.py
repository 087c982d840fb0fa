"""Operators of ai.onnx.ml that have a derivative: scalers, linear models, support vector machines.

They become what onnxruntime computes, which is where the standard leaves a choice: ``MAX`` of a Normalizer is the
largest value (not the largest magnitude), and the two scores of a binary classifier with one row of coefficients
are ``1 - s`` and ``s``. Labels are still given by the operator itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import Splitter, splits
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.rules.node import Primal

ML = "ai.onnx.ml"


def _splits(*op_types: str) -> Callable[[Splitter], Splitter]:
    return splits(*op_types, domain=ML)


def _rows(op: Builder, node: Primal) -> ir.Value:
    """The operand as float32 rows; a vector is one row."""
    x = node.x()
    if x.dtype is None:
        raise node.unsupported("the type of its input is known only at run time", "give the model's inputs types")
    count = node.rank()
    x = x if x.dtype == ir.DataType.FLOAT else op.Cast(x, to=ir.DataType.FLOAT.value)
    return op.Unsqueeze(x, [0]) if count == 1 else x


def _numbers(node: Primal, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(node.attribute(name, ()), np.float32)


def _parameter(op: Builder, node: Primal, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A constant under the name of the attribute that it is."""
    return op.constant(np.ascontiguousarray(array, np.float32), name=f"{node.name}/{name}")


def _transformed(op: Builder, node: Primal, scores: ir.Value) -> ir.Value:
    """``post_transform`` of several scores."""
    kind = str(node.attribute("post_transform", "NONE"))
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return op.Sigmoid(scores)
    if kind == "SOFTMAX":
        return op.Softmax(scores, axis=-1)
    raise node.unsupported(f"post_transform={kind}", "export the model with NONE, LOGISTIC or SOFTMAX")


def _pair(op: Builder, node: Primal, score: ir.Value, raw: bool) -> ir.Value:
    """The two scores of a binary classifier that has one; ``raw``: without a transform they are -s and s."""
    kind = str(node.attribute("post_transform", "NONE"))
    if kind == "LOGISTIC":
        return op.Sigmoid(op.Concat(op.Neg(score), score, axis=1))
    if kind not in ("NONE", "SOFTMAX", "SOFTMAX_ZERO"):
        raise node.unsupported(f"post_transform={kind}", "export the model with NONE, LOGISTIC or SOFTMAX")
    other = op.Neg(score) if raw and kind == "NONE" else op.Sub(1.0, score)
    return op.Concat(other, score, axis=1)


def _with_label(op: Builder, node: Primal, scores: ir.Value) -> list[ir.Value | None]:
    """Scores beside the label, which the operator itself gives where it is used."""
    label = node.outputs[0]
    if not label.uses() and not label.is_graph_output():
        return [None, scores]
    attributes = {name: attribute.value for name, attribute in node.ir.attributes.items()}
    return [op.emit(node.op_type, [node.x()], outputs=2, domain=ML, **attributes)[0], scores]


# ----- features ---------------------------------------------------------------------------------------


@_splits("ArrayFeatureExtractor")
def array_feature_extractor(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Columns by number."""
    x = op.Unsqueeze(node.x(), [0]) if node.rank() == 1 else node.x()
    return [op.Gather(x, op.Reshape(node.x(1), [-1]), axis=-1)]


@_splits("Scaler")
def scaler(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """(x - offset) · scale."""
    x = node.x() if node.x().dtype == ir.DataType.FLOAT else op.Cast(node.x(), to=ir.DataType.FLOAT.value)
    offset, scale = (_parameter(op, node, name, _numbers(node, name)) for name in ("offset", "scale"))
    return [op.Mul(op.Sub(x, offset), scale)]


@_splits("Normalizer")
def normalizer(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Rows over their largest value, the sum of their magnitudes, or their length; zeros stay."""
    x = node.x() if node.x().dtype == ir.DataType.FLOAT else op.Cast(node.x(), to=ir.DataType.FLOAT.value)
    kind = str(node.attribute("norm", "MAX"))
    reduce = {"MAX": op.ReduceMax, "L1": op.ReduceL1, "L2": op.ReduceL2}.get(kind)
    if reduce is None:
        raise node.unsupported(f"norm={kind}", "export the model with MAX, L1 or L2")
    if kind == "L1" and _is_distribution(x):
        return [op.Identity(x)]
    size = reduce(x, [-1], keepdims=1)
    return [op.Div(x, op.Where(op.Equal(size, 0.0), 1.0, size))]


def _is_distribution(x: ir.Value) -> bool:
    """Whether rows sum to 1 as they come: a softmax, or the sigmoids of a score and of its negative."""
    node = x.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Softmax":
        axis = node.attributes.get("axis")
        return axis is None or axis.as_int() in (-1, len(dims(x) or (0,)) - 1)
    pair = node.inputs[0].producer() if node.op_type == "Sigmoid" and node.inputs[0] is not None else None
    if pair is None or pair.op_type != "Concat" or len(pair.inputs) != 2 or pair.inputs[0] is None:
        return False
    negative = pair.inputs[0].producer()
    return negative is not None and negative.op_type == "Neg" and negative.inputs[0] is pair.inputs[1]


@_splits("Imputer")
def imputer(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """A value of its own for what is missing."""
    x, known = node.x(), node.attribute("imputed_value_floats", ())
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE) or not known:
        raise node.unsupported("it replaces integers", "integers have no gradient; explain what follows")
    missing = float(node.attribute("replaced_value_float", 0.0))
    where = op.IsNaN(x) if np.isnan(missing) else op.Equal(x, missing)
    return [op.Where(where, op.constant(np.asarray(known), x.dtype, name=f"{node.name}/imputed"), x)]


@_splits("FeatureVectorizer")
def feature_vectorizer(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Columns side by side, each block with the number of columns that it was declared to have."""
    blocks = []
    for i, wanted in enumerate(node.attribute("inputdimensions", ())):
        x = node.x(i) if node.x(i).dtype == ir.DataType.FLOAT else op.Cast(node.x(i), to=ir.DataType.FLOAT.value)
        known = dims(node.x(i))
        if known is None or len(known) != 2 or not isinstance(known[1], int):
            raise node.unsupported(f"its input {i} has an unknown number of columns", "give its inputs fixed sizes")
        if known[1] > wanted:
            x = op.Slice(x, [0], [int(wanted)], [1])
        elif known[1] < wanted:
            x = op.Pad(x, [0, int(wanted) - known[1]], None, [1])
        blocks.append(x)
    return [op.Concat(*blocks, axis=1)]


# ----- linear models ----------------------------------------------------------------------------------


def _linear(op: Builder, node: Primal, rows: int) -> ir.Value:
    """x coefficients^T + intercepts."""
    weights = _numbers(node, "coefficients").reshape(rows, -1).T
    scores = op.MatMul(_rows(op, node), _parameter(op, node, "coefficients", weights))
    added = _numbers(node, "intercepts")
    return op.Add(scores, _parameter(op, node, "intercepts", added)) if added.size else scores


@_splits("LinearRegressor")
def linear_regressor(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    targets = int(node.attribute("targets", 1))
    if targets == 1 and str(node.attribute("post_transform", "NONE")) != "NONE":
        raise node.unsupported("a post_transform of one target", "export the model with post_transform NONE")
    return [_transformed(op, node, _linear(op, node, targets))]


@_splits("LinearClassifier")
def linear_classifier(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    labels = len(node.attribute("classlabels_ints", ()) or node.attribute("classlabels_strings", ()))
    count = max(_numbers(node, "intercepts").size, 1) if _numbers(node, "intercepts").size else labels
    scores = _linear(op, node, count)
    single = count == 1 and labels == 2
    return _with_label(op, node, _pair(op, node, scores, raw=False) if single else _transformed(op, node, scores))


# ----- support vectors --------------------------------------------------------------------------------


def _kernel(op: Builder, node: Primal, vectors: np.ndarray[Any, Any]) -> ir.Value:
    """The kernel of every row with every support vector, ``[N, vectors]``."""
    x, kind = _rows(op, node), str(node.attribute("kernel_type", "LINEAR"))
    gamma, shift, degree = (*(float(p) for p in node.attribute("kernel_params", ())), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        apart = op.Sub(op.Unsqueeze(x, [1]), _parameter(op, node, "support_vectors", vectors))
        return op.Exp(op.Mul(op.ReduceSumSquare(apart, [2], keepdims=0), -gamma))
    products = op.MatMul(x, _parameter(op, node, "support_vectors", vectors.T))
    if kind == "LINEAR":
        return products
    inner = op.Add(op.Mul(products, gamma), shift)
    if kind == "SIGMOID":
        return op.Tanh(inner)
    if kind == "POLY":
        return op.Pow(inner, degree)
    raise node.unsupported(f"kernel_type={kind}", "export the model with LINEAR, POLY, RBF or SIGMOID")


@_splits("SVMRegressor")
def svm_regressor(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Sum of coefficient · kernel, + rho."""
    if node.attribute("one_class", 0):
        raise node.unsupported(
            "it gives the sign of its score alone (one_class)", "export it with one_class=0, or explain it by occlusion"
        )
    if str(node.attribute("post_transform", "NONE")) != "NONE":
        raise node.unsupported("its post_transform is used", "export the model with post_transform NONE")
    count, weights = int(node.attribute("n_supports", 0)), _numbers(node, "coefficients")
    kernels = _kernel(op, node, _numbers(node, "support_vectors").reshape(count, -1)) if count else _rows(op, node)
    score = op.MatMul(kernels, _parameter(op, node, "coefficients", weights.reshape(-1, 1)))
    return [op.Add(score, _parameter(op, node, "rho", _numbers(node, "rho")[:1]))]


@_splits("SVMClassifier")
def svm_classifier(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """One decision value per pair of classes, or per class where there are no support vectors."""
    if node.attribute("prob_a", ()):
        raise node.unsupported(
            "its probabilities come from an iteration that stops early, which is not smooth",
            "export its decision values (onnxplain export -O scores=decision), or explain it by shapley_sampling or occlusion",
        )
    labels = len(node.attribute("classlabels_ints", ()) or node.attribute("classlabels_strings", ()))
    per_class = [int(n) for n in node.attribute("vectors_per_class", ())]
    rho = _numbers(node, "rho")
    if not sum(per_class):
        weights = _numbers(node, "coefficients").reshape(max(labels, 1), -1).T
        scores = op.MatMul(_rows(op, node), _parameter(op, node, "coefficients", weights))
        return _with_label(op, node, _transformed(op, node, op.Add(scores, _parameter(op, node, "rho", rho[:1]))))
    total = sum(per_class)
    vectors = _numbers(node, "support_vectors").reshape(total, -1)
    given = _numbers(node, "coefficients").reshape(-1, total)
    scores = op.MatMul(_kernel(op, node, vectors), _parameter(op, node, "coefficients", _by_pair(given, per_class)))
    scores = op.Add(scores, _parameter(op, node, "rho", rho))
    single = len(per_class) == 2
    return _with_label(op, node, _pair(op, node, scores, raw=True) if single else _transformed(op, node, scores))


def _by_pair(given: np.ndarray[Any, Any], per_class: list[int]) -> np.ndarray[Any, Any]:
    """Coefficients ``[classes - 1, vectors]`` as a matrix with a column per pair of classes."""
    ends = np.cumsum([0, *per_class])
    columns = []
    for i in range(len(per_class)):
        for j in range(i + 1, len(per_class)):
            column = np.zeros(ends[-1], np.float32)
            column[ends[i] : ends[i + 1]] = given[j - 1, ends[i] : ends[i + 1]]
            column[ends[j] : ends[j + 1]] = given[i, ends[j] : ends[j + 1]]
            columns.append(column)
    return np.stack(columns, axis=1)
