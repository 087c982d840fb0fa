"""Removing places in an order: what pixel perturbation, insertion, deletion, ROAD, AOPC and MIF/LIF have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.evaluation.fills import FILLS, emptied
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import choose


def check_fill(fill: Any) -> None:
    """Refuse what is neither a number nor a named fill.

    Raises:
        OptionError: It is neither.
    """
    if isinstance(fill, bool) or not isinstance(fill, (int, float, np.number)):
        choose("fill", fill, FILLS)


def check_shares(name: str, shares: Sequence[float]) -> None:
    """Refuse shares that are none.

    Raises:
        OptionError: Nothing in it, or not from 0 to 1.
    """
    if not shares or not all(0 <= s <= 1 for s in shares):
        raise OptionError(f"{name}={tuple(shares)} are not possible; give shares from 0 to 1")


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a number that is too small.

    Raises:
        OptionError: It is.
    """
    if not value >= least:
        raise OptionError(f"{name}={value} is not possible; give {least} or more")


def stepped(count: int, steps: int) -> list[int]:
    """How many of ``count`` places are gone after each step, both ends included; the last step may be shorter."""
    size = -(-count // min(steps, count))
    return [*range(0, count, size), count]


def removed(case: Case, order: Array, counts: Sequence[int], fill: Any) -> Array:
    """Scores when the first places of an order are replaced at once, ``[N, len(counts)]``.

    Args:
        case: What is measured.
        order: ``[N, P]``: places by flat number.
        counts: How many of them go.
        fill: See :mod:`onnxplain.engine.evaluation.fills`.
    """
    return case.evaluated(len(counts), without(case, order, counts, fill))


def without(case: Case, order: Array, counts: Sequence[int], fill: Any) -> Callable[[Array, Array], Array]:
    """What :meth:`Case.evaluated` takes to replace the first places of an order; arguments as for :func:`removed`."""
    rank, many = np.argsort(order, axis=1), np.asarray(counts)  # rank: each place's own number in the order
    return lambda samples, turns: emptied(case, samples, rank[samples] < many[turns][:, None], fill)


def pasted(case: Case, order: Array, counts: Sequence[int], start: Array, end: Array) -> Array:
    """Scores on the way from one input to another, place by place, ``[N, len(counts)]``.

    Args:
        case: What is measured.
        order: ``[N, P]``: places in the order in which they change.
        counts: How many of them have changed.
        start, end: ``[N, ...]``, of the inputs' shape.
    """
    rank, many = np.argsort(order, axis=1), np.asarray(counts)

    def make(samples: Array, turns: Array) -> Array:
        changed = case.over_input(rank[samples] < many[turns][:, None])
        return np.where(changed, end[samples], start[samples])

    return case.evaluated(len(counts), make)


def area(curve: Array) -> Array:
    """Mean height of evenly spaced curves ``[N, P]`` by the trapezoid rule: ``(sum - ends/2) / (P - 1)``."""
    return np.asarray((curve.sum(axis=1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1))


def ranking(case: Case, absolute: bool) -> str:
    """For a metric's facts: how places were ranked."""
    return "absolute" if absolute or not case.signed else "signed"
