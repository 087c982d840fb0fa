"""Rules of Softmax and LogSoftmax."""

from __future__ import annotations

from rule_cases import Case, case, check, parametrize

CASES = [
    *(case(op_type, x=(2, 3, 4), axis=axis, batch=axis != 0) for op_type in ("Softmax", "LogSoftmax") for axis in (-1, 0, 1, 2)),
    *(case(op_type, x=(2, 3)) for op_type in ("Softmax", "LogSoftmax")),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
