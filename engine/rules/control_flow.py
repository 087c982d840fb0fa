"""If, Loop and Scan: the walk goes on inside their graphs.

The operands of such a node are its inputs and, after them, the values of outer graphs that its own graphs
read; contributions are given for both. The backward node recomputes the forward step it needs:

- If: an If on the same condition over the adjoints of the two branches.
- Scan: a Scan in the opposite direction. The states that each step began with are kept as further results of
  the forward node (the tape); adjoints of captured values add up in states.
- Loop: the same with a Loop, whose number of trips is the length of the tape, so that it may be known only at
  run time and be zero. States keep their shape from step to step; the tape has one entry size.

Node bias: ``c = y - J p`` with the directional derivative ``J p`` in the direction of the operands
themselves, carried along with the forward step (:func:`onnxplain.engine.subgraphs.tangents`). It has the
result's shape and place like any other bias and counts as implicit: constants that are added inside a body
are used at every step, so that no single place of theirs could be named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.table import REASON
from onnxplain.engine.graph.passes.loop_states import CHANGES
from onnxplain.engine.graph.shapes import dims, is_container, set_dims
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Bias, Contribution, bias, gradient
from onnxplain.engine.subgraphs import (
    Copy,
    adjoints,
    control,
    copy_into,
    formal,
    new_graph,
    placeholder,
    returned,
    tangents,
)


def _graph(node: Primal, name: str = "body") -> ir.Graph:
    return node.ir.attributes[name].as_graph()


def _check_tensors(node: Primal) -> None:
    """Sequences that could not be resolved into tensors have no adjoint of one shape."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and node.is_active(value) and is_container(value):
            raise node.unsupported(
                *node.ir.meta.get(
                    REASON,
                    (f"it reads or gives the sequence or optional '{value.name}'", "use tensors in its place"),
                )
            )


def _captured(node: Primal) -> list[tuple[int, ir.Value]]:
    """Active captured values with their places among the operands."""
    first = len(node.ir.inputs)
    return [(i, x) for i, x in enumerate(node.inputs) if i >= first and x is not None and node.active(i)]


def _biases(op: Builder, pairs: Sequence[tuple[int, ir.Value, ir.Value]]) -> list[Bias]:
    """``y - J p`` per (output, y, J p)."""
    terms = []
    for output, y, product in pairs:
        value = op.Sub(y, product)
        value.shape = y.shape
        terms.append(Bias(value, "implicit", output=output))
    return terms


# ----- If ---------------------------------------------------------------------------------------------


