"""Attention with its projections, masks and caches: products, additions and one Softmax.

Sources: onnxruntime's ContribOperators.md (Attention, MultiHeadAttention, GroupQueryAttention).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.passes.fused.position import looked_up, rotate
from onnxplain.engine.graph.passes.fused.table import add_all, refuse_attributes, refuse_operands, splits
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.rules.node import Primal

_INT64 = ir.DataType.INT64


# ----- parts ------------------------------------------------------------------------------------------


def heads_of(op: Builder, x: ir.Value, heads: int) -> ir.Value:
    """``[batch, length, width]`` -> ``[batch, heads, length, head size]``."""
    return op.Transpose(op.Reshape(x, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


def joined(op: Builder, x: ir.Value) -> ir.Value:
    """``[batch, heads, length, head size]`` -> ``[batch, length, width]``."""
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), [0, 0, -1])


def size(op: Builder, x: ir.Value, axis: int) -> ir.Value:
    """The size of one axis, a scalar in the graph."""
    return op.Gather(op.Shape(x), op.constant(axis, _INT64))


def count_up(op: Builder, length: ir.Value) -> ir.Value:
    """0, 1, ..., length - 1."""
    return op.Range(op.constant(0, _INT64), length, op.constant(1, _INT64))


def penalty(op: Builder, allowed: ir.Value, dtype: ir.DataType, value: float) -> ir.Value:
    """0 where allowed, ``value`` elsewhere."""
    return op.Where(allowed, op.constant(0.0, dtype), op.constant(value, dtype))


def lowest(dtype: ir.DataType) -> float:
    """The lowest finite number of a type; it may be added to another score without overflow after halving."""
    return float(np.finfo(np.float32 if dtype == ir.DataType.BFLOAT16 else dtype.numpy()).min) / 2


def causal(op: Builder, q: ir.Value, k: ir.Value, window: int = -1) -> ir.Value:
    """Which keys a query may see: those not after it (and not ``window`` or more before it), ``[queries, keys]``.

    The last query stands at the last key.
    """
    queries, keys = size(op, q, 2), size(op, k, 2)
    rows = op.Unsqueeze(op.Add(count_up(op, queries), op.Sub(keys, queries)), [1])
    columns = op.Unsqueeze(count_up(op, keys), [0])
    seen = op.GreaterOrEqual(rows, columns)
    if window > 0:
        seen = op.And(seen, op.Less(op.Sub(rows, columns), op.constant(window, _INT64)))
    return seen


def attend(
    op: Builder,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    scale: ir.Value | float,
    biases: Sequence[ir.Value | None],
    cap: float = 0.0,
) -> ir.Value:
    """Softmax(scale q k' + biases) v, all ``[batch, heads, length, head size]``."""
    scores = op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=[0, 1, 3, 2]))
    if cap:
        scores = op.Mul(op.Tanh(op.Mul(scores, 1.0 / cap)), cap)
    return op.MatMul(op.Softmax(add_all(op, scores, *biases), axis=-1), v)


def default_scale(op: Builder, node: Primal, q: ir.Value, head_size: int | None) -> ir.Value | float:
    """The attribute, or one over the root of the head size."""
    given = float(node.attribute("scale", 0.0) or 0.0)
    if given:
        return given
    if head_size is not None:
        return 1.0 / math.sqrt(head_size)
    return op.Reciprocal(op.Sqrt(op.CastLike(size(op, q, 3), q)))


def _width(node: Primal, index: int) -> int | None:
    known = dims(node.x(index))
    last = known[-1] if known else None
    return last if isinstance(last, int) else None


def _dtype(node: Primal) -> ir.DataType:
    dtype = node.x().dtype
    if dtype is None:
        raise node.unsupported("the type of its input is not known", "give the model with types for all its values")
    return dtype


