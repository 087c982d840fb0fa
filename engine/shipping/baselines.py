"""Baselines inside a graph: an optional input with a default where it is a constant, nodes where it depends on x."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.baselines import BLUR_END, blur_width, named_kind, noise_share
from onnxplain.engine.carried import as_number, is_carried, token_inputs
from onnxplain.engine.errors import OptionError
from onnxplain.engine.gaussian import blur_matrix
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.graph.shapes import batched_inputs, dims, is_float
from onnxplain.engine.method import Plan, Subject
from onnxplain.engine.places import input_labels, spatial_axes
from onnxplain.engine.shipping.drawn import drawn, fixed_sizes
from onnxplain.engine.shipping.enlarged import between
from onnxplain.engine.shipping.products import along

BASELINE = "baseline"


def shipped_baselines(plan: Plan, spec: Any) -> list[dict[str, ir.Value]]:
    """Baselines per subject, each in the subject's shape; one dictionary for each of several.

    Args:
        plan: The graph.
        spec: As :func:`onnxplain.engine.baselines.make_baselines` takes it.

    Raises:
        OptionError: Unknown words, or an array that does not fit.
    """
    by_name = spec if isinstance(spec, dict) else {s.name: spec for s in plan.subjects}
    several = len(plan.subjects) > 1
    unknown = set(by_name) - {s.name for s in plan.subjects}
    if unknown:
        raise OptionError(f"baseline names {sorted(unknown)}, which are not attributed to")
    made = {s.name: _of_subject(plan, s, by_name.get(s.name, "zero"), several) for s in plan.subjects}
    count = max(len(b) for b in made.values())
    if any(len(b) not in (1, count) for b in made.values()):
        raise OptionError("the inputs have different numbers of baselines; give each one, or the same number")
    return [{n: b[i if len(b) > 1 else 0] for n, b in made.items()} for i in range(count)]


def _of_subject(plan: Plan, subject: Subject, spec: Any, several: bool) -> list[ir.Value]:
    listed = isinstance(spec, (list, tuple)) and not all(isinstance(v, (int, float)) for v in spec)
    specs = list(spec) if listed else [spec]
    name = f"{BASELINE}/{subject.name}" if several else BASELINE
    return [value for one in specs for value in _made(plan, subject, one, name if len(specs) == 1 else None)]


def _made(plan: Plan, subject: Subject, spec: Any, name: str | None) -> list[ir.Value]:
    """Baselines that one spec stands for; a constant may be given by the caller, under the name."""
    if is_carried(spec):
        return _carried(plan, subject, spec)
    kind, count = named_kind(spec) if isinstance(spec, str) else ("", 1)
    if kind == "noise":
        return [_noise(plan, subject, draw) for draw in range(count)]
    if kind == "blur":
        return [_blur(plan, subject)]
    if kind in ("mean", "minimum", "maximum"):
        return [of_sample(plan, subject, kind)]
    op, x = plan.rewriter.op, subject.value
    array = _fitting(np.asarray(0.0 if kind == "zero" else spec), subject)
    default = op.constant(array, x.dtype, name) if name else op.constant(array, x.dtype)
    if name is not None:
        _make_input(plan, default, name)
    return [_like(plan, default, x)]


def _carried(plan: Plan, subject: Subject, spec: str) -> list[ir.Value]:
    """An inner tensor as the model computes it from a baseline of its own inputs.

    Raises:
        OptionError: The subject is an input, or the model has no inputs of the kind that is meant.
    """
    op, graph = plan.rewriter.op, plan.rewriter.graph
    if not subject.inner:
        raise OptionError(
            f"baseline '{spec}' is for inner tensors, which the model computes from its inputs; "
            f"name one with wrt=, or give '{spec.partition(':')[2]}'"
        )
    own = [v for v in graph.inputs if v.name not in plan.rewriter.added_inputs]
    kind, _, value = spec.partition(":")
    if kind == "token":
        names = token_inputs(graph)
        found = {v: [_token(plan, v, spec, value)] for v in own if v.name in names}
    else:
        number = as_number(value)
        floats = [v for v in own if is_float(v) and v.name in batched_inputs(own)]
        meant = [Subject(v.name or "", v, input_labels(v), False) for v in floats]
        found = {s.value: _made(plan, s, value if number is None else number, None) for s in meant}
    if not found:
        raise OptionError(f"baseline '{spec}' is not possible: the model has no input of that kind")
    nodes, results = between(graph, [subject.value]), []
    for i in range(len(next(iter(found.values())))):
        twins = replay(op, nodes, {v: made[i] for v, made in found.items()})
        results.append(twins.get(subject.value, subject.value))
        results[-1].shape = subject.value.shape
    return results


def _token(plan: Plan, value: ir.Value, spec: str, number: str) -> ir.Value:
    if not number.lstrip("-").isdigit():
        raise OptionError(f"baseline '{spec}' is not possible: write token:0 for the token with the number 0")
    return _like(plan, plan.rewriter.op.constant(int(number), value.dtype), value)


def of_sample(plan: Plan, subject: Subject, kind: str) -> ir.Value:
    """Each channel's mean over places, or the sample's smallest or largest value."""
    op, x = plan.rewriter.op, subject.value
    axes = list(spatial_axes(subject.labels).values()) if kind == "mean" else list(range(1, len(subject.labels)))
    emit = {"mean": op.ReduceMean, "minimum": op.ReduceMin, "maximum": op.ReduceMax}[kind]
    return _like(plan, emit(x, axes, keepdims=1) if axes else x, x)


def _noise(plan: Plan, subject: Subject, draw: int) -> ir.Value:
    """Uniform between the sample's extremes; where between is stored."""
    op, sizes = plan.rewriter.op, fixed_sizes(subject)
    share = drawn(plan, lambda seed: noise_share(sizes, seed, draw), subject.value.dtype, "baselines")
    low, high = (of_sample(plan, subject, kind) for kind in ("minimum", "maximum"))
    result = op.Add(low, op.Mul(share, op.Sub(high, low)))
    result.shape = subject.value.shape
    return result


