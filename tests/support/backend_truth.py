"""What differences of `onnx.reference` say of one of ONNX's own tests: the truth that gradients are held against.

Central differences along one random direction per float input, at two steps. A result element is left out
where the two disagree or where the second difference does not vanish with the step: there is a kink. Where no
element is left, the test's own numbers lie on kinks, and a point beside them is taken.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from backend_models import Array, Sample, at_double, is_float_info, modernised, widened
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.session.reference_ops import CORRECTED

#: Why a test has no slopes at its own point.
KINKS = "no result element is smooth"
#: Operands that say how large the result is, of operators without tags.
SIZING: dict[str, tuple[int, ...]] = {"Upsample": (1,)}
#: Step of the differences: truncation (h^2) and rounding (eps / h) are both far below the tolerance.
STEP = 2e-5

#: Operators whose results are drawn: the suite's numbers are only an example.
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Dropout",
}


@dataclass
class Truth:
    """What differences say.

    Attributes:
        model, feeds: In float64.
        wrt: Float inputs, the differentiated ones.
        outputs: Float outputs.
        cotangents: Random, zero where a result is not smooth.
        directions: One per input in ``wrt``.
        slopes: ``<u, J v>`` per input.
        base: The results themselves.
        own_feeds: The same inputs in the test's own types.
        aside: The input in question where it is one that the standard does not tag differentiable.
        flat: There is no derivative: all slopes are zero, or there is no element to move or to look at.
        moved: The point lies beside the test's, whose own numbers lie on kinks.
        problem: Why the test cannot be graded; empty where it can.
    """

    model: onnx.ModelProto
    feeds: dict[str, Any]
    own_feeds: dict[str, Any] = field(default_factory=dict)
    aside: str = ""
    flat: bool = False
    moved: bool = False
    base: dict[str, Any] = field(default_factory=dict)
    wrt: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    cotangents: dict[str, Array] = field(default_factory=dict)
    directions: dict[str, Array] = field(default_factory=dict)
    slopes: dict[str, float] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    problem: str = ""


def _evaluate(model: onnx.ModelProto) -> Any:
    evaluator = ReferenceEvaluator(_with_seeds(model), new_ops=CORRECTED)

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(evaluator.run(None, dict(feeds)))

    return run


def _with_seeds(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model whose draws are the same in each run: differences of two draws would say nothing."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        if node.op_type in RANDOM - {"Dropout"} and not any(a.name == "seed" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("seed", 1.0))
    return made


def _close(found: Any, expected: Any) -> bool:
    a, b = np.asarray(found), np.asarray(expected)
    if a.shape != b.shape:
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    # half-precision tests are expected to 1e-2 by the suite itself
    return bool(np.allclose(a, b, rtol=2e-2, atol=2e-2, equal_nan=True))


def truths(sample: Sample) -> list[Truth]:
    """Differences of one test: for all inputs that have a derivative by the standard, and for each other one.

    The random numbers are the test's name's.
    """
    plain = modernised(sample.model)
    model, feeds = at_double(plain), {k: widened(v) for k, v in sample.feeds.items()}
    blank = Truth(model, feeds, dict(sample.feeds), outputs=[v.name for v in model.graph.output])
    floats = [v.name for v in model.graph.input if is_float_info(v)]
    try:
        run = _evaluate(model)
        base = run(feeds)
    except Exception as e:
        return [replace(blank, problem=f"the reference evaluator fails in float64 ({type(e).__name__}: {str(e)[:80]})")]
    if not _trusted(sample, base):
        return [replace(blank, problem="the reference evaluator differs from the suite's own numbers")]
    flat = _not_differentiable(plain) | {
        node.input[i] for node in plain.graph.node for i in SIZING.get(node.op_type, ()) if i < len(node.input)
    }
    groups = [("", [n for n in floats if n not in flat]), *((n, [n]) for n in floats if n in flat)]
    found = []
    for aside, names in groups:
        wrt = [n for n in names if np.size(feeds[n])]
        if names:
            one = replace(blank, aside=aside, wrt=wrt or names, base=dict(zip(blank.outputs, base, strict=True)))
            found.append(_settled(sample, one, run))
    return found


def _settled(sample: Sample, one: Truth, run: Any) -> Truth:
    """The slopes at the test's own point, or beside it."""
    found = _measured(sample, one, run)
    if found.problem != KINKS:
        return found
    rng = np.random.default_rng(zlib.crc32(sample.name.encode()) + 1)
    own = dict(one.own_feeds)
    for name in one.wrt:
        kind = own[name].dtype
        away = rng.uniform(0.02, 0.12, size=np.shape(own[name])) * rng.choice([-1.0, 1.0], size=np.shape(own[name]))
        own[name] = np.asarray(np.asarray(own[name], np.float64) + away).astype(kind)
    feeds = {k: widened(v) for k, v in own.items()}
    try:
        base = dict(zip(one.outputs, run(feeds), strict=True))
    except Exception:
        return found
    moved = _measured(sample, replace(one, feeds=feeds, own_feeds=own, base=base, moved=True), run)
    return found if moved.problem else moved