def key_mask(
    op: Builder, node: Primal, index: int, keys: ir.Value, value: float, dtype: ir.DataType
) -> ir.Value | None:
    """The penalty that a padding mask stands for: ``[batch, 1, 1 or queries, keys]``.

    Integers ``[batch, keys]`` or ``[batch, queries, keys]`` (0 is masked); or ``[batch]``: how many of the first
    keys are valid; or ``[2 batch]``: behind the last valid key, then at the first one; or ``[3 batch + 2]``, of which
    the first ``batch`` numbers are the lengths.
    """
    mask = node.optional(index)
    if mask is None:
        return None
    count = node.rank(index)
    if count == 1:
        mask = op.Cast(mask, to=_INT64.value)
        batch = op.Slice(op.Shape(node.x()), [0], [1])
        twice = op.Mul(batch, 2)
        ends = op.Slice(mask, [0], batch, [0])
        starts = op.Slice(op.Concat(mask, op.ConstantOfShape(batch, value=ir.tensor([0])), axis=0), batch, twice, [0])
        starts = op.Mul(starts, op.Cast(op.Equal(op.Shape(mask), twice), to=_INT64.value))
        places = op.Unsqueeze(count_up(op, keys), [0])
        valid = op.Less(places, op.Unsqueeze(ends, [1]))
        valid = op.And(valid, op.GreaterOrEqual(places, op.Unsqueeze(starts, [1])))
        return penalty(op, op.Unsqueeze(valid, [1, 2]), dtype, value)
    if count not in (2, 3):
        raise node.unsupported(f"its mask has {count} axes", "use a mask [batch, keys] or [batch, queries, keys]")
    allowed = op.Cast(mask, to=ir.DataType.BOOL.value)
    return penalty(op, op.Unsqueeze(allowed, [1, 2] if count == 2 else [1]), dtype, value)


# ----- operators --------------------------------------------------------------------------------------


