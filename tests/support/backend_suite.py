"""ONNX's own node tests as test cases of gradients, and a grade for each.

Every test of `onnx.backend.test.case.node` with a float input and a float output is rewritten to float64,
in two settings:

- ``shipped``: the suite's own model, whose axes, shapes, pads and bounds are graph inputs;
- ``frozen``: those operands, and all others that are no floats, are initializers, and models older than the
  working opset are converted up to it.

The truth is central differences of `onnx.reference` along one random direction per float input, at two
steps. A result element is left out where the two disagree or where the second difference does not vanish
with the step: there is a kink. Our vector-Jacobian product ``g`` for a random cotangent ``u`` passes when
``<g, v> = <u, J v>`` for every input and direction v, and the identity of the node biases closes.

Nothing here knows a rule; the models come from the standard's own suite.
"""

from __future__ import annotations

import functools
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.errors import BlockedGradientError, OnnxplainError, SessionError, UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.reference_ops import CORRECTED
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]
Setting = Literal["shipped", "frozen"]
Verdict = Literal["pass", "wrong", "refused", "blocked", "not gradable"]

SETTINGS: tuple[Setting, ...] = ("shipped", "frozen")

#: Step of the differences: truncation (h^2) and rounding (eps / h) are both far below :data:`RTOL`.
STEP = 2e-5
#: A gradient agrees to this, relative to the sum of magnitudes in its inner product with the direction.
RTOL = 1e-5
#: Where the runtime computes in float32, relative to the gradient's norm.
RTOL32 = 2e-3

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

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NARROW = _FLOATS - {TensorProto.DOUBLE}

