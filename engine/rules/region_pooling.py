"""MaxRoiPool: the largest element of each cell of each region.

Regions are rounded to whole elements, so their coordinates have derivative 0, and the gradient is dy at the
element that won. Cells have sizes of the run time: a Scan over the regions finds the winners, first the best
column of every row, then the best of those rows, so that no tensor of all cells with all elements is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.layout import cast_like, count_of, reshape_like, widened
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, gradient, linear, zero
from onnxplain.engine.subgraphs import control, new_graph, placeholder, returned


def _rounded(op: Builder, x: ir.Value) -> ir.Value:
    """To whole numbers, halves away from zero."""
    return op.Mul(op.Sign(x), op.Floor(op.Add(op.Abs(x), 0.5)))


def _inside(op: Builder, box: ir.Value, columns: tuple[int, int], cells: int, size: ir.Value) -> ir.Value:
    """Which elements of an axis each cell covers, bool ``[cells, size]``; ``box`` is rounded, ``[5]``."""
    start, end = (op.Gather(box, op.constant(c)) for c in columns)
    step = op.Div(op.Max(op.Add(op.Sub(end, start), 1.0), 1.0), float(cells))
    cell = op.Unsqueeze(cast_like(op, op.Range(0, op.constant(cells), 1), box), [1])
    first = op.Add(op.Floor(op.Mul(cell, step)), start)
    last = op.Add(op.Ceil(op.Mul(op.Add(cell, 1.0), step)), start)
    places = cast_like(op, op.Range(0, size, 1), box)
    return op.And(op.GreaterOrEqual(places, first), op.Less(places, last))


def _winners(op: Builder, node: Primal) -> ir.Value:
    """Flat number of each cell's largest element, 1 and up, 0 where a cell is empty; ``[R, C, cells, cells]``."""
    x, rois = node.x(0), node.x(1)
    rows, columns = (int(n) for n in node.attribute("pooled_shape"))
    height, width = (op.Squeeze(op.Shape(x, start=a, end=a + 1), [0]) for a in (2, 3))
    channels = op.Squeeze(op.Shape(x, start=1, end=2), [0])
    stem = f"{node.name}/winners"
    graph, inner = new_graph(op, stem)
    region = placeholder(inner, rois, stem)
    region.shape = ir.Shape([5])
    graph.inputs.append(region)
    sample = inner.Cast(inner.Gather(region, inner.constant(0)), to=ir.DataType.INT64.value)
    picture = inner.Gather(x, sample, axis=0)
    box = _rounded(inner, inner.Mul(region, float(node.attribute("spatial_scale", 1.0))))
    across = inner.Unsqueeze(_inside(inner, box, (1, 3), columns, width), [0])
    down = inner.Unsqueeze(_inside(inner, box, (2, 4), rows, height), [2])
    # [C, H, 1, W] by [1, cells, W]: the best column of every row; then [C, 1, H, cells] by [cells, H, 1].
    by_row = inner.Where(across, inner.Unsqueeze(picture, [2]), -math.inf)
    column = inner.ArgMax(by_row, axis=3, keepdims=0)
    best = inner.Where(down, inner.Unsqueeze(inner.ReduceMax(by_row, [3], keepdims=0), [1]), -math.inf)
    row = inner.ArgMax(best, axis=2, keepdims=0)
    taken = inner.GatherElements(column, row, axis=1)
    plane = inner.Add(inner.Mul(sample, channels), inner.Range(0, channels, 1))
    plane = inner.Mul(inner.Unsqueeze(plane, [1, 2]), inner.Mul(height, width))
    place = inner.Add(inner.Add(plane, inner.Add(inner.Mul(row, width), taken)), 1)
    filled = inner.Greater(inner.ReduceMax(best, [2], keepdims=0), -math.inf)
    place = inner.Where(filled, place, 0)
    returned(inner, graph, [place], [place])
    return control(op, "Scan", [rois], [place], body=graph, num_scan_inputs=1)[0]


@gradient("MaxRoiPool")
def max_roi_pool(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx = dy at the largest element of each cell."""

    def to_x() -> ir.Value:
        x, updates = node.x(0), widened(op, op.Reshape(dy, [-1]))
        slots = op.ConstantOfShape(
            op.Reshape(op.Add(count_of(op, x), 1), [1]), value=ir.tensor([0], dtype=updates.dtype or ir.DataType.FLOAT)
        )
        total = op.ScatterElements(slots, op.Reshape(_winners(op, node), [-1]), updates, axis=0, reduction="add")
        return reshape_like(op, cast_like(op, op.Slice(total, [1], [2**62], [0]), x), x)

    return [to_x, zero("regions are rounded to whole elements", "use RoiAlign, whose boxes have a derivative")]


linear("MaxRoiPool")
