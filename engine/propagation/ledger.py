"""Where relevance goes that does not go on: into biases, stabilisers, non-linearities.

Rules enter what they do not pass on, as pairs of tensors whose inner product it is. Together with what
arrives at the input the entries have to give the score: each rule proves itself, and a user sees how
much of the score an explanation leaves with the biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxplain.engine.backward import Adjoints
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.captures import subgraphs
from onnxplain.engine.graph.names import describe
from onnxplain.engine.places import Labels, find_places
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import BiasKind
from onnxplain.engine.terms import Term

#: Key of a forward node's ``meta`` under which its entries lie.
_KEY = "onnxplain.absorbed"


@dataclass(frozen=True)
class Entry:
    """``factor * <share, amount>`` of relevance stays at a node.

    Attributes:
        tensor: The forward tensor in whose shape ``share`` is.
        share, amount: The two factors; ``amount`` may broadcast against ``share``.
        kind: ``explicit`` for what a parameter takes, ``implicit`` for stabilisers and non-linearities.
        name: The parameter's name, ``stabiliser``, or what else took it.
        factor: A number.
    """

    tensor: ir.Value
    share: ir.Value
    amount: ir.Value
    kind: BiasKind
    name: str
    factor: float = 1.0


def enter(node: Primal, entry: Entry) -> None:
    """Note that relevance stays at ``node``."""
    node.ir.meta.setdefault(_KEY, []).append(entry)


def forget(node: Primal) -> None:
    """Take off what was entered at ``node``."""
    node.ir.meta.pop(_KEY, None)


def enter_difference(
    op: Builder, node: Primal, given: ir.Value, passed: dict[int, ir.Value], kind: BiasKind, name: str
) -> None:
    """Note what of the relevance ``given`` of the result was not ``passed`` to the operands (by position)."""
    one = op.constant(1.0, given.dtype)
    enter(node, Entry(node.y, given, one, kind, name))
    for index, part in passed.items():
        enter(node, Entry(node.x(index), part, one, kind, name, -1.0))


def is_closed(adjoints: Adjoints) -> bool:
    """Whether the entries are all there: what happens inside loops is not told outside."""
    return not any(True for node in adjoints.nodes for _ in subgraphs(node.ir))


def absorbed(adjoints: Adjoints, sources: dict[ir.Value, Labels]) -> list[Term]:
    """All entries of a walk as terms that can be summed per sample; the notes on the nodes are taken off."""
    places = find_places([n.ir for n in adjoints.nodes], sources)
    return [
        Term(
            node=node.name,
            operator=describe(node.ir),
            kind=entry.kind,
            parameter=entry.name,
            tensor=entry.tensor.name or "",
            unfolding=None,
            adjoint=entry.share,
            bias=entry.amount,
            labels=places.get(entry.tensor, sources.get(entry.tensor, ())),
            factor=entry.factor,
            source=next(iter(sources)),
        )
        for node in adjoints.nodes
        for entry in node.ir.meta.pop(_KEY, ())
    ]
