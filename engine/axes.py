"""Axes that a Reshape joins or splits, followed by their sizes; and the way back to one axis per place.

Transformers work on a sequence: rows and columns of patches in one axis, a class token in front of them, heads split
off and joined with the batch. A :class:`Joined` axis remembers what it was made of, so that a tensor deep inside can
be unfolded again: batch first, one axis per place, extra tokens left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Union

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dim, Dims, dims

#: ``batch``, a place (``y``, ``x``, ``t``, ...), several axes in one, or None for channels and anything lost.
Label = Union[str, "Joined", None]
Labels = tuple[Label, ...]
Part = tuple[Label, Dim]


@dataclass(frozen=True)
class Joined:
    """An axis that was several, the last one running fastest.

    Attributes:
        parts: Label and size of each.
        before, after: Positions in front of and behind them that belong to none (a class token).
    """

    parts: tuple[Part, ...]
    before: int = 0
    after: int = 0


def joined(parts: Iterable[Part], before: int = 0, after: int = 0) -> Label:
    """The label of an axis made of ``parts``: a plain one wherever that says all."""
    kept = [part for part in parts if part[0] is not None or part[1] != 1]
    if all(label is None for label, _ in kept):
        return None
    if len(kept) == 1 and not before and not after:
        return kept[0][0]
    return Joined(tuple(kept), before, after)


def names(labels: Iterable[Label]) -> Counter[str]:
    """How often each place (and the batch) appears, those inside joined axes included."""
    found: Counter[str] = Counter()
    for label in labels:
        if isinstance(label, Joined):
            found += names(inner for inner, _ in label.parts)
        elif label is not None:
            found[label] += 1
    return found


# ----- sizes as products ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Size:
    """A number times symbols."""

    number: int
    symbols: tuple[str, ...] = ()

    @classmethod
    def of(cls, sizes: Iterable[Dim]) -> _Size | None:
        known = list(sizes)
        if None in known:
            return None
        return cls(prod(d for d in known if isinstance(d, int)), tuple(sorted(d for d in known if isinstance(d, str))))

    def over(self, other: _Size) -> _Size | None:
        """The quotient, where it is one."""
        mine, theirs = Counter(self.symbols), Counter(other.symbols)
        if other.number == 0 or self.number % other.number or theirs - mine:
            return None
        return _Size(self.number // other.number, tuple(sorted((mine - theirs).elements())))

    @property
    def one(self) -> bool:
        return self.number == 1 and not self.symbols


def regrouped(labels: Labels, source: Dims | None, target: Dims | None) -> Labels | None:
    """Labels behind a Reshape from ``source`` to ``target`` sizes; None where they cannot be followed.

    A place that is split keeps its name on the outer part, which is the same place at a coarser resolution.
    """
    if source is None or target is None or len(source) != len(labels):
        return None
    parts: list[Part] = []
    for label, size in zip(labels, source, strict=True):
        whole = isinstance(label, Joined) and not label.before and not label.after
        parts += label.parts if whole and isinstance(label, Joined) else [(label, size)]
    sizes = _solved([size for _, size in parts], target)
    if sizes is None:
        return None
    found: list[Label] = []
    for wanted in sizes:
        taken = _take(parts, wanted)
        if taken is None:
            return None
        found.append(joined(taken) if taken else None)
    return tuple(found)


def _solved(source: Sequence[Dim], target: Dims) -> list[_Size] | None:
    """Sizes of the target; one that is open, or has a symbol of its own, follows from the others."""
    total = _Size.of(source)
    symbols = {d for d in source if isinstance(d, str)}
    unknown = [i for i, d in enumerate(target) if d is None or (isinstance(d, str) and d not in symbols)]
    rest = _Size.of(d for i, d in enumerate(target) if i not in unknown)
    if total is None or rest is None or len(unknown) > 1:
        return None
    left = total.over(rest)
    if left is None or (not unknown and not left.one):
        return None
    sizes = [left if i in unknown else _Size.of([d]) for i, d in enumerate(target)]
    return [size for size in sizes if size is not None]


def _take(parts: list[Part], size: _Size) -> list[Part] | None:
    """Remove from the front of ``parts`` what makes up ``size``."""
    taken: list[Part] = []
    if size.one:
        return [parts.pop(0)] if parts and parts[0][1] == 1 else []
    left: _Size = size
    while not left.one:
        own = _Size.of([parts[0][1]]) if parts else None
        if own is None:
            return None
        rest = left.over(own)
        if rest is None:
            return _split(parts, own, left, taken)
        left = rest
        taken.append(parts.pop(0))
    return taken


def _split(parts: list[Part], own: _Size, size: _Size, taken: list[Part]) -> list[Part] | None:
    """Take the outer factor of the first part; the inner one has no name."""
    label, _ = parts[0]
    inner = own.over(size)
    if inner is None or inner.symbols or size.symbols or label == "batch":
        return None
    parts[0] = (None, inner.number)
    return [*taken, (None if isinstance(label, Joined) else label, size.number)]


# ----- back to one axis per place ---------------------------------------------------------------------


@dataclass(frozen=True)
class Unfolding:
    """How a tensor is brought to ``[N, ...]`` with one axis per place.

    Attributes:
        labels: What its axes are then: the batch first, no joined axes.
        partial: Whether positions without a place (class tokens) are left out.
    """

    source: Labels
    labels: Labels
    partial: bool

    @property
    def trivial(self) -> bool:
        """Whether there is nothing to do."""
        return self.source == self.labels

    def apply(self, op: Builder, value: ir.Value) -> ir.Value:
        """Emit the unfolded form of a tensor that has the source's axes."""
        if self.trivial:
            return value
        labels = self.source
        while any(isinstance(label, Joined) for label in labels):
            value, labels = _unfold_once(op, value, labels)
        first = labels.index("batch")
        if first:
            order = [first, *[i for i in range(len(labels)) if i != first]]
            known = dims(value)
            value = op.Transpose(value, perm=order)
            value.shape = None if known is None else ir.Shape([known[i] for i in order])
        return value