@splits("Attention")
def attention(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Packed projection of one input to queries, keys and values, then attention."""
    refuse_operands(node, 6, "past_sequence_length")
    projected = add_all(op, op.MatMul(node.x(), node.x(1)), node.optional(2))
    return self_attention(op, node, projected, mask=3, past=4, more=5)


def self_attention(
    op: Builder, node: Primal, projected: ir.Value, *, mask: int, past: int, more: int | None = None
) -> list[ir.Value | None]:
    """What Attention and its quantised form do with queries, keys and values side by side.

    Args:
        op, node: As for every splitter; the weights are operand 1.
        projected: ``[batch, length, widths]``.
        mask, past, more: Positions of the padding mask, of the cache and of what is added to the scores.
    """
    refuse_attributes(node, do_rotary=0, past_present_share_buffer=0)
    heads, dtype, width = int(node.attribute("num_heads")), projected.dtype, _width(node, 1)
    sizes = [int(s) for s in node.attribute("qkv_hidden_sizes", ()) or ()]
    if dtype is None:
        raise node.unsupported("the type of its input is not known", "give the model with types for all its values")
    if not sizes:
        if width is None:
            raise node.unsupported(
                "the width of its weights is known only at run time", "export it with constant weights"
            )
        sizes = [width // 3] * 3
    parts = op.emit("Split", [projected, op.constant(sizes, _INT64)], outputs=3, axis=-1)
    q, k, v = (heads_of(op, part, heads) for part in parts)
    present = None
    if node.optional(past) is not None:
        caches = op.emit("Split", [node.x(past)], outputs=2, axis=0, num_outputs=2)
        k, v = (op.Concat(op.Squeeze(p, [0]), new, axis=2) for p, new in zip(caches, (k, v), strict=True))
    if len(node.outputs) > 1:
        present = op.Concat(op.Unsqueeze(k, [0]), op.Unsqueeze(v, [0]), axis=0)
    masked = key_mask(op, node, mask, size(op, k, 2), float(node.attribute("mask_filter_value", -10000.0)), dtype)
    order = penalty(op, causal(op, q, k), dtype, lowest(dtype)) if node.attribute("unidirectional", 0) else None
    scale = default_scale(op, node, q, sizes[0] // heads)
    biases = [None if more is None else node.optional(more), masked, order]
    return [joined(op, attend(op, q, k, v, scale, biases)), present]


@splits("MultiHeadAttention")
def multi_head_attention(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Attention on projected queries, keys and values, apart or packed."""
    refuse_operands(node, 8, "past_sequence_length", "cache_indirection")
    heads, dtype = int(node.attribute("num_heads")), _dtype(node)
    q, k, v = _projected(op, node, heads)
    if node.optional(6) is not None:
        k, v = op.Concat(node.x(6), k, axis=2), op.Concat(node.x(7), v, axis=2)
    masked = key_mask(op, node, 4, size(op, k, 2), float(node.attribute("mask_filter_value", -10000.0)), dtype)
    order = penalty(op, causal(op, q, k), dtype, lowest(dtype)) if node.attribute("unidirectional", 0) else None
    width = _width(node, 0)
    packed = node.optional(1) is None
    head_size = width if packed else None if width is None else width // heads
    scale = default_scale(op, node, q, head_size)
    return [joined(op, attend(op, q, k, v, scale, [node.optional(5), masked, order])), k, v]


def _projected(op: Builder, node: Primal, heads: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries, keys and values, ``[batch, heads, length, head size]``, with the projection's bias."""
    shift = node.optional(3)
    if node.optional(1) is None:
        _require_rank(node, 0, 5)
        return _unpacked(op, node, node.x(), 3, shift)  # type: ignore[return-value]
    parts: list[ir.Value | None] = [None, None, None]
    if shift is not None:
        width = _width(node, 0)
        if width is None or node.optional(2) is None:
            raise node.unsupported("the widths that its bias is made of are not known", "add the bias before attention")
        total = _width(node, 3)
        if total is None:
            raise node.unsupported("the length of its bias is known only at run time", "export it with a constant bias")
        sizes = op.constant([width, width, total - 2 * width], _INT64)
        parts = list(op.emit("Split", [shift, sizes], outputs=3, axis=0))
    q = heads_of(op, add_all(op, node.x(), parts[0]), heads)
    if node.optional(2) is None:
        _require_rank(node, 1, 5)
        k, v = _unpacked(op, node, node.x(1), 2, None)
        return q, k, v
    if node.rank(1) == 4:  # already [batch, heads, length, head size], without a bias
        return q, node.x(1), node.x(2)
    k, v = (heads_of(op, add_all(op, node.x(i), parts[i]), heads) for i in (1, 2))
    return q, k, v


def _require_rank(node: Primal, index: int, wanted: int) -> None:
    if node.rank(index) != wanted:
        raise node.unsupported(f"its packed input {index} has {node.rank(index)} axes", f"give it {wanted} axes")


def _unpacked(op: Builder, node: Primal, x: ir.Value, parts: int, shift: ir.Value | None) -> tuple[ir.Value, ...]:
    """``[batch, length, heads, parts, head size]`` -> the parts, heads first."""
    if shift is not None:
        known = dims(x)
        if known is None or not isinstance(known[2], int):
            raise node.unsupported("the sizes that its bias is made of are not known", "add the bias before attention")
        shift = op.Transpose(op.Reshape(shift, [parts, known[2], -1]), perm=[1, 0, 2])
        x = op.Add(x, shift)
    pieces = op.emit("Split", [x], outputs=parts, axis=3, num_outputs=parts)
    return tuple(op.Transpose(op.Squeeze(p, [3]), perm=[0, 2, 1, 3]) for p in pieces)


@splits("GroupQueryAttention")
def group_query_attention(op: Builder, node: Primal) -> Sequence[ir.Value | None]:
    """Attention where several heads of queries share one head of keys and values, with or without a cache.

    The cache is the one in which new keys are written behind those that count, sample by sample; places beyond
    the last key hold the last new one, as they hold anything in the runtime.
    """
    refuse_operands(node, 10, "attention_bias", "head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight")
    refuse_attributes(
        node, smooth_softmax=0, kv_cache_bit_width=0, k_quant_type="NONE", v_quant_type="NONE", qk_output=0
    )
    refuse_attributes(node, causal=1, sliding_window_cache=0)
    if node.attribute("smooth_softmax", 0) == 1:
        raise node.unsupported("smooth_softmax=1", "export the model without it")
    q, k, v = _grouped(op, node)
    before = _length_before(op, node, q)
    if node.attribute("do_rotary", 0):
        q, k = _rotated(op, node, q, k, before)
    if _has_cache(node):
        if len(node.outputs) < 3:
            raise node.unsupported("it reads a cache and does not return it", "export the model with the grown cache")
        k, v = (_appended(op, node, cache, new, before) for cache, new in ((3, k), (4, v)))
    dtype = _dtype(node)
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    present = [k, v]
    if heads != groups:
        k, v = (_repeated(op, x, heads // groups, heads) for x in (k, v))
    order = penalty(op, _visible(op, node, q, k, before), dtype, lowest(dtype))
    width = _width(node, 0)
    shared = heads if node.optional(1) is not None else heads + 2 * groups
    scale = default_scale(op, node, q, None if width is None else width // shared)
    y = attend(op, q, k, v, scale, [order], float(node.attribute("softcap", 0.0) or 0.0))
    return [joined(op, y), *present]


def _has_cache(node: Primal) -> bool:
    """Whether earlier keys are read: not where the cache has no places."""
    cache = node.optional(3)
    return cache is not None and (dims(cache) or (None,) * 4)[2] != 0


def _length_before(op: Builder, node: Primal, q: ir.Value) -> ir.Value:
    """How many keys of the cache count, per sample, ``[batch]``: none while the first tokens come in at once."""
    new = size(op, q, 2)
    totals = op.Add(op.Cast(op.Reshape(node.x(5), [-1]), to=_INT64.value), 1)
    first = op.Equal(op.Reshape(op.Cast(node.x(6), to=_INT64.value), []), new)
    return op.Where(first, op.constant(0, _INT64), op.Sub(totals, new))


def _appended(op: Builder, node: Primal, cache: int, new: ir.Value, before: ir.Value) -> ir.Value:
    """The cache with the new keys or values behind those that count, ``[batch, groups, places, head size]``."""
    old = node.x(cache)
    room, added = size(op, old, 2), size(op, new, 2)
    total = op.Max(room, op.Reshape(op.Cast(node.x(6), to=_INT64.value), []))
    places, start = op.Unsqueeze(count_up(op, total), [0]), op.Unsqueeze(before, [1])
    offset = op.Min(op.Max(op.Sub(places, start), 0), op.Sub(added, 1))
    index = op.Where(op.Less(places, start), places, op.Add(offset, room))
    shape = op.Shape(new)
    wide = op.Concat(op.Slice(shape, [0], [2]), op.Reshape(total, [1]), op.Slice(shape, [3], [4]), axis=0)
    index = op.Expand(op.Unsqueeze(index, [1, 3]), wide)
    return op.GatherElements(op.Concat(old, new, axis=2), index, axis=2)


def _visible(op: Builder, node: Primal, q: ir.Value, k: ir.Value, before: ir.Value) -> ir.Value:
    """Which places a query sees, ``[batch, 1, queries, places]``: not later ones, nor those too far back, nor padding."""
    window = int(node.attribute("local_window_size", -1))
    rows = op.Add(op.Reshape(before, [-1, 1, 1, 1]), op.Reshape(count_up(op, size(op, q, 2)), [1, 1, -1, 1]))
    columns = op.Reshape(count_up(op, size(op, k, 2)), [1, 1, 1, -1])
    last = op.Reshape(op.Cast(node.x(5), to=_INT64.value), [-1, 1, 1, 1])
    seen = op.And(op.GreaterOrEqual(rows, columns), op.LessOrEqual(columns, last))
    return op.And(seen, op.Less(op.Sub(rows, columns), op.constant(window, _INT64))) if window > 0 else seen


def _grouped(op: Builder, node: Primal) -> tuple[ir.Value, ir.Value, ir.Value]:
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    if node.optional(1) is not None:
        return heads_of(op, node.x(), heads), heads_of(op, node.x(1), groups), heads_of(op, node.x(2), groups)
    packed = heads_of(op, node.x(), heads + 2 * groups)
    q, k, v = op.emit("Split", [packed, op.constant([heads, groups, groups], _INT64)], outputs=3, axis=1)
    return q, k, v


def _rotated(op: Builder, node: Primal, q: ir.Value, k: ir.Value, before: ir.Value) -> tuple[ir.Value, ir.Value]:
    positions = node.optional(9)
    if positions is None:
        positions = op.Add(op.Unsqueeze(before, [1]), op.Unsqueeze(count_up(op, size(op, k, 2)), [0]))
    cos, sin = (looked_up(op, node.x(i), positions) for i in (7, 8))
    table, width = dims(node.x(7)), _width(node, 0)
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    half = table[1] if table is not None else None
    if not isinstance(half, int) or width is None:
        raise node.unsupported("the width of its rotation is known only at run time", "export it with constant tables")
    head_size = width // (heads if node.optional(1) is not None else heads + 2 * groups)
    turned = None if 2 * half == head_size else 2 * half
    interleaved = bool(node.attribute("rotary_interleaved", 0))
    return rotate(op, q, cos, sin, interleaved, turned), rotate(op, k, cos, sin, interleaved, turned)


def _repeated(op: Builder, x: ir.Value, times: int, heads: int) -> ir.Value:
    """Each head of ``[batch, groups, length, head size]`` ``times`` times in a row."""
    spread = op.Concat(*[op.Unsqueeze(x, [2])] * times, axis=2)
    shape = op.Shape(x)
    sizes = op.Concat(op.Slice(shape, [0], [1]), op.constant([heads], _INT64), op.Slice(shape, [2], [4]), axis=0)
    return op.Reshape(spread, sizes)
