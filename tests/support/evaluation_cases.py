"""Cases for tests of metrics: small models whose scores are known, with attributions given by hand or by a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tiny_models import model, node

from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.evaluation.data import as_dataset
from onnxplain.engine.evaluation.evaluate import explained
from onnxplain.engine.evaluation.metric import create_metric
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.loading import Model, load

Array = np.ndarray[Any, Any]


def linear(weights: Array, bias: float = 0.0) -> Model:
    """``f(x) = <w, x> + b`` for the first class and 0 for a second; x of shape [N, *weights.shape]."""
    shape = list(weights.shape)
    matrix = np.stack([weights.reshape(-1), np.zeros(weights.size)], axis=1)
    proto = model(
        [node("Flatten", "x", "flat"), node("Gemm", "flat w b", "y")],
        {"x": ["N", *shape]},
        {"y": ["N", 2]},
        {"w": matrix, "b": np.array([bias, 0.0])},
    )
    return load(proto, threads=1)


def quadratic(matrix: Array) -> Model:
    """``f(x) = x^T Q x / 2`` for the one class; x of shape [N, F]."""
    proto = model(
        [node("MatMul", "x q", "qx"), node("Mul", "qx x", "xqx"), node("ReduceSum", "xqx axes", "s"),
         node("Mul", "s half", "y")],
        {"x": ["N", len(matrix)]},
        {"y": ["N", 1]},
        {"q": matrix, "axes": np.array([1], dtype=np.int64), "half": np.array(0.5)},
    )  # fmt: skip
    return load(proto, threads=1)


def given(
    source: Model,
    x: Array,
    attribution: Array,
    saliency: Array | None = None,
    *,
    explain: Callable[[Array, Array], tuple[Array, Array]] | None = None,
    head: str = "logit",
    **more: Any,
) -> Case:
    """A case whose attribution stands beforehand; the first class is explained, the logit scored."""
    scorer = Scorer(source, head=head)
    x = np.asarray(x, dtype=np.float32)
    case = Case(
        scorer, x, np.zeros(len(x), dtype=np.int64), np.asarray(attribution), np.zeros(0), True,
        explain or (lambda points, targets: (np.zeros_like(points), np.zeros(0))), **more,
    )  # fmt: skip
    sizes = [x.shape[a] for a in case.places]
    case.saliency = case.relevance.reshape(len(x), *sizes) if saliency is None else np.asarray(saliency)
    return case


def by_method(source: Model, x: Array, method: str, *, score: str = "logit", seed: int = 0, **options: Any) -> Case:
    """A case explained by a method, first class."""
    scorer = Scorer(source, head=score)
    samples = as_dataset(np.asarray(x, dtype=np.float32), scorer)
    return explained(source, scorer, samples, np.zeros(len(x), dtype=np.int64), method, options, seed)


def measured(case: Case, metric: str, **options: Any) -> Any:
    """What a metric finds."""
    return create_metric(metric, options).measure(case)