def unfolding(labels: Labels, known: Dims | None) -> Unfolding | None:
    """The way to one axis per place, or None where the sizes do not tell it, or the batch is not there once."""
    if names(labels)["batch"] != 1:
        return None
    flat, partial = list(labels), False
    while any(isinstance(label, Joined) for label in flat):
        index = next(i for i, label in enumerate(flat) if isinstance(label, Joined))
        label = flat[index]
        assert isinstance(label, Joined)
        if known is None or sum(not isinstance(size, int) for _, size in label.parts) > 1:
            return None
        partial = partial or bool(label.before or label.after)
        flat[index : index + 1] = [name for name, _ in label.parts]
    flat.insert(0, flat.pop(flat.index("batch")))
    return Unfolding(tuple(labels), tuple(flat), partial)


def _unfold_once(op: Builder, value: ir.Value, labels: Labels) -> tuple[ir.Value, Labels]:
    """Cut the extra positions of the first joined axis away and split it into its parts."""
    index, label = next((i, each) for i, each in enumerate(labels) if isinstance(each, Joined))
    known = dims(value)
    assert known is not None, "an unfolding needs known sizes"
    if label.before or label.after:
        end = -label.after if label.after else 2**31 - 1
        value = op.Slice(value, [label.before], [end], [index])
    sizes: list[Dim] = [*known[:index], *[size for _, size in label.parts], *known[index + 1 :]]
    split = op.Reshape(value, _shape(op, value, index, label, known))
    split.shape = ir.Shape(sizes)
    return split, (*labels[:index], *[name for name, _ in label.parts], *labels[index + 1 :])


def _shape(op: Builder, value: ir.Value, index: int, label: Joined, known: Dims) -> ir.Value:
    parts = [size if isinstance(size, int) else -1 for _, size in label.parts]
    pieces: list[ir.Value] = []
    for i, size in enumerate(known):
        if i == index:
            pieces.append(op.constant(parts))
        elif isinstance(size, int):
            pieces.append(op.constant([size]))
        elif i < index:
            pieces.append(op.constant([0]))  # copied: it has not moved
        else:
            pieces.append(op.Shape(value, start=i, end=i + 1))
    return pieces[0] if len(pieces) == 1 else op.Concat(*pieces, axis=0)


def positions(label: Joined) -> int | None:
    """Number of positions of a joined axis that have a place, where it is known."""
    sizes: Sequence[Dim] = [size for _, size in label.parts]
    numbers = [size for size in sizes if isinstance(size, int)]
    return prod(numbers) if len(numbers) == len(sizes) else None
