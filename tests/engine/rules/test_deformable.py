"""Rules of DeformConv; offsets keep off the kinks at elements, and reach past the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from rule_cases import Case, case, check, normal, parametrize


def offsets(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Whole numbers plus a part between 0.2 and 0.8 where there are two a cell, else a normal tensor."""
    if len(shape) == 4 and shape[1] in (8, 16, 18):
        return rng.integers(-2, 2, size=shape) + rng.uniform(0.2, 0.8, size=shape)
    return normal(rng, shape)


def deformed(**arguments: Any) -> Case:
    return case("DeformConv", opset=19, draw=offsets, batch=False, **arguments)


CASES = [
    deformed(x=(1, 2, 4, 5), w=(3, 2, 2, 2), o=(1, 8, 3, 4)),
    deformed(x=(2, 2, 4, 5), w=(3, 2, 2, 2), o=(2, 8, 3, 4), b=(3,), m=(2, 4, 3, 4)),
    deformed(x=(1, 4, 4, 5), w=(4, 2, 2, 2), o=(1, 16, 3, 4), m=None, group=2, offset_group=2),
    deformed(x=(1, 2, 5, 6), w=(2, 2, 3, 3), o=(1, 18, 3, 3), b=None, m=(1, 9, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    deformed(x=(1, 2, 5, 5), w=(2, 2, 2, 2), o=(1, 8, 3, 3), dilations=[2, 2], kernel_shape=[2, 2]),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
