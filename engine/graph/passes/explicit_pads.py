"""Turns ``auto_pad`` into explicit pads, so that rules see numbers only.

1. ``VALID`` -> pads 0.
2. ``SAME_UPPER`` / ``SAME_LOWER`` with a known size, or with stride 1 (where the amount does not depend
   on the size) -> the pads in numbers.
3. ``SAME_*`` with a size that only the run time knows: Conv and MaxPool -> a Pad node whose amounts are
   computed in the graph (zeros for Conv, the lowest number for MaxPool), then the operator without pads.
   AveragePool -> the same over the values and over ones, then Div, so that padding is not counted.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.shapes import dims

_WINDOWED = {"Conv", "MaxPool", "AveragePool", "LpPool"}


class ExplicitPadsPass(ir.passes.InPlacePass):
    """See the module's text. Requires default attributes, the working opset and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(walk(model.graph)):
            mode = node.attributes.get("auto_pad")
            if node.domain != "" or node.op_type not in _WINDOWED or mode is None or mode.value in ("", "NOTSET"):
                continue
            self._rewrite(node, str(mode.value))
            modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _rewrite(self, node: ir.Node, mode: str) -> None:
        kernel, strides, dilations = window(node)
        del node.attributes["auto_pad"]
        count = len(kernel)
        x = node.inputs[0]
        sizes = dims(x) if x is not None else None
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads: list[tuple[int, int]] = []
        for axis, (extent, stride) in enumerate(zip(extents, strides, strict=True)):
            size = None if sizes is None else sizes[2 + axis]
            if mode == "VALID":
                total = 0
            elif stride == 1:
                total = extent - 1
            elif isinstance(size, int):
                total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            else:
                self._dynamic(node, mode, extents, strides)
                return
            small = total // 2
            pads.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
        values = [p[0] for p in pads] + [p[1] for p in pads]
        node.attributes["pads"] = ir.AttrInt64s("pads", values if values else [0] * (2 * count))

    def _dynamic(self, node: ir.Node, mode: str, extents: list[int], strides: list[int]) -> None:
        x = node.inputs[0]
        # The indices of a MaxPool would count in the padded tensor.
        indices = len(node.outputs) > 1 and bool(node.outputs[1].uses() or node.outputs[1].is_graph_output())
        if x is None or x.dtype is None or node.op_type == "LpPool" or indices or not isinstance(node.graph, ir.Graph):
            raise UnsupportedNodeError(
                label(node),
                describe(node),
                f"auto_pad={mode} with a size known only at run time",
                "export the model with explicit pads or a fixed input size",
            )
        op = Builder(node.graph, before=node)
        size = op.Slice(op.Shape(x), [2], [2 + len(extents)])
        # total = max((ceil(size / stride) - 1) * stride + extent - size, 0)
        steps = op.Div(op.Add(size, [s - 1 for s in strides]), list(strides))
        total = op.Max(op.Sub(op.Add(op.Mul(op.Sub(steps, [1]), list(strides)), list(extents)), size), [0])
        small = op.Div(total, [2])
        large = op.Sub(total, small)
        begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
        zeros = op.constant([0, 0], ir.DataType.INT64)
        pads = op.Concat(zeros, begin, zeros, end, axis=0)
        fill = lowest(x.dtype) if node.op_type == "MaxPool" else 0
        if node.op_type == "AveragePool" and not node.attributes["count_include_pad"].value:
            self._average(node, op, x, pads)
            return
        node.replace_input_with(0, op.Pad(x, pads, op.constant(fill, x.dtype)))
        node.attributes["pads"] = ir.AttrInt64s("pads", [0] * (2 * len(extents)))

    @staticmethod
    def _average(node: ir.Node, op: Builder, x: ir.Value, pads: ir.Value) -> None:
        attributes = {k: a.value for k, a in node.attributes.items() if k not in ("auto_pad", "pads")}
        one = op.Expand(op.constant(1, x.dtype), op.Shape(x))
        parts = [op.emit("AveragePool", [op.Pad(v, pads, op.constant(0, x.dtype))], **attributes)[0] for v in (x, one)]
        mean = op.Div(parts[0], parts[1])
        old = node.outputs[0]
        mean.shape, name = old.shape, old.name
        old.replace_all_uses_with(mean, replace_graph_outputs=True)
        if node.graph is not None:
            node.graph.remove(node, safe=True)
        mean.name = name


def lowest(dtype: ir.DataType) -> float | int:
    """The lowest number of a type, which padding is for a maximum."""
    if dtype == ir.DataType.BFLOAT16:  # NumPy knows no limits of it
        return -float.fromhex("0x1.fep+127")
    kind = dtype.numpy()
    return int(np.iinfo(kind).min) if kind.kind in "iu" else float(np.finfo(kind).min)


def window(node: ir.Node) -> tuple[list[int], list[int], list[int]]:
    """Kernel shape, strides and dilations of a windowed operator, one number per spatial axis.

    Raises:
        UnsupportedNodeError: The kernel shape is neither an attribute nor known from the weights.
    """
    attribute = node.attributes.get("kernel_shape")
    kernel: list[int] | None = list(attribute.value) if attribute is not None else None
    if kernel is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        known = dims(node.inputs[1])
        if known is not None and all(isinstance(d, int) for d in known[2:]):
            kernel = [d for d in known[2:] if isinstance(d, int)]
    if kernel is None:
        raise UnsupportedNodeError(
            label(node),
            describe(node),
            "its kernel size is known only at run time",
            "export the model with constant weights",
        )

    def per_axis(name: str) -> list[int]:
        value = node.attributes.get(name)
        return list(value.value) if value is not None and len(value.value) else [1] * len(kernel)

    return kernel, per_axis("strides"), per_axis("dilations")
