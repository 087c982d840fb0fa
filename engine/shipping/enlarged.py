"""The network at other points, and for several times its batch: copies of its nodes with sizes that fit.

Where the batch is open, the model says itself that any will do. Where it was exported with a fixed one, the sizes are
inferred anew for a larger batch; if all of them grow with it, the copy takes any batch as well, else a method
evaluates point by point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.infer import infer_node
from onnxplain.engine.graph.replay import replay
from onnxplain.engine.graph.shapes import Dim, constant, dims, static_dims
from onnxplain.engine.method import Plan
from onnxplain.engine.shipping.staging import STAGING, Staging


def staging_of(plan: Plan) -> Staging:
    """What was asked for."""
    found: Staging = plan.memo.get(STAGING) or Staging()
    return found


def between(graph: ir.Graph, ends: Sequence[ir.Value]) -> list[ir.Node]:
    """The graph's nodes on which the ends depend, in order."""
    needed = set(ends)
    found = []
    for node in reversed(graph):
        if any(y in needed for y in node.outputs):
            needed.update(operands(node))
            found.append(node)
    return found[::-1]


def again(
    plan: Plan,
    points: Mapping[str, ir.Value],
    op: Builder,
    ends: Sequence[ir.Value],
    times: int = 1,
    *,
    inferred: bool = False,
    more: Mapping[ir.Value, ir.Value] | None = None,
) -> dict[ir.Value, ir.Value]:
    """Copies of what leads from the subjects to the ends; the class stays the one chosen on the clean input.

    Args:
        plan: The graph.
        points: Per subject; ``times`` of them for each sample, the first of all samples in front.
        op: Where to emit.
        ends: What is wanted.
        times: How many points each sample has.
        inferred: In a graph with a fixed batch, say no sizes that cannot be inferred.
        more: What else is replaced.

    Returns:
        The copy of every value that has one.
    """
    substitutes = {s.value: points[s.name] for s in plan.subjects}
    if plan.seed.index is not None:
        substitutes[plan.seed.index] = joined(op, [plan.seed.index] * times)
    if times > 1:
        for value in _other_inputs(plan):
            substitutes.setdefault(value, joined(op, [value] * times))
    twins = replay(op, between(plan.rewriter.graph, ends), {**substitutes, **(more or {})})
    if times > 1:
        fixed = _fixed(plan)
        for old, new in twins.items():
            if old in substitutes:
                continue
            if fixed:
                _infer(op, old, new)
            if not fixed or (new.shape is None and not inferred):
                _scale(old, new, times, _names(plan))
    return twins


def joined(op: Builder, values: Sequence[ir.Value]) -> ir.Value:
    """Values of one shape behind each other along the batch."""
    if len(values) == 1:
        return values[0]
    result = op.Concat(*values, axis=0)
    known = dims(values[0])
    if known is not None:
        result.shape = ir.Shape([_times(known[0], len(values)), *known[1:]])
    return result


def takes_any_batch(plan: Plan) -> bool:
    """Whether what leads from the subjects to the explained tensor computes a batch of any size."""
    if not _fixed(plan):
        return True
    op = plan.rewriter.op
    start = len(op.graph)
    doubled = {s.name: joined(op, [s.value, s.value]) for s in plan.subjects}
    twins = again(plan, doubled, op, [plan.seed.explained], 2, inferred=True)
    fits = all(_count(new) == 2 * _count(old) for old, new in twins.items() if old is not plan.seed.index)
    first = [static_dims(v) or (0,) for v in (plan.seed.explained, twins.get(plan.seed.explained, plan.seed.explained))]
    op.graph.remove(list(op.graph)[start:], safe=True)
    return fits and first[1][0] == 2 * first[0][0]


def _count(value: ir.Value) -> float:
    known = static_dims(value)
    return math.prod(known) if known is not None else math.nan


def _fixed(plan: Plan) -> bool:
    """Whether the batch is a number."""
    return any(isinstance(d, int) for s in plan.subjects for d in (dims(s.value) or ())[:1])


def _other_inputs(plan: Plan) -> list[ir.Value]:
    batched = set(staging_of(plan).batched)
    return [v for v in plan.rewriter.graph.inputs if v.name in batched]


def _names(plan: Plan) -> set[int | str]:
    """What the batch is called: symbols, or its size where that is fixed."""
    values = [*(s.value for s in plan.subjects), *_other_inputs(plan)]
    return {d for v in values for d in (dims(v) or ())[:1] if d is not None}


def _times(size: Dim, times: int) -> Dim:
    if size is None:
        return None
    return size * times if isinstance(size, int) else f"{times}*{size}"


def _scale(old: ir.Value, new: ir.Value, times: int, names: set[int | str]) -> None:
    """The sizes of the original, with the larger batch: wherever it has a name, in front where it is a number."""
    known = dims(old)
    if known is not None:
        grown = [i for i, d in enumerate(known) if d in names and (i == 0 or isinstance(d, str))]
        new.shape = ir.Shape([_times(d, times) if i in grown else d for i, d in enumerate(known)])


def _infer(op: Builder, old: ir.Value, new: ir.Value) -> None:
    """Find the sizes for the larger batch; a batch that a Reshape has written down is copied from its operand."""
    node = new.producer()
    if node is None:
        return
    if node.op_type == "Reshape" and new is node.outputs[0]:
        _open_batch(op, old, node)
    for value in node.outputs:
        value.shape = None
    infer_node(node, op.opset)


def _open_batch(op: Builder, old: ir.Value, node: ir.Node) -> None:
    source, target = old.producer(), constant(node.inputs[1]) if len(node.inputs) > 1 else None
    before = static_dims(source.inputs[0]) if source is not None and source.inputs[0] is not None else None
    if target is None or not before or not target.size or node.attributes.get_int("allowzero"):
        return
    if target[0] == before[0]:
        node.replace_input_with(1, op.constant([0, *map(int, target[1:])]))
