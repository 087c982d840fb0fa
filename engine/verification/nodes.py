"""Which node disagrees first: searches for the culprit behind a check that failed.

Every search looks at nodes one at a time, each with the operands that it has in the model on the very
sample, so that an error does not travel: a node that is right is right even where it is fed wrongly.
Rules are searched from the target backwards, as the gradient goes; values in the order of computation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.backward import find_path
from onnxplain.engine.differences import DOUBLE, SINGLE, Precision
from onnxplain.engine.errors import OnnxplainError
from onnxplain.engine.gradcheck import Differentiated, slopes
from onnxplain.engine.graph.builder import PREFIX
from onnxplain.engine.graph.canonical import ir_version_for
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.passes.dequantize import is_quantised
from onnxplain.engine.graph.passes.double import DoublePass
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.loading import Model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.session.providers import REFERENCE, ProviderSpec
from onnxplain.engine.session.session import Session
from onnxplain.engine.verification.report import NodeFinding

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

#: So many culprits are listed.
LISTED = 5


@dataclass(frozen=True)
class Place:
    """Where a search takes place.

    Attributes:
        model: The loaded model.
        feeds: The model's inputs, one sample of each.
        wanted: Names of the attributed tensors.
        output: Name of the explained output; None for the first float one.
        providers: What the check ran on.
        seconds: How long a search may take.
    """

    model: Model
    feeds: Arrays
    wanted: Sequence[str]
    output: str | None
    providers: str | Sequence[ProviderSpec] | None
    seconds: float

    def rewriter(self) -> Rewriter:
        """A fresh graph of the model, in its float form where it has one."""
        canonical = self.model.canonical
        return Rewriter(canonical, "float_shadow" if is_quantised(canonical) else "straight_through")

    def session(self, model: ir.Model, providers: str | Sequence[ProviderSpec] | None = None) -> Session:
        """A session like the check's."""
        chosen = self.providers if providers is None else providers
        return Session(model, chosen, threads=self.model.threads, custom_ops=self.model.custom_ops)


# ----- rules ----------------------------------------------------------------------------------------


def wrong_rules(place: Place) -> list[NodeFinding]:
    """Nodes whose rule differs from finite differences of the node alone, from the target backwards."""
    rewriter = place.rewriter()
    graph, forward = rewriter.graph, list(rewriter.graph)
    wanted = [rewriter.value(n) for n in place.wanted]
    path = find_path(forward, wanted, [rewriter.output_value(place.output)])
    nodes = [n for n in forward if any(x in path.active for x in operands(n)) and any(is_float(y) for y in n.outputs)]
    fed = [x for n in nodes for x in operands(n) if x.const_value is None or x.is_graph_input()]
    values = _values(place, rewriter.model, fed)
    found: list[NodeFinding] = []
    end = time.monotonic() + place.seconds
    seen: set[tuple[Any, ...]] = set()
    for node in _unlike_first(reversed(nodes), seen):
        if time.monotonic() > end or len(found) == LISTED:
            break
        finding = _check_rule(place, graph, rewriter.model, node, path.active, values)
        if finding is not None:
            found.append(finding)
    order = {label(n): i for i, n in enumerate(reversed(nodes))}
    return sorted(found, key=lambda f: order.get(f.node, 0))


def _unlike_first(nodes: Iterable[ir.Node], seen: set[tuple[Any, ...]]) -> list[ir.Node]:
    """The nodes, those of a kind that came before at the end: where time is short, every kind has its turn."""
    first: list[ir.Node] = []
    later: list[ir.Node] = []
    for node in nodes:
        attributes = tuple(
            sorted((k, str(a.value)) for k, a in node.attributes.items() if a.type != ir.AttributeType.GRAPH)
        )
        kind = (node.domain, node.op_type, attributes)
        (later if kind in seen else first).append(node)
        seen.add(kind)
    return first + later


def _check_rule(
    place: Place, graph: ir.Graph, model: ir.Model, node: ir.Node, active: set[ir.Value], values: Arrays
) -> NodeFinding | None:
    fed = [x for x in dict.fromkeys(operands(node)) if x.const_value is None or x.is_graph_input()]
    if any((x.name or "") not in values for x in fed):
        return None  # sequences and the like are not looked at
    wanted = [x.name or "" for x in fed if x in active and is_float(x)]
    feeds = {x.name or "": values[x.name or ""] for x in fed}
    if not wanted:
        return None
    for precision in (DOUBLE, SINGLE):
        one = _alone(node, fed, graph, model)
        try:
            if precision is DOUBLE:
                DoublePass()(one)
                wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feeds.items()}
                return _judge(
                    node,
                    Differentiated(one, wanted, REFERENCE, place.model.custom_ops, biases=False),
                    wide,
                    wanted,
                    precision,
                )
            return _judge(
                node,
                Differentiated(one, wanted, place.providers, place.model.custom_ops, biases=False),
                feeds,
                wanted,
                precision,
            )
        except OnnxplainError:
            continue  # the evaluator does not have this operator, or the runtime not this type
    return None


