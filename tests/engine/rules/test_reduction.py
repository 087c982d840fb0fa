"""Rules of operators that go over the elements of some axes."""

from __future__ import annotations

import numpy as np
import pytest
from rule_cases import Case, case, check, distinct, parametrize, uniform
from run_time import ints

NONE = np.zeros(0, np.int64)
SHAPE = (2, 3, 4)

#: What the operands have to be: distinct where there are ties, positive below a logarithm.
DRAWS = {"ReduceMax": distinct, "ReduceMin": distinct, "ReduceLogSum": uniform(0.5, 2.0)}
REDUCTIONS = [
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
]


def variants(op_type: str) -> list[Case]:
    """Every form of axes with and without the reduced axes kept."""
    options = {"draw": DRAWS[op_type]} if op_type in DRAWS else {}
    attribute = 11 if op_type == "ReduceSum" else 13
    found = []
    for keepdims in (0, 1):
        both = {**options, "keepdims": keepdims}
        found += [
            case(op_type, x=SHAPE, axes=ints(1), name=f"{op_type}-1-{keepdims}", **both),
            case(op_type, x=SHAPE, axes=ints(-1), name=f"{op_type}-last-{keepdims}", **both),
            case(op_type, x=(2, 2, 3, 2), axes=ints(-1, 2), name=f"{op_type}-space-{keepdims}", **both),
            case(op_type, x=(3, 4), axes=ints(0), batch=False, name=f"{op_type}-0-{keepdims}", **both),
            case(op_type, x=(2, 1, 3), axes=ints(1), name=f"{op_type}-size1-{keepdims}", **both),
            case(op_type, x=SHAPE, batch=False, name=f"{op_type}-absent-{keepdims}", **both),
            case(op_type, x=(5,), batch=False, name=f"{op_type}-vector-{keepdims}", **both),
            case(op_type, x=(1, 1), batch=False, name=f"{op_type}-one-{keepdims}", **both),
            case(op_type, x=SHAPE, axes=NONE, batch=False, name=f"{op_type}-empty-{keepdims}", **both),
            case(op_type, x=SHAPE, axes=NONE, noop_with_empty_axes=1, name=f"{op_type}-noop-{keepdims}", **both),
            case(op_type, x=(2, 3), noop_with_empty_axes=1, name=f"{op_type}-absent-noop-{keepdims}", **both),
            case(op_type, x=SHAPE, opset=attribute, attributes={"axes": [1, 2]}, name=f"{op_type}-{attribute}-{keepdims}", **both),
            case(op_type, x=SHAPE, opset=attribute, batch=False, name=f"{op_type}-{attribute}-absent-{keepdims}", **both),
        ]
    return found


CASES = [
    *(v for op_type in REDUCTIONS for v in variants(op_type)),
    case("ReduceSum", x=SHAPE, axes=ints(2), opset=13),
    case("ReduceMean", x=SHAPE, axes=ints(2), opset=21),
    case("ReduceMax", x=SHAPE, axes=ints(2), opset=20, draw=distinct),
    *(
        case("CumSum", x=SHAPE, axis=np.asarray(axis), attributes={"exclusive": e, "reverse": r}, batch=axis != 0)
        for axis, e, r in [(1, 0, 0), (-1, 1, 0), (2, 0, 1), (0, 1, 1)]
    ),
    case("TopK", x=(2, 5), k=ints(3), outputs=2, draw=distinct),
    case("TopK", x=(2, 5, 2), k=ints(2), axis=1, largest=0, outputs=2, draw=distinct),
    case("TopK", x=(4, 3), k=ints(2), axis=0, outputs=2, batch=False, draw=distinct),
    case("TopK", x=(2, 5), k=ints(1), axis=-1, outputs=2, opset=11, draw=distinct),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
