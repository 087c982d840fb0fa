"""What is emitted in the place of sequences: pieces of a tensor, branches, bodies, and nodes around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.infer import infer_node
from onnxplain.engine.graph.passes.sequence_values import Items, Pieces, Unknown, Work
from onnxplain.engine.graph.shapes import constant, dims, is_container, rank, set_dims, static_dims

_SHAPES_DIFFER = "let each step give a tensor of the same, known shape, or collect results outside of the loop"


def operand(node: ir.Node, index: int) -> ir.Value:
    """The operand at ``index``.

    Raises:
        Unknown: It is left out.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Unknown(f"its input {index} is missing", "check the model with onnx.checker")
    return value


def number(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def from_front(axis: int, count: int | None) -> int:
    """The axis counted from the front.

    Raises:
        Unknown: It is counted from the end of a tensor of unknown rank.
    """
    if axis >= 0:
        return axis
    if count is None:
        raise Unknown("its axis counts from the end of a tensor of unknown rank", "give the model's inputs fixed ranks")
    return axis + count


# ----- one tensor in pieces -----------------------------------------------------------------------------


def piece(op: Builder, content: Pieces, position: ir.Value) -> ir.Value:
    """The piece at a position: a Gather, or a Slice of ``size`` elements."""
    whole, axis, size = content.whole, content.axis, content.size
    if size == 1:
        return op.Gather(whole, op.Reshape(position, [1] if content.keeps else []), axis=axis)
    known = constant(position)
    index = -1 if known is None else int(known.reshape(-1)[0])
    if index >= 0:
        return op.Slice(whole, [index * size], [(index + 1) * size], [axis])
    at = op.Reshape(position, [1])
    at = at if at.dtype == ir.DataType.INT64 else op.Cast(at, to=ir.DataType.INT64.value)
    length = op.Shape(whole, start=axis, end=axis + 1)
    count = op.Div(op.Add(length, size - 1), size)
    at = op.Where(op.Less(at, 0), op.Add(at, count), at)
    start = op.Mul(at, size)
    return op.Slice(whole, start, op.Add(start, size), [axis])


def rejoined(op: Builder, content: Pieces, axis: int, new: bool) -> ir.Value | None:
    """The pieces put together along ``axis``, by moving axes of the whole; None where only its values can tell.

    Raises:
        Unknown: Their number is open and that cannot be expressed.
    """
    whole, count = content.whole, rank(content.whole)
    if not new and content.keeps and (axis == content.axis or (count is not None and axis % count == content.axis)):
        return whole
    if count is None or content.size != 1:
        if content.count is not None and content.before is not None:
            return None
        raise Unknown(
            "it puts pieces together along another axis than they were cut, and their number is known only at run time",
            "export the model with a fixed size of the axis that is split",
        )
    cut = content.axis
    if content.keeps:
        whole, count = op.Unsqueeze(whole, [cut + 1]), count + 1
    inner = count - 1  # rank of one piece
    axis %= inner + 1 if new else inner
    others = [a for a in range(count) if a != cut]
    order = [*others[:axis], cut, *others[axis:]]
    moved = whole if order == list(range(count)) else op.Transpose(whole, perm=order)
    if new:
        return moved
    sizes = op.Shape(moved)
    joined = op.ReduceProd(op.Slice(sizes, [axis], [axis + 2]), keepdims=1)
    shape = op.Concat(op.Slice(sizes, [0], [axis]), joined, op.Slice(sizes, [axis + 2], [count]), axis=0)
    return op.Reshape(moved, shape, allowzero=1)


def choice(work: Work, node: ir.Node, values: Sequence[ir.Value], most: int) -> ir.Value:
    """The value at a position of the run time: a Gather where all have one shape, else nested branches."""
    op = work.builder(node)
    if not values or len(values) > most:
        raise Unknown(
            f"its position is known only at run time, in a sequence of {len(values)}",
            "export the model with constant positions",
        )
    position = operand(node, 1)
    shapes = {static_dims(v) for v in values}
    if len(shapes) == 1 and None not in shapes:
        stacked = op.Concat(*(op.Unsqueeze(v, [0]) for v in values), axis=0)
        return op.Gather(stacked, op.Reshape(position, []), axis=0)
    at = position if position.dtype == ir.DataType.INT64 else op.Cast(position, to=ir.DataType.INT64.value)
    at = op.Reshape(at, [])
    at = op.Where(op.Less(at, 0), op.Add(at, len(values)), at)
    return _branches(work, op, at, values, 0)


def _branches(work: Work, op: Builder, at: ir.Value, values: Sequence[ir.Value], first: int) -> ir.Value:
    if len(values) == 1:
        return op.Identity(values[0])
    taken = op.Equal(at, op.constant(np.asarray(first, np.int64)))
    graphs: dict[str, Any] = {}
    for name, rest in (("then_branch", values[:1]), ("else_branch", values[1:])):
        graph = ir.Graph([], [], nodes=[], opset_imports=op.graph.opset_imports, name=f"{op.unique_name('choice')}")
        inner = Builder(graph, taken=work.names)
        inner.opset = op.opset
        graph.outputs.append(_branches(work, inner, at, rest, first + 1))
        graphs[name] = graph
    result = op.emit("If", [taken], **graphs)[0]
    result.type = values[0].type
    known = [dims(v) for v in values]
    ranks = {len(d) for d in known if d is not None}
    if len(ranks) == 1 and None not in known:
        columns = zip(*(d for d in known if d is not None), strict=True)
        set_dims(result, [c[0] if len(set(c)) == 1 else None for c in columns])
    return result


# ----- bodies -------------------------------------------------------------------------------------------


def copy_of_body(work: Work, node: ir.Node, values: Sequence[ir.Value]) -> list[ir.Value]:
    """The body of a SequenceMap in front of it, on the given values; gives its results."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    twin = next(subgraphs(node)).clone(allow_outer_scope_values=True)
    if len(twin.inputs) != len(values):
        raise Unknown("its body takes another number of inputs", "check the model with onnx.checker")
    op = work.builder(node)
    for old, new in zip(list(twin.inputs), values, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    for weight in list(twin.initializers.values()):
        twin.initializers.pop(weight.name or "")
        weight.name = op.unique_name(f"{weight.name}")
        graph.register_initializer(weight)
    for value in (v for n in walk(twin) for v in n.outputs):
        value.shape = None  # sizes differ from value to value, and their names must not be shared
    inner, results = list(twin), list(twin.outputs)
    twin.outputs.clear()
    twin.remove(inner)
    for one in inner:
        one.name = op.unique_name(f"{one.name or one.op_type}")
        for value in one.outputs:
            if value.name:
                value.name = op.unique_name(f"{value.name}")
    graph.insert_before(node, inner)
    for one in inner:
        infer_node(one, op.opset)
    work.changed = True
    return results


def map_by_scan(work: Work, node: ir.Node) -> None:
    """A SequenceMap over pieces whose number the run time tells -> a Scan, whose results are pieces again."""
    body, op = next(subgraphs(node)).clone(allow_outer_scope_values=True), work.builder(node)
    entries, wholes = [], []
    first = next(iter(body), None)
    for x, inside in zip(node.inputs, list(body.inputs), strict=True):
        if not is_container(x):
            inside.replace_all_uses_with(operand(node, list(node.inputs).index(x)), replace_graph_outputs=True)
            continue
        content = work.content_of(x)
        whole = dims(content.whole) if isinstance(content, Pieces) else None
        if not isinstance(content, Pieces) or content.size != 1 or whole is None:
            raise Unknown("one of its sequences is no tensor cut into single elements", _SHAPES_DIFFER)
        entry = ir.Value(name=op.unique_name(f"{inside.name}/element"), type=content.whole.type)
        set_dims(entry, [*whole[: content.axis], *whole[content.axis + 1 :]])
        value = entry
        if content.keeps:
            inner = Builder(body, before=first, taken=work.names)
            inner.opset = op.opset
            value = inner.Unsqueeze(entry, [content.axis])
        inside.replace_all_uses_with(value, replace_graph_outputs=True)
        entries.append(entry)
        wholes.append(content)
    for inner_node in body:
        infer_node(inner_node, op.opset)
    if not all(_is_uniform(work, v) for v in body.outputs):
        raise Unknown("its results may differ in shape from one value to the next", _SHAPES_DIFFER)
    body.inputs.clear()
    body.inputs.extend(entries)
    results = op.emit(
        "Scan",
        [c.whole for c in wholes],
        outputs=len(node.outputs),
        body=body,
        num_scan_inputs=len(wholes),
        scan_input_axes=[c.axis for c in wholes],
    )
    for old, new, inside in zip(node.outputs, results, body.outputs, strict=True):
        new.type = inside.type
        set_dims(new, [None, *(dims(inside) or ())])
        work.remake(node, old, Pieces(new, 0, 1, keeps=False))
    drop(node)


def _is_uniform(work: Work, value: ir.Value) -> bool:
    """Whether the value has the same shape at every step: its sizes are numbers, or those of the model's inputs."""
    known = dims(value)
    return known is not None and all(isinstance(d, int) or d in work.symbols for d in known)


# ----- nodes around -------------------------------------------------------------------------------------


def unpack_if(work: Work, node: ir.Node) -> None:
    """An If whose branches give lists of one length -> an If that gives their values."""
    branches, op = list(subgraphs(node)), work.builder(node)
    # per branch, per output
    lists = [[list(work.items_of(v)) if is_container(v) else [v] for v in graph.outputs] for graph in branches]
    for index, each in enumerate(zip(*lists, strict=True)):
        if len({len(values) for values in each}) != 1:
            raise Unknown(
                f"its branches give sequences of different lengths as output {index}", "give the same number of tensors"
            )
    for graph, values in zip(branches, lists, strict=True):
        graph.outputs.clear()
        for value in (v for part in values for v in part):  # each branch gives values of its own
            given = ir.node("Identity", [value])
            given.outputs[0].type, given.outputs[0].shape = value.type, value.shape
            given.outputs[0].name = op.unique_name(f"{value.name}/given")
            graph.append(given)
            graph.outputs.append(given.outputs[0])
    counts = [len(part) for part in lists[0]]
    results = _rebuilt(work, node, list(node.inputs), sum(counts))
    start = 0
    for old, count in zip(list(node.outputs), counts, strict=True):
        part = results[start : start + count]
        start += count
        if is_container(old):
            for value, like in zip(part, list(branches[0].outputs)[start - count : start], strict=True):
                value.type = like.type
            work.remake(node, old, Items(tuple(part)))
        else:
            _hand_over(old, part[0])
    drop(node)


def collect_in_loop(work: Work, node: ir.Node) -> None:
    """A Loop that appends one tensor per trip to an empty sequence -> a scan output, which is that sequence in pieces."""
    body = next(subgraphs(node))
    count = max(len(node.inputs) - 2, 0)
    states = [i for i in range(count) if is_container(node.inputs[2 + i])]
    appended = [_appended(work, node, body, i) for i in states]
    kept = [i for i in range(count) if i not in states]
    collected = len(node.outputs) - count
    inputs, outputs = list(body.inputs), list(body.outputs)
    body.inputs.clear()
    body.inputs.extend([*inputs[:2], *(inputs[2 + i] for i in kept)])
    body.outputs.clear()
    body.outputs.extend([outputs[0], *(outputs[1 + i] for i in kept), *outputs[1 + count :], *appended])
    for i in states:
        maker = outputs[1 + i].producer()
        assert maker is not None
        body.remove(maker, safe=False)
    given = [*node.inputs[:2], *(node.inputs[2 + i] for i in kept)]
    results = _rebuilt(work, node, given, len(kept) + collected + len(states))
    old = list(node.outputs)
    for value, new in zip([*(old[i] for i in kept), *old[count:]], results, strict=False):
        _hand_over(value, new)
    for i, new, value in zip(states, results[len(kept) + collected :], appended, strict=True):
        new.type = value.type
        set_dims(new, [None, *(dims(value) or ())])
        work.remake(node, old[i], Pieces(new, 0, 1, keeps=False))
    drop(node)


def _appended(work: Work, node: ir.Node, body: ir.Graph, index: int) -> ir.Value:
    """The tensor that each trip appends to the state; refused where something else happens to it."""
    name = f"its state '{body.inputs[2 + index].name}' is a sequence"
    before, after = body.inputs[2 + index], body.outputs[1 + index]
    initial = work.content_of(node.inputs[2 + index])
    if not isinstance(initial, Items) or initial.values:
        raise Unknown(
            f"{name} that is not empty at the start", "append to an empty sequence, and concatenate afterwards"
        )
    maker = after.producer()
    at_end = maker is not None and maker.op_type == "SequenceInsert" and len(maker.inputs) < 3
    if maker is None or not at_end or maker.inputs[0] is not before or len(list(before.uses())) != 1:
        raise Unknown(
            f"{name}, and a trip does more with it than to append one tensor", "keep what is read again in tensors"
        )
    if list(after.uses()):
        raise Unknown(f"{name} that is read in the same trip", "keep what is read again in tensors")
    value = maker.inputs[1]
    if value is None or not _is_uniform(work, value):
        raise Unknown(f"{name} of tensors whose shape may differ from trip to trip", _SHAPES_DIFFER)
    return value


def drop_whole_slices(graph: ir.Graph) -> None:
    """Remove what cuts nothing off (``x[:]``), which hides that sizes stay as they are."""
    for node in list(graph):
        if node.op_type == "Slice" and node.domain == "" and len(node.inputs) > 2:
            starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
            steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(1)
            if starts is None or ends is None or steps is None:
                continue
            if not np.any(starts) and np.all(steps == 1) and np.all(ends >= np.iinfo(np.int32).max):
                node.outputs[0].replace_all_uses_with(operand(node, 0), replace_graph_outputs=True)
                drop(node)


def _rebuilt(work: Work, node: ir.Node, inputs: Sequence[ir.Value | None], count: int) -> list[ir.Value]:
    """The same node in front of it with other operands and another number of results."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    attributes = list(node.attributes.values())
    node.attributes.clear()
    new = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=count, name=node.name)
    op = work.builder(node)
    for index, value in enumerate(new.outputs):
        value.name = op.unique_name(f"{node.name or node.op_type}/value_{index}")
    graph.insert_before(node, new)
    work.changed = True
    return list(new.outputs)


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


def drop(node: ir.Node) -> None:
    """Remove a node whose results nobody reads any more."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)
