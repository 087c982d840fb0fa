"""Table-driven tests of operator rules: one line a variant, one generic check for all of them.

Nothing here knows a rule. For every case, in the operator's own one-node model:

1. *forward*: the rewritten graph returns what onnxruntime returns for the plain model (float32);
2. *gradient*: the rewritten graph run in float64 by ``onnx.reference`` equals central differences of the
   plain model along random directions, for the operands alone and together;
3. *runtime*: onnxruntime's float32 gradient equals the float64 one;
4. *completeness*: ``<a, y> = sum <dx, x> + sum <a, c>`` with the bias rule, in float64;
5. *dynamic batch*: a graph built for a symbolic batch (and again with no static size at all) gives the same.

``case("Conv", x=(2, 3, 7, 7), w=(4, 3, 3, 3), strides=[2, 2])``: operands in the operator's order; a
tuple is a shape to be drawn, ``None`` an omitted operand, an array a fixed constant.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.reference_ops import CORRECTED
from onnxplain.engine.session.session import Session

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray[Any, Any]]

#: All cases made so far, for the test that every rule has one.
ALL: list[Case] = []


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Standard normal, kept 0.05 away from zero, where most kinks are."""
    x = rng.normal(size=shape)
    return x + 0.05 * np.where(x < 0, -1.0, 1.0)


def uniform(low: float, high: float) -> Draw:
    """Uniform in a range, for domains and for keeping away from kinks."""
    return lambda rng, shape: rng.uniform(low, high, size=shape)


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """No two elements nearer than 0.05: no ties and no near-ties for max and sort."""
    count = int(np.prod(shape))
    return (rng.permutation(count) - count / 2 + 0.3).reshape(shape) * 0.05


@dataclass(frozen=True)
class Case:
    """One variant of one operator."""

    op_type: str
    operands: dict[str, Any]
    attributes: dict[str, Any]
    draw: Draw = normal
    opset: int = 18
    domain: str = ""
    outputs: int = 1
    #: Operands that are differentiated; all drawn ones by default.
    wrt: tuple[str, ...] | None = None
    #: Whether axis 0 of the first operand is a batch whose samples do not mix.
    batch: bool = True
    #: Whether the rule also works when no size of the first operand is known.
    symbolic: bool = True
    #: Whether the first operand is an initializer like the others (False) or the graph's input.
    rtol: float = 1e-7
    #: float32 against float64, relative to the norm.
    rtol32: float = 1e-5
    #: Whether onnxruntime has a float32 kernel for the operator.
    runtime: bool = True
    name: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        parts = [f"{k}={'x'.join(map(str, v)) if isinstance(v, tuple) else '_'}" for k, v in self.operands.items()]
        parts += [f"{k}={v}" for k, v in self.attributes.items()]
        return self.name or f"{self.op_type}-{self.opset}({', '.join(parts)})".replace(" ", "")


def case(op_type: str, *, name: str = "", attributes: dict[str, Any] | None = None, **arguments: Any) -> Case:
    """A case; arguments that are fields of :class:`Case` are options, shapes and arrays are operands.

    Everything else is an attribute of the operator; ``attributes=`` takes those whose names clash.
    """
    fields = {"draw", "opset", "domain", "outputs", "wrt", "batch", "symbolic", "rtol", "rtol32", "runtime"}
    options = {k: arguments.pop(k) for k in list(arguments) if k in fields}
    operands = {k: v for k, v in arguments.items() if v is None or isinstance(v, (tuple, np.ndarray))}
    rest = {k: v for k, v in arguments.items() if k not in operands}
    result = Case(op_type, operands, {**rest, **(attributes or {})}, name=name, **options)
    ALL.append(result)
    return result


def parametrize(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """The decorator for a family's test function."""
    return pytest.mark.parametrize("case", cases, ids=[c.id for c in cases])


# ----- models ---------------------------------------------------------------------------------------


def arrays_of(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """The case's operands, drawn and fixed."""
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    drawn = {}
    for name, operand in case.operands.items():
        if isinstance(operand, tuple):
            drawn[name] = np.asarray(case.draw(rng, operand), dtype=np.float64)
        elif operand is not None:
            drawn[name] = operand
    return drawn


def _drawn(case: Case) -> list[str]:
    names = [k for k, v in case.operands.items() if isinstance(v, tuple)]
    return [n for n in names if case.wrt is None or n in case.wrt]


def model_of(case: Case, arrays: dict[str, np.ndarray[Any, Any]], inputs: Sequence[str], sizes: str) -> onnx.ModelProto:
    """One node; ``inputs`` are graph inputs, other operands initializers. ``sizes``: static, batch or none."""
    node = helper.make_node(
        case.op_type,
        [k if v is not None else "" for k, v in case.operands.items()],
        [f"y{i}" for i in range(case.outputs)],
        domain=case.domain,
        **case.attributes,
    )
    infos = []
    for name in inputs:
        array = arrays[name]
        shape: list[Any] = list(array.shape)
        if shape and sizes == "batch" and case.batch and name == inputs[0]:
            shape[0] = "N"
        elif sizes == "none" and name == inputs[0]:
            shape = [f"{name}{i}" for i in range(len(shape))]
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    weights = [onnx.numpy_helper.from_array(a, k) for k, a in arrays.items() if k not in inputs]
    results = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(case.outputs)]
    graph = helper.make_graph([node], case.op_type, infos, results, weights)
    opsets = [helper.make_opsetid("", case.opset)]
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, 1))
    ir_version = max(8, helper.find_min_ir_version_for(opsets[:1]))
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return onnx.shape_inference.infer_shapes(proto)


