"""ONNX's own tests as test cases of gradients, and a grade for each.

Our vector-Jacobian product ``g`` for a random cotangent ``u`` passes when ``<g, v> = <u, J v>`` for every float
input and direction v (:mod:`backend_truth`), and the identity of the node biases closes. Nothing here knows a
rule; the models come from the standard's own suite (:mod:`backend_models`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from backend_models import SETTINGS, Array, Sample, Setting, at_double, is_float_info, narrowed, variants
from backend_truth import RANDOM, Truth, truths
from onnx import TensorProto

from onnxplain.engine.errors import BlockedGradientError, OnnxplainError, SessionError, UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.session import Session

Verdict = Literal["pass", "zero", "wrong", "refused", "blocked", "not gradable"]

#: A gradient agrees to this, relative to the sum of magnitudes in its inner product with the direction.
RTOL = 1e-5
#: Where the runtime computes in float32, relative to the gradient's norm.
RTOL32 = 2e-3


@dataclass(frozen=True)
class Grade:
    """The verdict on one test in one setting.

    Attributes:
        verdict: ``zero`` where there is no derivative, and we say so or give zeros; ``blocked`` where we say so although
            there is one.
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


def grade(sample: Sample, runtime: bool = True) -> list[Grade]:
    """Both settings of one test."""
    grades = []
    for found in truths(sample):
        if found.problem:
            grades += [
                Grade(sample.name, sample.operator, s, "not gradable", found.problem, "", found.aside) for s in SETTINGS
            ]
        else:
            moved = replace(sample, feeds=found.own_feeds)
            grades += [_grade(sample, setting, model, found, runtime) for setting, model in variants(moved)]
    return grades


def _grade(sample: Sample, setting: Setting, model: onnx.ModelProto, found: Truth, runtime: bool) -> Grade:
    def verdict(kind: Verdict, reason: str = "", runtime: str = "") -> Grade:
        return Grade(sample.name, sample.operator, setting, kind, reason, runtime, found.aside)

    wide = at_double(model)
    inputs = {v.name for v in wide.graph.input}
    feeds = {k: v for k, v in found.feeds.items() if k in inputs}
    wrt = [n for n in found.wrt if n in inputs]
    seeded = [n for n, u in found.cotangents.items() if found.flat or np.any(u)]
    if not wrt or (not found.flat and all(found.scales[n] < 1e-9 for n in wrt)):
        return verdict("not gradable", "no derivative is left when operands are frozen")
    try:
        made = rewrite(wide, wrt, seeded, biases=True)
        run = Session(made.model, "reference").run({**feeds, **{s: found.cotangents[n] for n, s in made.seeds.items()}})
    except BlockedGradientError as e:
        return verdict("zero" if found.flat else "refused", getattr(e, "reason", "") or str(e))
    except UnsupportedNodeError as e:
        return verdict("refused", e.reason or str(e))
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
    second = _runtime(model, found, made, run, wrt, seeded) if runtime and sample.operator not in RANDOM else ""
    return verdict("zero" if found.flat else "pass", "", second)


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
    values = [v for v in model.graph.input if is_float_info(v)] + [v for v in model.graph.output if v.name in seeded]
    if any(v.type.tensor_type.elem_type != TensorProto.FLOAT for v in values):
        return "not float32"
    try:
        made = rewrite(single, wrt, seeded, biases=False)
        feeds = {v.name: found.feeds[v.name] for v in single.graph.input}
        seeds = {s: found.cotangents[n] for n, s in made.seeds.items()}
        got = Session(made.model, threads=1).run({k: narrowed(v) for k, v in {**feeds, **seeds}.items()})
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