def _judge(
    node: ir.Node, graph: Differentiated, feeds: Arrays, wanted: Sequence[str], precision: Precision
) -> NodeFinding | None:
    for name in wanted:
        summary = slopes(graph, feeds, [name], precision, count=4, seed=0)
        if summary.verdict == "fail":
            return NodeFinding(
                label(node),
                describe(node),
                name,
                f"its rule's derivative by '{name}' differs from finite differences of the node alone along "
                f"{summary.differing} of {summary.judged} directions, by up to {summary.error:.2g} of its size",
                {"error": summary.error, "differing": summary.differing, "judged": summary.judged},
            )
    return None


def _alone(node: ir.Node, fed: Sequence[ir.Value], graph: ir.Graph, model: ir.Model) -> ir.Model:
    """A model of one node, fed with all that is computed in front of it."""
    kept = [x for x in dict.fromkeys(operands(node)) if x not in fed]
    outputs = [y for y in node.outputs if y.uses() or y.is_graph_output()] or list(node.outputs[:1])
    view = ir.GraphView(
        list(fed), outputs, nodes=[node], initializers=kept, opset_imports=dict(graph.opset_imports), name="node"
    )
    functions = [f.clone() for f in model.functions.values()]
    return ir.Model(view.clone(), ir_version=ir_version_for(graph.opset_imports), functions=functions)


def _values(
    place: Place,
    model: ir.Model,
    wanted: Iterable[ir.Value],
    providers: str | Sequence[ProviderSpec] | None = None,
    feeds: Arrays | None = None,
) -> dict[str, Array]:
    """Content of inner tensors on the sample, by name; other things than tensors are left out."""
    given = dict(place.feeds if feeds is None else feeds)
    names = [
        v.name or "" for v in dict.fromkeys(wanted) if v.name and (v.type is None or isinstance(v.type, ir.TensorType))
    ]
    shown = model.clone()
    known = {v.name: v for v in shown.graph.inputs}
    inner = {y.name: y for n in shown.graph for y in n.outputs}
    outputs = {v.name for v in shown.graph.outputs}
    shown.graph.outputs.extend(inner[n] for n in names if n in inner and n not in outputs)
    session = place.session(shown, providers)
    results = session.run({n: a for n, a in given.items() if n in known}, [n for n in names if n in inner])
    tensors = {n: a for n, a in results.items() if isinstance(a, np.ndarray)}
    return {**{n: a for n, a in given.items() if n in names}, **tensors}


# ----- values ---------------------------------------------------------------------------------------

Different = Callable[[Array, Array], float]


def first_difference(
    nodes: Iterable[ir.Node], first: Arrays, second: Arrays, differs: Different
) -> tuple[ir.Node, str, float] | None:
    """The first node, in the order of computation, one of whose results differs; with that result and by how much.

    Args:
        nodes: In that order.
        first, second: Content by name.
        differs: Gives how much two arrays differ, 0 where that is within what is allowed.
    """
    for node in nodes:
        for y in node.outputs:
            name = y.name or ""
            if name in first and name in second:
                amount = differs(first[name], second[name])
                if amount:
                    return node, name, amount
    return None


def relative_gap(tolerance: float) -> Different:
    """Largest difference over the largest number, where it is past the tolerance."""

    def differs(a: Array, b: Array) -> float:
        if a.shape != b.shape:
            return float("inf")
        if a.dtype.kind not in "fc" or not a.size:
            return float(not np.array_equal(a, b))
        with np.errstate(all="ignore"):
            wide, other = a.astype(np.float64), b.astype(np.float64)
            gap = float(np.max(np.abs(wide - other), initial=0.0, where=np.isfinite(wide) & np.isfinite(other)))
            top = float(np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide)))
        if not np.array_equal(np.isfinite(wide), np.isfinite(other)):
            return float("inf")
        return gap / max(top, 1e-30) if gap > tolerance * max(top, 1e-30) else 0.0

    return differs


def bytes_differ(a: Array, b: Array) -> float:
    """1 where two arrays are not the same byte by byte."""
    return float(a.tobytes() != b.tobytes())


@dataclass
class Sweep:
    """The model with a reverse sweep from its output, as a graph whose every tensor can be looked at.

    Attributes:
        model: The graph.
        feeds: What it takes, for one sample.
        near: By node, the attributed or inner tensor whose adjoint it helps to compute; empty for forward nodes.
    """

    model: ir.Model
    feeds: dict[str, Array]
    near: dict[ir.Node, str]