def _blur(plan: Plan, subject: Subject) -> ir.Value:
    """Gaussian along the places, borders mirrored; the kernels are stored."""
    op, sizes = plan.rewriter.op, fixed_sizes(subject, "the blur is stored in the file")
    axes = list(spatial_axes(subject.labels).values())
    width = blur_width([sizes[a - 1] for a in axes])
    value = subject.value
    for axis in axes:
        matrix = blur_matrix(sizes[axis - 1], width, "mirror", BLUR_END)
        value = along(op, value, axis, len(subject.labels), op.constant(matrix, subject.value.dtype))
    value.shape = subject.value.shape
    return value


def _fitting(array: np.ndarray[Any, Any], subject: Subject) -> np.ndarray[Any, Any]:
    """With the subject's number of axes, the first of size one."""
    count, known = len(subject.labels), dims(subject.value)
    lead = count - array.ndim
    array = array.reshape(*[1] * max(lead, 0), *array.shape)
    fits = array.ndim == count and array.shape[0] == 1
    if known is not None:
        fits = fits and all(
            a in (1, d) or not isinstance(d, int) for a, d in zip(array.shape[1:], known[1:], strict=False)
        )
    if not fits:
        raise OptionError(
            f"a baseline of shape {array.shape} cannot be stored for '{subject.name}'; give one sample's, without a batch"
        )
    return array


def _make_input(plan: Plan, default: ir.Value, name: str) -> None:
    """Let the caller give another one: an input that has the constant as its default."""
    count = len(default.shape or ())
    default.shape = ir.Shape([f"{name}_{i}" for i in range(count)])
    plan.rewriter.graph.inputs.append(default)
    plan.rewriter.added_inputs.append(default.name or name)


def _like(plan: Plan, value: ir.Value, x: ir.Value) -> ir.Value:
    op = plan.rewriter.op
    result = op.Expand(value, op.Shape(x))
    result.shape = x.shape
    return result
