"""Einsum: a sum of products, linear in each operand; the gradient is another Einsum.

With the equation spelled out (ellipsis as letters, the result's letters explicit), the gradient of an
operand is the Einsum of the adjoint and the other operands to that operand's letters. A letter that only
the operand has was summed away: a vector of ones brings it back. A letter that it has twice took a
diagonal: an identity matrix puts the diagonal back. Axes of size 1 that were repeated are summed.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxplain.engine.broadcast import reduce_to
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dim, dims, same
from onnxplain.engine.layout import size_of
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import Contribution, gradient, multilinear


@dataclass(frozen=True)
class Equation:
    """An Einsum equation without ellipsis: the letters of each operand, and of the result."""

    inputs: tuple[str, ...]
    output: str

    def fresh(self, count: int) -> str:
        """Letters that the equation does not use."""
        used = set("".join((*self.inputs, self.output)))
        return "".join([c for c in string.ascii_letters if c not in used][:count])


def equation_of(node: Primal) -> Equation:
    """The node's equation, spelled out.

    Raises:
        UnsupportedNodeError: It has an ellipsis over an operand of unknown rank.
    """
    text = str(node.attribute("equation")).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    letters = "".join(terms).replace(".", "")
    if not arrow:
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    if "..." not in left:
        return Equation(tuple(terms), right)
    widths = [node.rank(i) - len(t.replace(".", "")) if "..." in t else 0 for i, t in enumerate(terms)]
    spare = [c for c in string.ascii_letters if c not in letters + right]
    hidden = "".join(spare[: max(widths)])
    spelled = [t.replace("...", hidden[len(hidden) - w :]) for t, w in zip(terms, widths, strict=True)]
    return Equation(tuple(spelled), right.replace("...", hidden))


@gradient("Einsum")
def einsum(op: Builder, node: Primal, dy: ir.Value) -> Sequence[Contribution]:
    """dx_k = Einsum(dy, the other operands -> the letters of x_k)."""
    equation = equation_of(node)
    return [functools.partial(_operand, op, node, equation, dy, k) for k in range(len(node.inputs))]


def _operand(op: Builder, node: Primal, equation: Equation, dy: ir.Value, k: int) -> ir.Value:
    own = equation.inputs[k]
    others = [i for i in range(len(node.inputs)) if i != k]
    factors = [(equation.output, dy), *((equation.inputs[i], node.x(i)) for i in others)]
    # The operator has no term for a scalar: such factors are multiplied on.
    scalars = [value for term, value in factors if not term]
    terms = [term for term, _ in factors if term]
    values = [value for term, value in factors if term]
    sizes = _sizes(terms, values)
    spare = equation.fresh(len(own))
    target = ""
    for axis, letter in enumerate(own):
        if letter in target:
            # A further axis of a diagonal: off the diagonal, x has no influence.
            twin = spare[axis]
            values.append(_identity(op, size_of(op, node.x(k), axis), dy))
            terms.append(letter + twin)
            sizes[twin] = _size(node.x(k), axis)
            target += twin
            continue
        if letter not in sizes:
            values.append(_ones(op, size_of(op, node.x(k), axis), dy))
            terms.append(letter)
            sizes[letter] = _size(node.x(k), axis)
        target += letter
    found = _product(op, terms, values, target, scalars)
    return _summed(op, node, k, found, tuple(sizes[c] for c in target))


def _product(
    op: Builder, terms: Sequence[str], values: Sequence[ir.Value], target: str, scalars: Sequence[ir.Value]
) -> ir.Value:
    if not terms:
        return functools.reduce(op.Mul, scalars)
    plain = len(terms) == 1 and terms[0] == target
    found = values[0] if plain else op.Einsum(*values, equation=f"{','.join(terms)}->{target}")
    return functools.reduce(op.Mul, scalars, found)


def _size(value: ir.Value, axis: int) -> Dim:
    known = dims(value)
    return known[axis] if known is not None else None


def _sizes(terms: Sequence[str], values: Sequence[ir.Value]) -> dict[str, Dim]:
    """Size of each letter after broadcasting, as far as known."""
    seen: dict[str, list[Dim]] = {}
    for term, value in zip(terms, values, strict=True):
        for axis, letter in enumerate(term):
            seen.setdefault(letter, []).append(_size(value, axis))
    sizes: dict[str, Dim] = {}
    for letter, found in seen.items():
        large = [d for d in found if isinstance(d, int) and d != 1]
        other = [d for d in found if d != 1]
        agreed = other and all(same(d, other[0]) for d in other)
        sizes[letter] = large[0] if large else 1 if not other else other[0] if agreed else None
    return sizes


def _summed(op: Builder, node: Primal, k: int, value: ir.Value, large: tuple[Dim, ...]) -> ir.Value:
    """``value`` summed over axes that have size 1 in the operand and were repeated."""
    small = dims(node.x(k))
    pairs = [] if small is None else list(zip(small, large, strict=True))
    if pairs and all(same(a, b) or (isinstance(a, int) and a != 1) for a, b in pairs):
        return value
    return reduce_to(op, value, node.x(k), small, large)


def _ones(op: Builder, size: ir.Value, like: ir.Value) -> ir.Value:
    dtype = like.dtype or ir.DataType.FLOAT
    return op.ConstantOfShape(size, value=ir.tensor(np.ones(1, dtype.numpy()), dtype=dtype))


def _identity(op: Builder, size: ir.Value, like: ir.Value) -> ir.Value:
    square = op.ConstantOfShape(op.Concat(size, size, axis=0), value=ir.tensor([0.0], dtype=ir.DataType.FLOAT))
    return op.EyeLike(square, dtype=(like.dtype or ir.DataType.FLOAT).value)


multilinear("Einsum")