#: Float operands that say how, not what: part of the model's structure when it is deployed.
STRUCTURAL: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,), "Dropout": (1,), "OneHot": (1,), "Range": (0, 1, 2),
    "QuantizeLinear": (1,), "DequantizeLinear": (1,),
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One node test.

    Attributes:
        name: The suite's name.
        operator: What it tests, with domain unless that is ai.onnx.
        model: As shipped, with its own types.
        feeds: Its inputs.
        expected: Its outputs.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    feeds: dict[str, Any]
    expected: list[Any]


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
        aside: The input in question where it is one that the standard does not tag differentiable.
        problem: Why the test cannot be graded; empty where it can.
    """

    model: onnx.ModelProto
    feeds: dict[str, Any]
    aside: str = ""
    base: dict[str, Any] = field(default_factory=dict)
    wrt: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    cotangents: dict[str, Array] = field(default_factory=dict)
    directions: dict[str, Array] = field(default_factory=dict)
    slopes: dict[str, float] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Grade:
    """The verdict on one test in one setting.

    Attributes:
        verdict: ``blocked`` is a zero that was said to be one.
        reason: What was wrong, or why it was refused.
        runtime: The same for onnxruntime in float32: ``pass``, ``no kernel`` or what was wrong.
        aside: The input that it is about, where that one is tagged as not differentiable; all others otherwise.
    """

    name: str
    operator: str
    setting: Setting
    verdict: Verdict
    reason: str = ""
    runtime: str = ""
    aside: str = ""


# ----- the suite --------------------------------------------------------------------------------------


@functools.cache
def samples() -> dict[str, list[Sample]]:
    """Tests by operator; bodies of functions spelt out (``_expanded``) are left out."""
    found: dict[str, list[Sample]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(0)  # noqa: NPY002 - the suite draws from the global generator
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        if "_expanded" in case.name or model is None or not case.data_sets:
            continue
        if not any(_is_float(v) for v in model.graph.input) or not any(_is_float(v) for v in model.graph.output):
            continue
        inputs, outputs = case.data_sets[0]
        feeds = {v.name: _array(x) for v, x in zip(model.graph.input, inputs, strict=True)}
        operator = _operator(case.name, model)
        expected = [_array(y) for y in outputs]
        found.setdefault(operator, []).append(Sample(case.name, operator, model, feeds, expected))
    return dict(sorted(found.items()))


def _array(data: Any) -> Any:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data


def _operator(name: str, model: onnx.ModelProto) -> str:
    """What a test is about: its only node, else the operator whose name the test bears."""
    nodes = [n for n in model.graph.node if n.op_type != "Constant"]
    chosen = nodes[-1]
    if len(nodes) > 1:
        plain = name.removeprefix("test_").replace("_", "")
        named = [n for n in nodes if plain.startswith(n.op_type.lower())]
        chosen = max(named, key=lambda n: len(n.op_type)) if named else chosen
    return f"{chosen.domain}::{chosen.op_type}" if chosen.domain else chosen.op_type


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.elem_type in _FLOATS


# ----- rewriting --------------------------------------------------------------------------------------


def _retype(graph: onnx.GraphProto) -> None:
    """All float types become float64, those inside of subgraphs as well."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        _retype_type(value.type)
    for tensor in graph.initializer:
        _retype_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _retype(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _retype_tensor(attribute.t)
            elif (
                attribute.name in ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
                and attribute.i in _NARROW
            ):
                if attribute.name != "stash_type":
                    attribute.i = TensorProto.DOUBLE
            elif attribute.name in ("value_float", "value_floats") and node.op_type == "Constant":
                values = np.asarray(attribute.floats if attribute.name.endswith("s") else attribute.f, np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
            elif attribute.type == onnx.AttributeProto.TYPE_PROTO:
                _retype_type(attribute.tp)


def _retype_type(kind: onnx.TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which == "tensor_type" and kind.tensor_type.elem_type in _NARROW:
        kind.tensor_type.elem_type = TensorProto.DOUBLE
    elif which == "sequence_type":
        _retype_type(kind.sequence_type.elem_type)
    elif which == "optional_type":
        _retype_type(kind.optional_type.elem_type)


def _retype_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _widened(array: Any) -> Any:
    if isinstance(array, list):
        return [_widened(a) for a in array]
    kind = getattr(array, "dtype", None)
    return (
        np.asarray(array, np.float64) if kind is not None and str(kind) in ("float16", "float32", "bfloat16") else array
    )


def _narrowed(array: Any) -> Any:
    if isinstance(array, list):
        return [_narrowed(a) for a in array]
    data = np.asarray(array)
    return data.astype(np.float32) if data.dtype == np.float64 else data


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at ``opset``; itself where onnx's converter gives up."""
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception:
        return model


def frozen(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> onnx.ModelProto:
    """Operands that are no floats, and structural ones, as initializers."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    structural = {n.input[i] for n in made.graph.node for i in STRUCTURAL.get(n.op_type, ()) if i < len(n.input)}
    floats = [v for v in made.graph.input if _is_float(v) and v.name not in structural]
    for value in list(made.graph.input):
        array = feeds[value.name]
        if value.type.WhichOneof("value") != "tensor_type" or (_is_float(value) and (not floats or value in floats)):
            continue
        tensor = _tensor(value, array)
        if tensor is not None:
            made.graph.initializer.append(tensor)
            made.graph.input.remove(value)
    return made


def _tensor(value: onnx.ValueInfoProto, array: Any) -> onnx.TensorProto | None:
    data = np.asarray(array)
    try:
        tensor = numpy_helper.from_array(data, value.name)
    except (TypeError, ValueError, NotImplementedError):
        return None
    return tensor if tensor.data_type == value.type.tensor_type.elem_type else None


def at_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float64."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _retype(made.graph)
    for function in made.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i in _NARROW:
                    attribute.i = TensorProto.DOUBLE
    return made


# ----- truth ------------------------------------------------------------------------------------------


def _evaluate(model: onnx.ModelProto) -> Any:
    evaluator = ReferenceEvaluator(model, new_ops=CORRECTED)

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(evaluator.run(None, dict(feeds)))

    return run


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
    model = at_double(sample.model)
    feeds = {k: _widened(v) for k, v in sample.feeds.items()}
    result = Truth(model, feeds)
    floats = [v.name for v in model.graph.input if _is_float(v) and np.size(feeds[v.name])]
    result.outputs = [v.name for v in model.graph.output]
    try:
        run = _evaluate(model)
        base = run(feeds)
    except Exception as e:
        result.problem = f"the reference evaluator fails in float64 ({type(e).__name__}: {str(e)[:80]})"
        return [result]
    if not _trusted(sample, base):
        result.problem = "the reference evaluator differs from the suite's own numbers"
        return [result]
    if not floats:
        result.problem = "no float input with elements"
        return [result]
    flat = _not_differentiable(sample.model)
    groups = [("", [n for n in floats if n not in flat]), *((n, [n]) for n in floats if n in flat)]
    found = []
    for aside, wrt in groups:
        if wrt:
            one = Truth(model, feeds, aside, dict(zip(result.outputs, base, strict=True)), wrt, result.outputs)
            try:
                with np.errstate(all="ignore"):
                    _differences(one, run, base, zlib.crc32(sample.name.encode()))
            except Exception as e:
                one.problem = f"the reference evaluator fails beside the point ({type(e).__name__}: {str(e)[:80]})"
            found.append(one)
    return found


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
            y for s in (h, -h) for y in run({**result.feeds, name: np.asarray(x + s * v)}) if np.shape(y) == np.shape(x)
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
    if not any(np.any(u) for u in result.cotangents.values()):
        result.problem = "no result element is smooth"
    elif all(s < 1e-9 for s in result.scales.values()):
        result.problem = "its derivative is zero"


# ----- grading ----------------------------------------------------------------------------------------


@dataclass
class Rewritten:
    """A rewritten graph and the names in it."""

    model: Any
    seeds: dict[str, str]
    gradients: dict[str, str]
    pairs: list[tuple[str, str]]
    blocked: list[str]
    constant: set[str]


def rewrite(model: onnx.ModelProto, wrt: list[str], seeded: list[str], biases: bool) -> Rewritten:
    """Our gradient of ``model``, with the node biases and their adjoints as further outputs."""
    rewriter = Rewriter(canonicalise(read_model(model), training=True))
    seeds, names = {}, {}
    for output in seeded:
        value = rewriter.value(output)
        if not is_float(value) or value.dtype is None:
            raise AssertionError(f"output {output} is not known to be a float tensor")
        seed = rewriter.add_input(f"seed_{output}", value.dtype, None)
        seed.shape = value.shape
        seeds[value], names[output] = seed, seed.name or ""
    wanted = {name: rewriter.value(name) for name in wrt}
    adjoints = rewriter.backward_from(seeds, list(wanted.values()))
    gradients = {n: rewriter.add_output(f"d_{n}", adjoints.of[v]) for n, v in wanted.items() if v in adjoints.of}
    pairs = []
    for node in adjoints.nodes if biases else ():
        entry = BIAS.find(node.domain, node.op_type, rewriter.op.opset)
        if entry is None:
            raise AssertionError(f"{node.op_type} has a gradient rule and no bias rule")
        for i, part in enumerate(entry.rule(rewriter.op, node)):
            adjoint = adjoints.of.get(node.outputs[part.output])
            if adjoint is not None:
                bias = rewriter.add_output(f"c_{node.name}_{i}", part.full(rewriter.op))
                pairs.append((bias, rewriter.add_output(f"a_{node.name}_{i}", adjoint)))
    blocked = [b.operator for b in adjoints.path.blocked]
    constant = {o for o, v in zip(names, seeds, strict=True) if v not in adjoints.path.active}
    return Rewritten(rewriter.finish(), names, gradients, pairs, blocked, constant)


def variants(sample: Sample) -> Iterator[tuple[Setting, onnx.ModelProto]]:
    """The test in both settings, in its own types."""
    version = _opset(sample.model)
    shipped = converted(sample.model, 7) if 0 < version < 7 else sample.model
    yield "shipped", shipped
    made = frozen(sample.model, sample.feeds)
    yield "frozen", converted(made, 18) if 0 < version < 18 else made


def grade(sample: Sample, runtime: bool = True) -> list[Grade]:
    """Both settings of one test."""
    grades = []
    for found in truths(sample):
        if found.problem:
            grades += [
                Grade(sample.name, sample.operator, s, "not gradable", found.problem, "", found.aside) for s in SETTINGS
            ]
        else:
            grades += [_grade(sample, setting, model, found, runtime) for setting, model in variants(sample)]
    return grades


def _grade(sample: Sample, setting: Setting, model: onnx.ModelProto, found: Truth, runtime: bool) -> Grade:
    def verdict(kind: Verdict, reason: str = "", runtime: str = "") -> Grade:
        return Grade(sample.name, sample.operator, setting, kind, reason, runtime, found.aside)

    wide = at_double(model)
    inputs = {v.name for v in wide.graph.input}
    feeds = {k: v for k, v in found.feeds.items() if k in inputs}
    wrt = [n for n in found.wrt if n in inputs]
    seeded = [n for n, u in found.cotangents.items() if np.any(u)]
    if all(found.scales[n] < 1e-9 for n in wrt):
        return verdict("not gradable", "no derivative is left when operands are frozen")
    try:
        made = rewrite(wide, wrt, seeded, biases=True)
        run = Session(made.model, "reference").run({**feeds, **{s: found.cotangents[n] for n, s in made.seeds.items()}})
    except (UnsupportedNodeError, BlockedGradientError) as e:
        return verdict("refused", getattr(e, "reason", "") or str(e))
    except SessionError as e:
        return verdict("refused", f"evaluator: {e}")
    except OnnxplainError as e:
        return verdict("refused", str(e))
    except AssertionError as e:
        return verdict("wrong", f"assertion: {e}")
    except Exception as e:
        return verdict("wrong", f"raises {type(e).__name__}: {e}")
    problem = _compare(found, made, run, wrt) or _completeness(found, made, run, wrt, feeds)
    if problem.startswith("blocked"):
        return verdict("blocked", problem)
    if problem:
        return verdict("wrong", problem)
    return verdict(
        "pass",
        runtime=_runtime(model, found, made, run, wrt, seeded) if runtime and sample.operator not in RANDOM else "",
    )


def _compare(found: Truth, made: Rewritten, run: Mapping[str, Array], wrt: list[str]) -> str:
    for name in made.seeds:
        if not np.allclose(run[name], found.base[name], rtol=1e-6, atol=1e-7, equal_nan=True):
            return f"rewriting changed the output {name}"
    for name in wrt:
        output = made.gradients.get(name)
        if output is None:
            if found.scales[name] > 1e-9:
                ends = f"blocked at {', '.join(made.blocked)}" if made.blocked else "zero without a word"
                return f"{ends} for {name}: differences {found.slopes[name]:.6g}"
            continue
        g = run[output]
        if g.shape != np.shape(found.feeds[name]):
            return f"the gradient of {name} has shape {g.shape} for {np.shape(found.feeds[name])}"
        moved = found.directions[name] != 0
        terms = g[moved] * found.directions[name][moved]
        scale = max(found.scales[name], float(np.abs(terms).sum()), 1e-4)
        gap = abs(float(terms.sum()) - found.slopes[name])
        if not gap <= RTOL * scale:
            return f"gradient of {name}: differences {found.slopes[name]:.8g}, rule {float(terms.sum()):.8g}"
    return ""


def _completeness(
    found: Truth, made: Rewritten, run: Mapping[str, Array], wrt: list[str], feeds: Mapping[str, Any]
) -> str:
    def inner(a: Array, b: Array) -> float:
        """``<a, b>`` where the adjoint ``a`` is not zero."""
        b = np.broadcast_to(b, a.shape)
        return float(np.sum(a[a != 0] * b[a != 0]))

    if not all(np.isfinite(run[g]).all() for g in made.gradients.values()):
        return ""  # an element at the edge of its domain

    with np.errstate(all="ignore"):
        total = sum(inner(found.cotangents[n], run[n]) for n in made.seeds if n not in made.constant)
        terms = [inner(run[g], feeds[n]) for n, g in made.gradients.items()]
        terms += [inner(run[a], run[c]) for c, a in made.pairs]
        left_out = [n for n in wrt if n not in made.gradients]
    scale = abs(total) + sum(abs(t) for t in terms) + 1e-12
    if left_out and made.blocked:
        return ""
    # bodies that the standard computes in float32 round there, whatever the operands are
    rtol = 1e-5 if any(v.dtype == ir.DataType.FLOAT for n in made.model.graph for v in n.outputs) else 1e-8
    return "" if abs(total - sum(terms)) <= rtol * scale else f"completeness: {total:.8g} against {sum(terms):.8g}"


def _runtime(
    model: onnx.ModelProto, found: Truth, exact: Rewritten, run: Mapping[str, Array], wrt: list[str], seeded: list[str]
) -> str:
    """onnxruntime's float32 gradient against the float64 one."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    values = [v for v in model.graph.input if _is_float(v)] + [v for v in model.graph.output if v.name in seeded]
    if any(v.type.tensor_type.elem_type != TensorProto.FLOAT for v in values):
        return "not float32"
    try:
        made = rewrite(single, wrt, seeded, biases=False)
        feeds = {v.name: found.feeds[v.name] for v in single.graph.input}
        seeds = {s: found.cotangents[n] for n, s in made.seeds.items()}
        got = Session(made.model, threads=1).run({k: _narrowed(v) for k, v in {**feeds, **seeds}.items()})
    except (SessionError, OnnxplainError) as e:
        return f"no kernel: {str(e)[:300]}"
    except AssertionError as e:
        return f"assertion: {e}"
    for name, output in made.gradients.items():
        reference = run[exact.gradients[name]]
        there = np.isfinite(reference)
        reference = reference[there]
        gap = float(np.linalg.norm(np.asarray(got[output], np.float64)[there] - reference))
        if not gap <= RTOL32 * max(float(np.linalg.norm(reference)), 1e-2):
            return f"differs: {name} by {gap:.3g} of {float(np.linalg.norm(reference)):.3g}"
    return "pass"
