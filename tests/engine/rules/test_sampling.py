"""Rules of GridSample and AffineGrid; places reach past the edges, and keep off the kinks at elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from rule_cases import Case, case, check, normal, parametrize


def places(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A normal tensor, or a grid in [-1.7, 1.7] on the lattice of sevenths plus an offset."""
    if shape[-1] not in (2, 3) or len(shape) < 4:
        return normal(rng, shape)
    return (rng.integers(-12, 12, size=shape) + rng.uniform(0.35, 0.65, size=shape)) / 7.0


def sampled(opset: int = 20, **arguments: Any) -> Case:
    return case("GridSample", opset=opset, draw=places, batch=False, **arguments)


PADDINGS = ("zeros", "border", "reflection")
CASES = [
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="linear", padding_mode=p) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="linear", padding_mode=p, align_corners=1) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="cubic", padding_mode=p) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="cubic", padding_mode=p, align_corners=1) for p in PADDINGS),
    *(sampled(x=(2, 3, 4, 5), g=(2, 3, 4, 2), wrt=("x",), mode="nearest", padding_mode=p) for p in PADDINGS),
    *(sampled(x=(1, 2, 3, 4, 5), g=(1, 2, 3, 2, 3), mode="linear", padding_mode=p) for p in PADDINGS),
    sampled(x=(1, 2, 3, 4, 5), g=(1, 2, 3, 2, 3), mode="nearest", wrt=("x",), align_corners=1),
    sampled(opset=16, x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="bilinear"),
    sampled(opset=16, x=(2, 3, 4, 5), g=(2, 3, 4, 2), mode="bicubic", padding_mode="border"),
    sampled(opset=22, x=(2, 1, 1, 4), g=(2, 3, 4, 2), mode="linear", padding_mode="reflection", align_corners=1),
    case("AffineGrid", theta=(2, 2, 3), size=np.asarray([2, 3, 4, 5]), opset=20, batch=False, symbolic=False),
    case("AffineGrid", theta=(2, 3, 4), size=np.asarray([2, 3, 4, 5, 3]), align_corners=1, opset=20, batch=False, symbolic=False),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
