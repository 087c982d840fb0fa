"""General passes, where there is something for them to do: each looks at every node several times to find that out."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxplain.engine.graph.captures import may_carry, walk


class WhereNeededPass(ir.passes.InPlacePass):
    """Runs a pass on models that need it.

    Args:
        needed: Whether a model does; it may say so of one that does not.
        general: The pass.
    """

    def __init__(self, needed: Callable[[ir.Model], bool], general: ir.passes.PassBase) -> None:
        super().__init__()
        self.needed, self.general = needed, general

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not self.needed(model):
            return ir.passes.PassResult(model, modified=False)
        return self.general(model)


def has_functions(model: ir.Model) -> bool:
    """Whether nodes may be calls of the model's own functions."""
    return bool(model.functions)


def has_constants(model: ir.Model) -> bool:
    """Whether there are constants in nodes."""
    return any(node.op_type == "Constant" for node in walk(model.graph))


def has_bodies(model: ir.Model) -> bool:
    """Whether there are graphs inside nodes."""
    return bool(model.functions) or any(may_carry(node) for node in model.graph)


def is_unsorted(model: ir.Model) -> bool:
    """Whether a node may stand in front of one whose result it reads."""
    if has_bodies(model):
        return True
    done: set[ir.Node] = set()
    for node in model.graph:
        for x in node.inputs:
            producer = x.producer() if x is not None else None
            if producer is not None and producer not in done:
                return True
        done.add(node)
    return False