def _as32(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}


def _plain(proto: onnx.ModelProto, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    with np.errstate(all="ignore"):
        return [np.asarray(y) for y in ReferenceEvaluator(proto, new_ops=CORRECTED).run(None, feeds)]


def _rewritten(
    proto: onnx.ModelProto, wrt: Sequence[str], float_outputs: Sequence[str]
) -> tuple[Any, dict[str, str], dict[str, str], list[tuple[str, str]], set[str]]:
    """Rewritten model, seed input per output, gradient output per operand, (bias, adjoint) output pairs, constant outputs."""
    rewriter = Rewriter(canonicalise(read_model(proto)))
    wanted = [rewriter.value(n) for n in wrt]
    seeds, seed_names = {}, {}
    for name in float_outputs:
        value = rewriter.value(name)
        assert is_float(value), f"output {name} is no float tensor"
        seed = rewriter.add_input(f"seed_{name}", value.dtype, None)
        seed.shape = value.shape
        seeds[value], seed_names[name] = seed, seed.name
    adjoints = rewriter.backward_from(seeds, wanted)
    gradients = {n: rewriter.add_output(f"d_{n}", adjoints.of[v]) for n, v in zip(wrt, wanted, strict=True)}
    pairs = []
    for node in adjoints.nodes:
        entry = BIAS.find(node.domain, node.op_type, rewriter.op.opset)
        assert entry is not None, f"{node.op_type} has a gradient rule and no bias rule"
        for i, part in enumerate(entry.rule(rewriter.op, node)):
            adjoint = adjoints.of.get(node.outputs[part.output])
            if adjoint is not None:
                pairs.append(
                    (
                        rewriter.add_output(f"c_{node.name}_{i}", part.full(rewriter.op)),
                        rewriter.add_output(f"a_{node.name}_{i}", adjoint),
                    )
                )
    constant = {n for n, v in zip(seed_names, seeds, strict=True) if v not in adjoints.path.active}
    return rewriter.finish(), seed_names, gradients, pairs, constant


# ----- the check ------------------------------------------------------------------------------------


def check(case: Case) -> None:
    """Run all five checks of this module's text on one case."""
    arrays = arrays_of(case)
    drawn = _drawn(case)
    subsets = [drawn] if len(drawn) == 1 else [*([n] for n in drawn), drawn]
    for wrt in subsets:
        exact = _check_exact(case, arrays, wrt)
        if case.runtime:
            _check_runtime(case, arrays, wrt, exact, "static")
            if wrt[0] == drawn[0]:
                _check_runtime(case, arrays, wrt, exact, "batch")
                if case.symbolic:
                    _check_runtime(case, arrays, wrt, exact, "none")
    if case.batch and case.runtime and drawn[0] == next(iter(case.operands)):
        _check_samples(case, arrays, drawn[0])


def _seeds(results: Sequence[np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    return {f"y{i}": np.asarray(rng.normal(size=y.shape)) for i, y in enumerate(results) if y.dtype.kind == "f"}


def _check_exact(
    case: Case, arrays: dict[str, np.ndarray[Any, Any]], wrt: Sequence[str]
) -> dict[str, np.ndarray[Any, Any]]:
    proto = model_of(case, arrays, wrt, "static")
    feeds = {n: arrays[n] for n in wrt}
    results = _plain(proto, feeds)
    seeds = _seeds(results)
    model, seed_names, gradients, pairs, constant = _rewritten(proto, wrt, list(seeds))
    run = Session(model, "reference").run({**feeds, **{seed_names[n]: s for n, s in seeds.items()}})
    for i, y in enumerate(results):
        np.testing.assert_allclose(run[f"y{i}"], y, rtol=1e-10, atol=1e-12, err_msg="rewriting changed the output")
    found = {n: run[g] for n, g in gradients.items()}
    for n in wrt:
        assert found[n].shape == arrays[n].shape, f"gradient of {n}: {found[n].shape} for {arrays[n].shape}"
    _check_differences(case, proto, feeds, seeds, found)
    total = sum(float(np.vdot(seeds[n], run[n])) for n in seeds if n not in constant)
    terms = [float(np.vdot(found[n], feeds[n])) for n in wrt]
    terms += [float(np.sum(np.broadcast_to(run[c], run[a].shape) * run[a])) for c, a in pairs]
    scale = sum(abs(t) for t in terms) + abs(total) + 1e-30
    assert abs(total - sum(terms)) <= 1e-9 * scale, f"completeness: {total} against {sum(terms)} (wrt {wrt})"
    return found


def _check_differences(
    case: Case,
    proto: onnx.ModelProto,
    feeds: dict[str, np.ndarray[Any, Any]],
    seeds: dict[str, np.ndarray[Any, Any]],
    found: dict[str, np.ndarray[Any, Any]],
) -> None:
    """Central differences along three random directions, with Richardson extrapolation of two steps."""
    rng = np.random.default_rng(11)

    def scalar(shift: dict[str, np.ndarray[Any, Any]], h: float) -> float:
        moved = {n: x + h * shift[n] for n, x in feeds.items()}
        results = _plain(proto, moved)
        return sum(float(np.vdot(s, results[int(n[1:])])) for n, s in seeds.items())

    for _ in range(3):
        direction = {n: rng.normal(size=x.shape) for n, x in feeds.items()}
        slopes = [(scalar(direction, h) - scalar(direction, -h)) / (2 * h) for h in (1e-4, 5e-5)]
        numeric = (4 * slopes[1] - slopes[0]) / 3
        analytic = sum(float(np.vdot(found[n], direction[n])) for n in feeds)
        scale = sum(float(np.linalg.norm(found[n]) * np.linalg.norm(direction[n])) for n in feeds) + 1e-3
        assert abs(numeric - analytic) <= case.rtol * scale, f"gradient: differences {numeric}, rule {analytic}"


def _runtime(model: onnx.ModelProto, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def _check_runtime(
    case: Case,
    arrays: dict[str, np.ndarray[Any, Any]],
    wrt: Sequence[str],
    exact: dict[str, np.ndarray[Any, Any]],
    sizes: str,
) -> None:
    arrays32 = _as32(arrays)
    proto = model_of(case, arrays32, wrt, sizes)
    feeds = {n: arrays32[n] for n in wrt}
    plain = _runtime(proto, feeds)
    seeds = {n: s.astype(plain[int(n[1:])].dtype) for n, s in _seeds(plain).items()}
    model, seed_names, gradients, *_ = _rewritten(proto, wrt, list(seeds))
    run = Session(model, threads=1).run({**feeds, **{seed_names[n]: s for n, s in seeds.items()}})
    for i, y in enumerate(plain):
        if y.size:
            assert np.max(np.abs(run[f"y{i}"] - y)) <= 1e-5 * max(1e-6, np.max(np.abs(y))), (
                "onnxruntime's output changed"
            )
    for n in wrt:
        assert run[gradients[n]].shape == arrays[n].shape
        gap = np.linalg.norm(run[gradients[n]] - exact[n])
        assert gap <= case.rtol32 * max(np.linalg.norm(exact[n]), 1e-3), (
            f"float32 gradient of {n} with {sizes} sizes: off by {gap}"
        )


def _check_samples(case: Case, arrays: dict[str, np.ndarray[Any, Any]], name: str) -> None:
    """Row n of a batch equals the result for row n alone, on one graph with a symbolic batch."""
    arrays32 = _as32(arrays)
    x = arrays32[name]
    proto = model_of(case, arrays32, [name], "batch")
    plain = _runtime(proto, {name: x})
    seeds = {n: s.astype(plain[int(n[1:])].dtype) for n, s in _seeds(plain).items()}
    model, seed_names, gradients, *_ = _rewritten(proto, [name], list(seeds))
    session = Session(model, threads=1)
    whole = session.run({name: x, **{seed_names[n]: s for n, s in seeds.items()}}, [gradients[name]])[gradients[name]]
    for n in range(len(x)):
        row = session.run(
            {name: x[n : n + 1], **{seed_names[k]: s[n : n + 1] for k, s in seeds.items()}}, [gradients[name]]
        )
        np.testing.assert_allclose(
            row[gradients[name]][0], whole[n], rtol=1e-5, atol=1e-6 * (1e-6 + np.abs(whole).max())
        )


def with_opset(cases: Sequence[Case], opset: int) -> list[Case]:
    """The same variants at another opset, for operators whose form changed."""
    copies = [replace(c, opset=opset) for c in cases]
    ALL.extend(copies)
    return copies