def sweep(place: Place) -> Sweep:
    """Differentiate the explained output with a random cotangent."""
    rewriter = place.rewriter()
    output = rewriter.output_value(place.output)
    (answer,) = _values(place, rewriter.model, [output]).values()
    seed = rewriter.add_input("cotangent", output.dtype or ir.DataType.FLOAT, None)
    seed.shape = output.shape
    adjoints = rewriter.backward_from({output: seed}, [rewriter.value(n) for n in place.wanted])
    for name in place.wanted:
        value = rewriter.value(name)
        if value in adjoints.of:
            rewriter.add_output(f"gradient/{name}", adjoints.of[value])
    of = {adjoint: value.name or "" for value, adjoint in adjoints.of.items()}
    model = rewriter.finish()
    near: dict[ir.Node, str] = {}
    for node in reversed(list(model.graph)):
        if (node.name or "").startswith(PREFIX):
            own = next((of[y] for y in node.outputs if y in of), "")
            users = (near.get(user, "") for y in node.outputs for user, _ in y.uses())
            near[node] = own or next((name for name in users if name), "")
    cotangent = np.asarray(np.random.default_rng(0).standard_normal(answer.shape)).astype(answer.dtype)
    return Sweep(model, {**place.feeds, seed.name or "": cotangent}, near)


def provider_difference(place: Place, other: str | Sequence[ProviderSpec], tolerance: float) -> list[NodeFinding]:
    """The first node for which another provider gives other numbers from the same operands."""
    made = sweep(place)
    graph = made.model.graph
    nodes = list(graph)
    everything = [v for n in nodes for v in (*operands(n), *n.outputs)]
    values = _values(place, made.model, everything, feeds=made.feeds)
    differs, end = relative_gap(tolerance), time.monotonic() + place.seconds
    for node in nodes:
        if time.monotonic() > end:
            break
        fed = [x for x in dict.fromkeys(operands(node)) if x.const_value is None or x.is_graph_input()]
        if any((x.name or "") not in values for x in fed):
            continue
        try:
            one = Session(_alone(node, fed, graph, made.model), other, custom_ops=place.model.custom_ops)
            results = one.run({x.name or "": values[x.name or ""] for x in fed})
        except OnnxplainError:
            continue
        found = first_difference([node], values, results, differs)
        if found is not None:
            return [_found(found, made.near, "from the same operands, the two providers give other numbers")]
    return []


def rerun_difference(place: Place) -> list[NodeFinding]:
    """The first node whose result is not the same bytes when the same graph runs again."""
    made = sweep(place)
    nodes = list(made.model.graph)
    everything = [y for n in nodes for y in n.outputs]
    first, second = (_values(place, made.model, everything, feeds=made.feeds) for _ in range(2))
    found = first_difference(nodes, first, second, bytes_differ)
    return [] if found is None else [_found(found, made.near, "run twice, it gives other bytes")]


def mixing_difference(place: Place, whole: Arrays, batched: Sequence[str], tolerance: float) -> list[NodeFinding]:
    """The first node whose first row depends on the other rows of the batch.

    Args:
        place: Of the first sample alone.
        whole: The inputs for all samples.
        batched: Names of the inputs whose first axis is the batch.
        tolerance: What rounding may change.
    """
    made = sweep(place)
    nodes = list(made.model.graph)
    everything = [y for n in nodes for y in n.outputs]
    count = len(whole[batched[0]])
    feeds = {**made.feeds, **whole}
    feeds = {n: a if n in whole else np.repeat(a, count, axis=0) for n, a in feeds.items()}
    alone = _values(place, made.model, everything, feeds=made.feeds)
    together = _values(place, made.model, everything, feeds=feeds)
    rows = {}
    for n, a in together.items():
        if n in alone and a.ndim and len(a) == count * len(alone[n]) == count:
            rows[n] = a[:1]
        elif n in alone and a.shape == alone[n].shape:
            rows[n] = a  # not one row a sample: the same for all of them, whichever they are
    found = first_difference(nodes, alone, rows, relative_gap(tolerance))
    return [] if found is None else [_found(found, made.near, "its row depends on the other rows of the batch")]


def output_difference(place: Place, tolerance: float) -> list[NodeFinding]:
    """The first tensor of the file as it is that the canonical graph computes otherwise."""
    plain, canonical = place.model.source.to_ir(), place.model.canonical
    nodes = list(plain.graph)
    everything = [y for n in nodes for y in n.outputs]
    first = _values(place, plain, everything)
    second = _values(place, canonical, [y for n in canonical.graph for y in n.outputs])
    found = first_difference(nodes, first, second, relative_gap(tolerance))
    return [] if found is None else [_found(found, {}, "its result differs from that of the file as it is")]


def _found(found: tuple[ir.Node, str, float], near: Mapping[ir.Node, str], words: str) -> NodeFinding:
    node, tensor, amount = found
    where = near.get(node, "")
    if where:
        words = f"on the way to the adjoint of '{where}', {words}"
    by = f" (by {amount:.2g} of the largest)" if np.isfinite(amount) and amount != 1 else ""
    return NodeFinding(label(node), describe(node), tensor, words + by, {"difference": amount})
