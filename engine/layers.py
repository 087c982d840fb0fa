"""Which inner tensor a layer method looks at, and whether all of the score passes through it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.cam import choose_layer
from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.graph.captures import operands
from onnxplain.engine.graph.names import label
from onnxplain.engine.graph.shapes import constant, is_float, rank
from onnxplain.engine.method import Plan
from onnxplain.engine.places import Labels, find_places

#: Operators with weights: what they read is a layer's result.
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class InnerLayer:
    """An inner tensor between the attributed inputs and the score.

    Attributes:
        value: The tensor in the graph under construction.
        labels: Its axes; None for those that are no places of the input.
        separates: Whether every way from the inputs to the score leads through it.
        reason: Why this one, in words.
    """

    value: ir.Value
    labels: Labels
    separates: bool
    reason: str

    @property
    def name(self) -> str:
        """Its name in the model."""
        return self.value.name or ""


def inner_layer(plan: Plan, name: str) -> InnerLayer:
    """The named layer, or the last one that still tells something about places or features.

    Args:
        plan: The graph under construction.
        name: A tensor, or a node whose first result is meant. Empty: the last feature map before the places
            are lost; without places, what the last operator with weights reads.

    Raises:
        OptionError: There is none of that name, or no inner tensor between inputs and score.
    """
    if name:
        value, reason = _named(plan, name), "as asked for"
    else:
        value, reason = _chosen(plan)
    sources = {s.value: s.labels for s in plan.subjects}
    places = find_places(plan.rewriter.forward_nodes, sources)
    labels = places.get(value) or ("batch", *[None] * ((rank(value) or 1) - 1))
    return InnerLayer(value, labels, not _leads_past(plan, value), f"layer '{value.name}': {reason}")


def _named(plan: Plan, name: str) -> ir.Value:
    rewriter = plan.rewriter
    nodes = {label(n): n for n in rewriter.forward_nodes}
    try:
        value = rewriter.value(nodes[name].outputs[0].name or "") if name in nodes else rewriter.value(name)
    except InputError:
        raise OptionError(f"layer='{name}' is no tensor or node of the model; 'onnxplain check' lists them") from None
    if not is_float(value) or constant(value) is not None or not _depends(value, [s.value for s in plan.subjects]):
        raise OptionError(
            f"layer='{name}' does not depend on what is attributed to, or is no float tensor; "
            "name a tensor between input and score"
        )
    return value


def _chosen(plan: Plan) -> tuple[ir.Value, str]:
    explained = plan.seed.explained
    if len(plan.subjects) == 1:
        subject = plan.subjects[0]
        try:
            layer = choose_layer(plan.rewriter, subject.value, subject.labels, explained)
            return layer.value, "the last feature map before the places are lost"
        except OptionError:
            pass  # rows of a table have no places
    sources = [s.value for s in plan.subjects]
    queue = [explained]
    while queue:
        node = queue.pop(0).producer()
        read = [x for x in operands(node) if constant(x) is None] if node is not None else []
        if (
            node is not None
            and node.op_type in _WEIGHTED
            and read
            and _depends(read[0], sources)
            and read[0] not in sources
        ):
            return read[0], f"what the last layer, '{label(node)}' ({node.op_type}), reads"
        queue += read
    raise OptionError("no inner tensor lies between input and score; name one with layer=, or attribute to the input")


def _depends(value: ir.Value, sources: list[ir.Value], without: ir.Value | None = None) -> bool:
    """Whether a value depends on one of the sources, by a way that does not lead through ``without``."""
    seen, queue = set(), [value]
    while queue:
        current = queue.pop()
        if current in seen or current is without:
            continue
        seen.add(current)
        node = current.producer()
        if node is not None:
            queue += operands(node)
    return any(s in seen for s in sources)


def _leads_past(plan: Plan, value: ir.Value) -> bool:
    return _depends(plan.seed.explained, [s.value for s in plan.subjects], without=value)
