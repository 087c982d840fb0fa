"""Checks rules against finite differences: for a plug-in's own tests, and node by node within a model.

Nothing here knows a rule. What is run is the operator itself, by whatever implements it, and the graph that
its rule emits; the two have to agree on every derivative, and with the bias rule on the full-gradient
identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.differences import DOUBLE, SINGLE, Precision, Summary, compare, summarise
from onnxplain.engine.errors import RuleError, UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.custom import is_kept
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.custom_ops import CustomOps
from onnxplain.engine.session.providers import REFERENCE, ProviderSpec
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

#: Largest part of the sum of magnitudes that the full-gradient identity of one node may leave over.
COMPLETENESS = {DOUBLE: 1e-9, SINGLE: 1e-4}


@dataclass(frozen=True)
class Gradcheck:
    """What :func:`gradcheck` found; a rule that failed is an error instead.

    Attributes:
        operator: With domain.
        precision: ``float64`` or ``float32``.
        error: Largest difference of derivative and slope, relative to the size that is to be expected.
        completeness: What the full-gradient identity leaves over, relative to its terms; None without a bias rule.
        directions: How many were judged, over all operands.
        set_aside: How many were not, because of kinks or rounding.
        symbolic: Whether the rule also works where no size is known beforehand.
    """

    operator: str
    precision: str
    error: float
    completeness: float | None
    directions: int
    set_aside: int
    symbolic: bool


class Differentiated:
    """A small graph, and beside it the vector-Jacobian product that the rules make of it.

    Args:
        model: In canonical form; its float outputs are seeded.
        wanted: Names of the tensors to differentiate by.
        providers, custom_ops: What runs it.
        biases: Return node biases with their adjoints as well.
    """

    def __init__(
        self,
        model: ir.Model,
        wanted: Sequence[str],
        providers: str | Sequence[ProviderSpec] | None,
        custom_ops: CustomOps | None = None,
        *,
        biases: bool = True,
    ) -> None:
        self.wanted = list(wanted)
        self.outputs = [v.name or "" for v in model.graph.outputs if is_float(v)]
        self.plain = Session(Rewriter(model, keep_quantised=True).finish(), providers, threads=1, custom_ops=custom_ops)
        rewriter = Rewriter(model)
        seeds, self.seeds = {}, {}
        for name in self.outputs:
            value = rewriter.value(name)
            seed = rewriter.add_input(f"cotangent/{name}", value.dtype or ir.DataType.FLOAT, None)
            seed.shape = value.shape
            seeds[value], self.seeds[name] = seed, seed.name or ""
        tensors = [rewriter.value(n) for n in wanted]
        adjoints = rewriter.backward_from(seeds, tensors, collect=True)
        if adjoints.obstacles:
            raise adjoints.obstacles[0]
        self.gradients = {
            n: rewriter.add_output(f"gradient/{n}", adjoints.of[v])
            for n, v in zip(wanted, tensors, strict=True)
            if v in adjoints.of
        }
        self.pairs: list[tuple[str, str]] = []
        self.complete = biases
        for node in adjoints.nodes if biases else ():
            entry = BIAS.find(node.domain, node.op_type, node.version(rewriter.op.opset))
            self.complete = self.complete and entry is not None
            for part in entry.rule(rewriter.op, node) if entry is not None else ():
                adjoint = adjoints.of.get(node.outputs[part.output])
                if adjoint is not None:
                    pair = (part.full(rewriter.op), adjoint)
                    names = [rewriter.add_output(f"part/{len(self.pairs)}/{i}", v) for i, v in enumerate(pair)]
                    self.pairs.append((names[0], names[1]))
        self.session = Session(rewriter.finish(), providers, threads=1, custom_ops=custom_ops)

    def cotangents(self, feeds: Arrays, seed: int) -> dict[str, Array]:
        """A random cotangent per float output."""
        results = self.plain.run(feeds, self.outputs)
        rng = np.random.default_rng(seed)
        return {n: np.asarray(rng.standard_normal(y.shape)).astype(y.dtype) for n, y in results.items()}

    def scalar(self, feeds: Arrays, cotangents: Arrays) -> float:
        """``<cotangents, outputs>`` of the plain graph."""
        results = self.plain.run(feeds, self.outputs)
        return float(sum(np.vdot(u.astype(np.float64), results[n].astype(np.float64)) for n, u in cotangents.items()))

    def products(self, feeds: Arrays, cotangents: Arrays) -> dict[str, Array]:
        """The vector-Jacobian product per wanted tensor; zeros where no path leads."""
        found = self._run(feeds, cotangents, list(self.gradients.values()))
        return {n: found[self.gradients[n]] if n in self.gradients else np.zeros_like(feeds[n]) for n in self.wanted}

    def _run(self, feeds: Arrays, cotangents: Arrays, names: Sequence[str]) -> dict[str, Array]:
        return self.session.run({**feeds, **{self.seeds[n]: u for n, u in cotangents.items()}}, names)

    def residual(self, feeds: Arrays, cotangents: Arrays) -> float | None:
        """``<u, y> - sum <dx, x> - sum <a, c>``, relative to the terms; None without bias rules for all nodes."""
        if not self.complete:
            return None
        found = self._run(
            feeds, cotangents, [*self.outputs, *self.gradients.values(), *(n for p in self.pairs for n in p)]
        )
        wide = {n: a.astype(np.float64) for n, a in found.items()}
        total = sum(float(np.vdot(u, wide[n])) for n, u in cotangents.items())
        terms = [float(np.vdot(wide[g], feeds[n])) for n, g in self.gradients.items()]
        terms += [float(np.sum(np.broadcast_to(wide[c], wide[a].shape) * wide[a])) for c, a in self.pairs]
        scale = sum(abs(t) for t in terms) + abs(total)
        return abs(total - sum(terms)) / scale if scale else 0.0


def slopes(
    graph: Differentiated, feeds: Arrays, wanted: Sequence[str], precision: Precision, *, count: int, seed: int
) -> Summary:
    """Finite differences of a small graph against what its rules give, for some of its inputs together."""
    cotangents = graph.cotangents(feeds, seed)

    def at(points: Mapping[str, Array], row: int) -> dict[str, Array]:
        return {**feeds, **{n: np.ascontiguousarray(points[n][row]) for n in wanted}}

    def evaluate(points: Mapping[str, Array], samples: Array) -> Array:
        return np.array([graph.scalar(at(points, i), cotangents) for i in range(len(samples))])

    def gradient(points: Mapping[str, Array], samples: Array) -> Mapping[str, Array]:
        rows = [graph.products(at(points, i), cotangents) for i in range(len(samples))]
        return {n: np.stack([row[n] for row in rows]) for n in wanted}

    x = {n: feeds[n][None] for n in wanted}
    return summarise(compare(evaluate, gradient, x, precision, count=count, seed=seed))


# ----- for tests of plug-ins ------------------------------------------------------------------------


def gradcheck(
    operator: str,
    *operands: Any,
    domain: str,
    version: int = 1,
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
    wrt: Sequence[int] | None = None,
    implementation: type | onnx.FunctionProto | str | Path | None = None,
    opset: int = 18,
    directions: int = 6,
    seed: int = 0,
) -> Gradcheck:
    """Check an operator's rules against finite differences; for tests.

    Every float operand is differentiated alone, then all of them together, along random directions at
    random points near the given ones; the bias rule, where there is one, has to close the full-gradient
    identity; and the gradient has to be the same where no size is known beforehand.

    Args:
        operator: Name of the operator.
        operands: Arrays in its order, None where an optional one is left out. Keep them away from where
            the operator has no derivative.
        domain: Its domain.
        version: The version of the domain.
        attributes: The node's attributes.
        outputs: Number of results.
        wrt: Places of the operands to differentiate by; all of floats by default.
        implementation: What computes the operator: an ``onnx.reference.op_run.OpRun`` class or the
            ``onnx.FunctionProto`` of a model-local function (the check then is in float64), or the path of
            a library of custom operators for onnxruntime (in float32). None for operators that are known.
        opset: Version of the standard's domain, for what the rule emits.
        directions: Random directions per set of operands.
        seed: Of all draws.

    Returns:
        The figures.

    Raises:
        RuleError: There is no rule, it differs from the derivative, or too few directions could be judged.
        UnsupportedNodeError: The rule refuses these operands.
    """
    library = isinstance(implementation, (str, Path))
    precision, dtype = (SINGLE, np.float32) if library else (DOUBLE, np.float64)
    arrays = [_as(dtype, a) for a in operands]
    called = f"{domain or 'ai.onnx'}::{operator}"
    places = (
        list(wrt) if wrt is not None else [i for i, a in enumerate(arrays) if a is not None and a.dtype.kind == "f"]
    )
    if not places:
        raise RuleError(f"{called}: no operand is of floats, so there is nothing to differentiate by; give one that is")
    test = _Test(operator, arrays, domain, version, dict(attributes or {}), outputs, implementation, opset)
    found: list[Summary] = []
    residuals: list[float] = []
    for chosen in [[i] for i in places] + ([places] if len(places) > 1 else []):
        graph, feeds, names = test.graph(chosen)
        summary = slopes(graph, feeds, names, precision, count=directions, seed=seed)
        where = f"{called}, by operand {', '.join(map(str, chosen))}"
        _require(summary, where)
        found.append(summary)
        residual = graph.residual(feeds, graph.cotangents(feeds, seed))
        if residual is not None:
            residuals.append(residual)
            if not residual <= COMPLETENESS[precision]:
                raise RuleError(
                    f"{where}: the bias rule leaves {residual:.2g} of the full-gradient identity over; it has to give "
                    "c = h(p) - sum of J p over the active operands"
                )
    return Gradcheck(
        operator=called,
        precision="float32" if library else "float64",
        error=max(s.error for s in found),
        completeness=max(residuals) if residuals else None,
        directions=sum(s.judged for s in found),
        set_aside=sum(s.directions - s.judged for s in found),
        symbolic=_same_with_symbols(test, places, seed, precision),
    )


def _as(dtype: Any, operand: Any) -> Array | None:
    if operand is None:
        return None
    array = np.asarray(operand)
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _require(summary: Summary, where: str) -> None:
    if summary.verdict == "fail":
        raise RuleError(
            f"{where}: the gradient rule differs from finite differences along {summary.differing} of "
            f"{summary.judged} directions, by up to {summary.error:.2g} of what is to be expected; mend the rule"
        )
    if summary.flat and summary.judged:
        raise RuleError(f"{where}: the operator is flat at these operands, which shows nothing; give others")
    if summary.verdict == "undecided":
        raise RuleError(
            f"{where}: only {summary.judged - summary.differing} of {summary.directions} directions could be judged "
            f"({summary.kinks} meet kinks, {summary.rounding} drown in rounding, {summary.differing} differ); "
            "give operands away from where the operator has no derivative, or more directions"
        )


def _same_with_symbols(test: _Test, places: Sequence[int], seed: int, precision: Precision) -> bool:
    """Whether the gradient is found where no size is known; where it is, it has to be the same."""
    known, feeds, names = test.graph(places)
    try:
        unknown = test.graph(places, symbolic=True)[0]
    except UnsupportedNodeError:
        return False
    cotangents = known.cotangents(feeds, seed)
    first, second = known.products(feeds, cotangents), unknown.products(feeds, cotangents)
    for n in names:
        gap = float(np.linalg.norm((first[n] - second[n]).astype(np.float64)))
        if first[n].shape != second[n].shape or gap > precision.tolerance * max(float(np.linalg.norm(first[n])), 1e-30):
            raise RuleError(
                f"{test.called}: the gradient is another one where sizes are known only at run time (off by {gap:.2g}); "
                "take sizes from op.Shape where node.dims() has none"
            )
    return True


class _Test:
    """Models of one node, with some operands as inputs and the others as constants."""

    def __init__(
        self,
        operator: str,
        arrays: Sequence[Array | None],
        domain: str,
        version: int,
        attributes: dict[str, Any],
        outputs: int,
        implementation: type | onnx.FunctionProto | str | Path | None,
        opset: int,
    ) -> None:
        self.called = f"{domain or 'ai.onnx'}::{operator}"
        self.operator, self.domain, self.arrays, self.attributes = operator, domain, list(arrays), attributes
        self.names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
        self.outputs = [f"y{i}" for i in range(outputs)]
        self.opsets = [onnx.helper.make_opsetid("", opset)]
        if domain not in ("", "ai.onnx"):
            self.opsets.append(onnx.helper.make_opsetid(domain, version))
        self.function = implementation if isinstance(implementation, onnx.FunctionProto) else None
        self.custom: CustomOps | None = None
        if implementation is not None and not isinstance(implementation, onnx.FunctionProto):
            self.custom = implementation
        self.providers = None if isinstance(implementation, (str, Path)) else REFERENCE

    def graph(
        self, places: Sequence[int], symbolic: bool = False
    ) -> tuple[Differentiated, dict[str, Array], list[str]]:
        """The differentiated model, the arrays that it is fed, and the names of what is differentiated by."""
        names = [self.names[i] for i in places]
        feeds = {n: a for n, a in zip(self.names, self.arrays, strict=True) if a is not None and n in names}
        model = canonicalise(read_model(self._proto(feeds, symbolic)))
        types = {v.name: v for v in model.graph.outputs if not is_float(v) and v.dtype is None}
        if types and not is_kept(self.domain, self.operator):
            raise RuleError(f"{self.called}: there is no rule; register one with rules.gradient or rules.elementwise")
        if types:
            raise RuleError(
                f"{self.called}: the type of its result is not known; declare it with rules.result or rules.result_like"
            )
        return Differentiated(model, names, self.providers, self.custom), feeds, names

    def _proto(self, feeds: Arrays, symbolic: bool) -> onnx.ModelProto:
        helper = onnx.helper
        node = helper.make_node(self.operator, self.names, self.outputs, domain=self.domain, **self.attributes)
        infos = []
        for n, a in feeds.items():
            sizes = [f"{n}_{i}" for i in range(a.ndim)] if symbolic else list(a.shape)
            infos.append(helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), sizes))
        weights = [
            onnx.numpy_helper.from_array(a, n)
            for n, a in zip(self.names, self.arrays, strict=True)
            if a is not None and n not in feeds
        ]
        results = [helper.make_empty_tensor_value_info(n) for n in self.outputs]
        graph = helper.make_graph([node], self.operator, infos, results, weights)
        functions = [self.function] if self.function is not None else []
        version = max(8, helper.find_min_ir_version_for(self.opsets[:1], ignore_unknown=True))
        return helper.make_model(graph, opset_imports=self.opsets, ir_version=version, functions=functions)