def _measured(sample: Sample, one: Truth, run: Any) -> Truth:
    result = replace(one, cotangents={}, directions={}, slopes={}, scales={})
    try:
        with np.errstate(all="ignore"):
            _differences(result, run, list(one.base.values()), zlib.crc32(sample.name.encode()))
    except Exception as e:
        result.problem = f"the reference evaluator fails beside the point ({type(e).__name__}: {str(e)[:80]})"
    return result


def _not_differentiable(model: onnx.ModelProto) -> set[str]:
    """Inputs all of whose readers tag them as not differentiable."""
    tags: dict[str, list[bool]] = {}
    category = onnx.defs.OpSchema.DifferentiationCategory.NonDifferentiable
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    for node in model.graph.node:
        try:
            formals = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain).inputs
        except onnx.defs.SchemaError:
            continue
        for i, name in enumerate(node.input):
            formal = formals[min(i, len(formals) - 1)]
            tags.setdefault(name, []).append(formal.differentiation_category == category)
    return {name for name, found in tags.items() if all(found)}


def _trusted(sample: Sample, base: list[Any]) -> bool:
    """Whether the evaluator gives the suite's numbers, or else those of onnxruntime."""
    if sample.operator in RANDOM or _all_close(base, sample.expected):
        return True
    feeds = dict(sample.feeds)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            sample.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return _all_close(base, session.run(None, feeds))
    except Exception:
        return False


def _all_close(found: list[Any], expected: list[Any]) -> bool:
    pairs = [(a, b) for a, b in zip(found, expected, strict=False) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    return all(_close(a, b) for a, b in pairs)


def _differences(result: Truth, run: Any, base: list[Any], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def at(name: str, value: Array) -> dict[str, Any]:
        return dict(zip(result.outputs, run({**result.feeds, name: value}), strict=True))

    floats = {
        name: y
        for name, y in zip(result.outputs, base, strict=True)
        if isinstance(y, np.ndarray) and y.dtype.kind == "f"
    }
    masks = {name: np.isfinite(y) for name, y in floats.items()}
    slopes: dict[str, dict[str, Array]] = {}
    for name in result.wrt:
        x = result.feeds[name]
        v = np.asarray(rng.normal(size=np.shape(x)) * np.isfinite(x))
        h = STEP
        edges = [
            y
            for s in (h, 0.0, -h)
            for y in run({**result.feeds, name: np.asarray(x + s * v)})
            if np.shape(y) == np.shape(x)
        ]
        # An element at the edge of its domain, or outside, has no derivative of its own: it stays where it is.
        v = np.where(np.all([np.isfinite(y) for y in edges], axis=0), v, 0.0) if edges and len(floats) == 1 else v
        result.directions[name] = v
        ways = [at(name, np.asarray(x + t * v)) for t in (h, -h, h / 2, -h / 2)]
        slopes[name] = {}
        # Two kinks at one place can cancel along one direction; along a second one as well they do not.
        other = v * rng.uniform(0.5, 2.0, size=np.shape(x)) * rng.choice([-1.0, 1.0], size=np.shape(x))
        ways += [at(name, np.asarray(x + t * other)) for t in (h, -h)]
        for output, y in floats.items():
            if any(np.shape(w[output]) != y.shape for w in ways):
                masks[output] = np.zeros(y.shape, bool)
                slopes[name][output] = np.zeros(y.shape)
                continue
            far, near = (ways[0][output] - ways[1][output]) / (2 * h), (ways[2][output] - ways[3][output]) / h
            bend = np.maximum(*(np.abs(ways[i][output] - 2 * y + ways[i + 1][output]) / h for i in (0, 4)))
            size = np.abs(near) + 1e-3 * np.max(np.abs(near), initial=0.0, where=np.isfinite(near)) + 1e-4
            smooth = np.isfinite(far) & np.isfinite(near) & (np.abs(far - near) < 1e-5 * size) & (bend < 2e-3 * size)
            masks[output] = masks[output] & smooth
            slopes[name][output] = np.where(np.isfinite(near), near, 0.0)
    for output, y in floats.items():
        result.cotangents[output] = np.asarray(np.where(masks[output], rng.normal(size=y.shape), 0.0))
    for name in result.wrt:
        products = [result.cotangents[o] * slopes[name][o] for o in floats]
        result.slopes[name] = float(sum(p.sum() for p in products))
        result.scales[name] = float(sum(np.abs(p).sum() for p in products))
    counted = any(y.size for y in floats.values()) and any(np.size(result.feeds[n]) for n in result.wrt)
    if counted and not any(np.any(u) for u in result.cotangents.values()):
        result.problem = KINKS
    else:
        result.flat = all(s < 1e-9 for s in result.scales.values())
