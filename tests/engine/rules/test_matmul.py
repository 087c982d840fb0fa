"""Rules of MatMul and Gemm."""

from __future__ import annotations

from rule_cases import Case, case, check, parametrize

CASES = [
    case("MatMul", a=(2, 3), b=(3, 4)),
    case("MatMul", a=(2, 5, 3), b=(3, 4)),
    case("MatMul", a=(2, 5, 3), b=(2, 3, 4), batch=False),
    case("MatMul", a=(2, 1, 5, 3), b=(4, 3, 2)),
    case("MatMul", a=(3, 2), b=(4, 2, 5), batch=False),
    case("MatMul", a=(2, 4, 1, 3), b=(1, 1, 3, 2)),
    case("MatMul", a=(3,), b=(3, 4), batch=False),
    case("MatMul", a=(3,), b=(2, 3, 4), batch=False),
    case("MatMul", a=(2, 3), b=(3,)),
    case("MatMul", a=(2, 4, 3), b=(3,)),
    case("MatMul", a=(3,), b=(3,), batch=False),
    case("Gemm", a=(2, 3), b=(3, 4), c=(4,)),
    case("Gemm", a=(2, 3), b=(4, 3), transB=1, c=(1, 4), alpha=0.5, beta=2.0),
    case("Gemm", a=(3, 2), b=(3, 4), transA=1, c=(2, 4), batch=False),
    case("Gemm", a=(3, 2), b=(4, 3), transA=1, transB=1, c=(), alpha=1.5, batch=False, symbolic=True),
    case("Gemm", a=(2, 3), b=(3, 4)),
    case("Gemm", a=(2, 3), b=(3, 4), c=(2, 1), batch=False),
]

CASES += [
    case("Det", x=(2, 3, 3)),
    case("Det", x=(4, 4), batch=False),
    case("Det", x=(2, 2, 2, 2)),
    case("Det", x=(2, 1, 1), symbolic=False),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