@gradient("If")
def if_rule(op: Builder, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
    """dx = If(condition)(adjoint of the branch that was taken); nothing for the condition."""
    _check_tensors(node)
    wanted = _captured(node)
    values = [x for _, x in wanted]
    branches = {}
    for name in ("then_branch", "else_branch"):
        graph, inner = new_graph(op, f"{node.name}/{name}/adjoint")
        copy = copy_into(inner, _graph(node, name), [])
        seeds = {y: d for y, d in zip(copy.outputs, dy, strict=False) if d is not None}
        returned(inner, graph, adjoints(inner, node.walk, copy, seeds, values), values)
        branches[name] = graph
    results = control(op, "If", [node.x()], values, **branches)
    parts: list[Contribution] = [None] * len(node.inputs)
    for (i, _), value in zip(wanted, results, strict=True):
        parts[i] = value
    return parts


@bias("If")
def if_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y - J p of the branch that was taken."""
    outputs = [i for i, y in enumerate(node.outputs) if node.is_active(y)]
    direction = {x: x for _, x in _captured(node)}
    branches = {}
    for name in ("then_branch", "else_branch"):
        graph, inner = new_graph(op, f"{node.name}/{name}/tangent")
        copy = copy_into(inner, _graph(node, name), [])
        ys = [copy.outputs[i] for i in outputs]
        returned(inner, graph, tangents(inner, node.walk, copy, direction, ys), ys)
        branches[name] = graph
    likes = [node.outputs[i] for i in outputs]
    products = control(op, "If", [node.x()], likes, **branches)
    return _biases(op, list(zip(outputs, likes, products, strict=True)))


# ----- Scan -------------------------------------------------------------------------------------------


class _Scan:
    """Layout of a Scan node: ``states`` come first, among inputs and outputs, outside and inside."""

    def __init__(self, node: Primal) -> None:
        self.node, self.body = node, _graph(node)
        self.scanned = int(node.attribute("num_scan_inputs"))
        self.states = len(node.ir.inputs) - self.scanned
        self.kept = len(self.body.outputs) - self.states
        self.input_axes = self._numbers("scan_input_axes", self.scanned)
        self.input_directions = self._numbers("scan_input_directions", self.scanned)
        self.output_axes = self._numbers("scan_output_axes", self.kept)
        self.output_directions = self._numbers("scan_output_directions", self.kept)

    def _numbers(self, name: str, count: int) -> list[int]:
        given = list(self.node.attribute(name) or ())
        return given + [0] * (count - len(given))

    def active_states(self) -> list[int]:
        return [i for i in range(self.states) if self.node.is_active(self.body.inputs[i])]

    def active_scanned(self) -> list[int]:
        return [j for j in range(self.scanned) if self.node.active(self.states + j)]

    def tape(self, op: Builder, states: Sequence[int]) -> list[ir.Value]:
        """Let the forward node return what each step began with."""
        total = self.kept + len(states)
        for name, numbers in (
            ("scan_output_axes", self.output_axes),
            ("scan_output_directions", self.output_directions),
        ):
            self.node.ir.attributes[name] = ir.AttrInt64s(name, numbers + [0] * (total - self.kept))
        return _taped(op, self.node, self.body, [self.body.inputs[i] for i in states])


def _taped(op: Builder, node: Primal, body: ir.Graph, values: Sequence[ir.Value]) -> list[ir.Value]:
    """Append scan outputs with ``values`` of the body, ``[steps, ...]`` each."""
    inner = op.inside(body)
    returned(inner, body, values, values)
    count = len(node.ir.outputs)
    node.ir.resize_outputs(count + len(values))
    tape = list(node.ir.outputs)[count:]
    for kept, value in zip(tape, values, strict=True):
        kept.name, kept.type = op.unique_name(f"{node.name}/tape/{value.name}"), value.type
        known = dims(value)
        if known is not None:
            set_dims(kept, [None, *known])
    return tape


@gradient("Scan", since=9)
def scan(op: Builder, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
    """dx = the steps' adjoints in the opposite order, each recomputed from the state it began with."""
    _check_tensors(node)
    form, stem = _Scan(node), f"{node.name}/adjoint"
    body, active, scanned = form.body, form.active_states(), form.active_scanned()
    captured = [x for _, x in _captured(node)]
    graph, inner = new_graph(op, stem)
    d_states = [formal(inner, graph, body.inputs[i], stem) for i in active]
    totals = [formal(inner, graph, x, stem) for x in captured]
    formals = [placeholder(inner, v, stem) for v in body.inputs]
    kept = [k for k in range(form.kept) if form.states + k < len(dy) and dy[form.states + k] is not None]
    d_kept = [placeholder(inner, body.outputs[form.states + k], stem) for k in kept]
    copy = copy_into(inner, body, formals)
    seeds = {copy.outputs[i]: d for i, d in zip(active, d_states, strict=True)}
    seeds.update({copy.outputs[form.states + k]: d for k, d in zip(kept, d_kept, strict=True)})
    wanted = [formals[i] for i in active] + [formals[form.states + j] for j in scanned] + captured
    found = adjoints(inner, node.walk, copy, seeds, wanted)
    steps = found[len(active) : len(active) + len(scanned)]
    sums = [inner.Add(t, a) for t, a in zip(totals, found[len(active) + len(scanned) :], strict=True)]
    results = [*found[: len(active)], *sums, *steps]
    likes = [*d_states, *totals, *(formals[form.states + j] for j in scanned)]
    returned(inner, graph, results, likes)
    initial = [_or_zeros(op, dy[i], node.outputs[i]) for i in active] + [zeros_like(op, x) for x in captured]
    sequences = _sequences(op, form, graph, formals, list(zip(kept, d_kept, strict=True)), dy)
    described = [node.inputs[i] for i in active] + captured + [node.inputs[form.states + j] for j in scanned]
    outcome = control(
        op,
        "Scan",
        [*initial, *(s[0] for s in sequences)],
        [d for d in described if d is not None],
        body=graph,
        num_scan_inputs=len(sequences),
        scan_input_axes=[s[1] for s in sequences],
        scan_input_directions=[s[2] for s in sequences],
        scan_output_axes=[form.input_axes[j] for j in scanned],
        scan_output_directions=[1 - form.input_directions[j] for j in scanned],
    )
    places = [*active, *(i for i, _ in _captured(node)), *(form.states + j for j in scanned)]
    return _at(node, places, outcome)


def _sequences(
    op: Builder,
    form: _Scan,
    graph: ir.Graph,
    formals: Sequence[ir.Value],
    d_kept: Sequence[tuple[int, ir.Value]],
    dy: Sequence[ir.Value | None],
) -> list[tuple[ir.Value, int, int]]:
    """What the backward Scan goes through, with axis and direction; its formals become inputs of ``graph``."""
    sequences: list[tuple[ir.Value, int, int]] = []
    needed = [i for i in range(form.states) if formals[i].uses()]
    for i, kept in zip(needed, form.tape(op, needed), strict=True):
        graph.inputs.append(formals[i])
        sequences.append((kept, 0, 1))
    for k, value in d_kept:
        given = dy[form.states + k]
        assert given is not None
        graph.inputs.append(value)
        sequences.append((given, form.output_axes[k], 1 - form.output_directions[k]))
    for j in range(form.scanned):
        value, whole = formals[form.states + j], form.node.x(form.states + j)
        # A Scan has at least one sequence: the number of steps comes from it.
        if value.uses() or (not sequences and j == form.scanned - 1):
            graph.inputs.append(value)
            sequences.append((whole, form.input_axes[j], 1 - form.input_directions[j]))
    return sequences


def _or_zeros(op: Builder, adjoint: ir.Value | None, like: ir.Value) -> ir.Value:
    return adjoint if adjoint is not None else zeros_like(op, like)


def _at(node: Primal, places: Sequence[int], values: Sequence[ir.Value]) -> list[Contribution]:
    parts: list[Contribution] = [None] * len(node.inputs)
    for i, value in zip(places, values, strict=True):
        parts[i] = value
    return parts


@bias("Scan", since=9)
def scan_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y - J p, with the tangents of the states as further states."""
    form, stem = _Scan(node), f"{node.name}/tangent"
    body, active, scanned = form.body, form.active_states(), form.active_scanned()
    graph, inner = new_graph(op, stem)
    states = [formal(inner, graph, v, stem) for v in body.inputs[: form.states]]
    t_states = [formal(inner, graph, body.inputs[i], stem) for i in active]
    steps = [formal(inner, graph, v, stem) for v in body.inputs[form.states :]]
    copy = copy_into(inner, body, [*states, *steps])
    direction = {states[i]: t for i, t in zip(active, t_states, strict=True)}
    direction.update({steps[j]: steps[j] for j in scanned})
    direction.update({x: x for _, x in _captured(node)})
    kept = [
        k
        for k in range(form.kept)
        if form.states + k < len(node.outputs) and node.is_active(node.outputs[form.states + k])
    ]
    outputs = [copy.outputs[i] for i in active] + [copy.outputs[form.states + k] for k in kept]
    products = tangents(inner, node.walk, copy, direction, outputs)
    returned(inner, graph, [*copy.outputs[: form.states], *products], [*states, *outputs])
    places = [*active, *(form.states + k for k in kept)]
    outcome = control(
        op,
        "Scan",
        [*node.inputs[: form.states], *_initial_tangents(op, node, active), *node.ir.inputs[form.states :]],
        [*node.outputs[: form.states], *(node.outputs[i] for i in places)],
        body=graph,
        num_scan_inputs=form.scanned,
        scan_input_axes=form.input_axes,
        scan_input_directions=form.input_directions,
        scan_output_axes=[form.output_axes[k] for k in kept],
        scan_output_directions=[form.output_directions[k] for k in kept],
    )[form.states :]
    return _biases(op, [(i, node.outputs[i], t) for i, t in zip(places, outcome, strict=True)])


# ----- Loop -------------------------------------------------------------------------------------------


def _check_states(node: Primal, body: ir.Graph) -> None:
    """A state whose shape changes from step to step cannot be kept in one tensor."""
    for value in list(body.inputs)[2:]:
        if value.meta.get(CHANGES):
            raise node.unsupported(
                f"its state '{value.name}' changes its shape from step to step",
                "keep the shape of loop-carried values fixed, and collect results as scan outputs",
            )


def _initial_tangents(op: Builder, node: Primal, places: Sequence[int]) -> list[ir.Value]:
    """The direction that states begin with: zero where the operand is a constant of the derivative."""
    return [node.x(i) if node.active(i) else zeros_like(op, node.x(i)) for i in places]


@gradient("Loop")
def loop(op: Builder, node: Primal, *dy: ir.Value | None) -> Sequence[Contribution]:
    """dx = the trips' adjoints in the opposite order, each recomputed from the state it began with."""
    body, stem = _graph(node), f"{node.name}/adjoint"
    _check_tensors(node)
    _check_states(node, body)
    count = max(len(node.ir.inputs) - 2, 0)
    active = [i for i in range(count) if node.is_active(body.inputs[2 + i])]
    captured = [x for _, x in _captured(node)]
    graph, inner = new_graph(op, stem)
    trip = formal(inner, graph, body.inputs[0], stem)
    going = formal(inner, graph, body.inputs[1], stem)
    d_states = [formal(inner, graph, body.inputs[2 + i], stem) for i in active]
    totals = [formal(inner, graph, x, stem) for x in captured]
    formals = [placeholder(inner, v, stem) for v in body.inputs]
    kept = [j for j in range(count, len(dy)) if dy[j] is not None]
    d_kept = [placeholder(inner, body.outputs[1 + j], stem) for j in kept]
    copy = copy_into(inner, body, formals)
    seeds = {copy.outputs[1 + i]: d for i, d in zip(active, d_states, strict=True)}
    seeds.update({copy.outputs[1 + j]: d for j, d in zip(kept, d_kept, strict=True)})
    found = adjoints(inner, node.walk, copy, seeds, [*(formals[2 + i] for i in active), *captured])
    sums = [inner.Add(t, a) for t, a in zip(totals, found[len(active) :], strict=True)]
    likes = [going, *d_states, *totals]
    returned(inner, graph, [going, *found[: len(active)], *sums], likes)
    needed = [i for i in range(len(formals)) if i > 1 and formals[i].uses()]
    tape = _taped(op, node, body, [body.inputs[0], *(body.inputs[i] for i in needed)])
    trips = op.Squeeze(op.Shape(tape[0]), [0])
    sources = [(formals[0], tape[0]), *zip((formals[i] for i in needed), tape[1:], strict=True)]
    sources += [(d, given) for d, j in zip(d_kept, kept, strict=True) if (given := dy[j]) is not None]
    _read_back(op, graph, sources, trips, trip)
    formals[1].replace_all_uses_with(op.constant(np.asarray(True)))
    initial = [_or_zeros(op, dy[i], node.outputs[i]) for i in active] + [zeros_like(op, x) for x in captured]
    described = [x for x in (*(node.inputs[2 + i] for i in active), *captured) if x is not None]
    outcome = control(op, "Loop", [trips, None, *initial], described, body=graph)
    places = [*(2 + i for i in active), *(i for i, _ in _captured(node))]
    return _at(node, places, outcome)


def _read_back(
    op: Builder, graph: ir.Graph, sources: Sequence[tuple[ir.Value, ir.Value]], trips: ir.Value, trip: ir.Value
) -> None:
    """At the start of the backward body: the entries of the tapes that belong to the trip that is undone."""
    inner = op.inside(graph)
    inner.before = next(iter(graph))
    index = inner.Sub(inner.Sub(trips, 1), trip)
    for value, whole in sources:
        entry = inner.Gather(whole, index, axis=0)
        entry.type, entry.shape = value.type, value.shape
        value.replace_all_uses_with(entry, replace_graph_outputs=True)


@bias("Loop")
def loop_bias(op: Builder, node: Primal) -> Sequence[Bias]:
    """y - J p, with the tangents of the states as further states."""
    body, stem = _graph(node), f"{node.name}/tangent"
    count = max(len(node.ir.inputs) - 2, 0)
    active = [i for i in range(count) if node.is_active(body.inputs[2 + i])]
    graph, inner = new_graph(op, stem)
    formals = [formal(inner, graph, v, stem) for v in body.inputs]
    t_states = [formal(inner, graph, body.inputs[2 + i], stem) for i in active]
    copy: Copy = copy_into(inner, body, formals)
    direction = {formals[2 + i]: t for i, t in zip(active, t_states, strict=True)}
    direction.update({x: x for _, x in _captured(node)})
    kept = [j for j in range(count, len(node.outputs)) if node.is_active(node.outputs[j])]
    outputs = [copy.outputs[1 + i] for i in (*active, *kept)]
    products = tangents(inner, node.walk, copy, direction, outputs)
    returned(inner, graph, [*copy.outputs[: 1 + count], *products], [*formals[1:], *outputs])
    initial = [*node.ir.inputs, *_initial_tangents(op, node, [2 + i for i in active])]
    likes = [*node.outputs[:count], *(node.outputs[i] for i in (*active, *kept))]
    outcome = control(op, "Loop", initial, likes, body=graph)[count:]
    return _biases(op, [(i, node.outputs[i], t) for i, t in zip((*active, *kept), outcome, strict=True)])
