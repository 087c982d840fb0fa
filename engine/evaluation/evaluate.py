"""``evaluate``: methods times metrics on a model and its data, with progress, resumption and confidence intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.api import compile as compile_explainer
from onnxplain.engine.evaluation.case import Case, Origin
from onnxplain.engine.evaluation.data import Dataset, as_dataset
from onnxplain.engine.evaluation.metric import Metric, create_metric, usual_metrics
from onnxplain.engine.evaluation.reference import REFERENCES
from onnxplain.engine.evaluation.report import EvaluationReport, Result, Store
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.loading import Model, load
from onnxplain.engine.places import spatial_axes

#: Called with (done, total, words) as the work goes on.
Progress = Callable[[int, int, str], None]

#: Methods by name with their options; a plain list takes the defaults.
Choice = Sequence[str] | Mapping[str, Mapping[str, Any]]


def evaluate(
    model: ModelSource | Model,
    data: Any,
    *,
    methods: Choice = ("fullgrad", "input_x_gradient", "integrated_gradients", "random"),
    metrics: Choice | None = None,
    labels: Any = None,
    masks: Any = None,
    boxes: Any = None,
    target: Any = None,
    output: str | None = None,
    head: str = "probability",
    explained_head: str | None = None,
    layout: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Measure how far methods' explanations can be trusted.

    Args:
        model: Path, bytes, proto or loaded model with one float input.
        data: Samples: see :func:`onnxplain.engine.evaluation.data.as_dataset`.
        methods: Names from :func:`onnxplain.methods`, with options if wanted; ``random`` and ``edges`` stand for
            maps that know nothing of the model.
        metrics: Names from :func:`onnxplain.metrics`, with options if wanted; the usual ones by default.
        labels, masks, boxes: What is known about the samples.
        target: ``[N]`` classes to explain; by default the model's own answer to the clean input.
        output: The explained output.
        head: What metrics score: ``probability`` (as most protocols do), ``logit``, ...
        explained_head: What methods explain; ``logit`` by default.
        layout: Axes of the input.
        limit: At most so many samples.
        seed: Of random draws and of ties.
        folder: Where results are kept, so that an interrupted run goes on where it was.
        threads: Threads inside an operator.
        progress: Told of every step.

    Raises:
        OptionError: Unknown method, metric or option; data that a metric lacks.
        InputError: Samples that do not fit the model.
    """
    loaded = load(model, threads=threads or 0)
    scorer = Scorer(loaded, output, head, layout)
    samples = as_dataset(data, scorer, labels=labels, masks=masks, boxes=boxes, limit=limit)
    chosen = {name: create_metric(name, options) for name, options in _pairs(metrics or usual_metrics())}
    classes = scorer.classes(samples.x) if target is None else np.broadcast_to(np.asarray(target), (len(samples),))
    store = Store(folder, loaded.source.sha256, samples, classes, head, explained_head, output, seed)
    results: list[Result] = []
    work = _pairs(methods)
    for number, (name, options) in enumerate(work):
        case: Case | None = None
        for step, (metric_name, metric) in enumerate(chosen.items()):
            if progress is not None:
                progress(number * len(chosen) + step, len(work) * len(chosen), f"{name}: {metric_name}")
            known = store.get(name, options, metric)
            if known is None:
                if case is None:
                    case = explained(
                        loaded, scorer, samples, classes, name, options, seed, output, explained_head, layout
                    )
                measured = metric.measure(case)
                known = store.put(name, options, metric, measured)
            results.append(known)
    if progress is not None:
        progress(len(work) * len(chosen), len(work) * len(chosen), "done")
    return EvaluationReport.of(loaded, results, samples, classes, head, explained_head, seed)


def _pairs(choice: Choice) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(choice, Mapping):
        return [(name, dict(options)) for name, options in choice.items()]
    return [(name, {}) for name in choice]


def explained(
    model: Model,
    scorer: Scorer,
    samples: Dataset,
    classes: Array,
    name: str,
    options: Mapping[str, Any],
    seed: int = 0,
    output: str | None = None,
    head: str | None = None,
    layout: str = "auto",
) -> Case:
    """All samples explained by one method (or by a map that knows nothing of the model)."""
    case = Case(scorer, samples.x, np.asarray(classes), *_nothing(samples.x), False, _never, seed, samples.masks)
    start = time.perf_counter()
    if name in REFERENCES:
        places = list(spatial_axes(scorer.labels).values())

        def without_model(x: Array, targets: Array) -> tuple[Array, Array]:
            found = REFERENCES[name](x, places, seed)
            shape = [x.shape[a] if a in places else 1 for a in range(x.ndim)]
            return np.broadcast_to(found.reshape(len(x), *shape[1:]), x.shape), found

        attribution, saliency = without_model(samples.x, classes)
        result = replace(case, attribution=attribution, saliency=saliency, explain=without_model)
    else:
        explainer = compile_explainer(model, method=name, output=output, head=head, layout=layout, **options)

        def again(x: Array, targets: Array) -> tuple[Array, Array]:
            e = explainer({scorer.name: x}, target=targets, seed=seed)
            return next(iter(e.attributions.values())), np.asarray(e.saliency)

        e = explainer({scorer.name: samples.x}, target=classes, seed=seed)
        result = replace(
            case,
            attribution=next(iter(e.attributions.values())),
            saliency=np.asarray(e.saliency),
            signed=e.signed,
            explain=again,
            complete=None if e.residual is None else e.residual.relative,
            head=explainer.head,
            origin=Origin(name, options, output, head, layout),
        )
    return replace(result, seconds=(time.perf_counter() - start) / len(samples))


def _nothing(x: Array) -> tuple[Array, Array]:
    return np.zeros((0,)), np.zeros((0,))


def _never(x: Array, targets: Array) -> tuple[Array, Array]:
    raise AssertionError("a case without a method was asked to explain")


__all__ = ["EvaluationReport", "Metric", "evaluate", "explained"]
