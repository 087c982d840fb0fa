"""Rules of Einsum: products, traces, diagonals, ellipses, letters that only one operand has."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from rule_cases import Case, case, check, parametrize
from run_time import gradient, model

CASES = [
    case("Einsum", a=(2, 3, 4), b=(2, 4, 5), equation="bij, bjk -> bik", batch=False),
    case("Einsum", a=(2, 3, 4), b=(4, 5), equation="bij,jk", batch=False),
    case("Einsum", a=(2, 3, 4), b=(2, 5, 4), equation="bid,bjd->bij", batch=False),
    case("Einsum", a=(3, 4), equation="ij->ji", batch=False),
    case("Einsum", a=(3, 4), equation="ij->i"),
    case("Einsum", a=(3, 4), equation="ij->", batch=False),
    case("Einsum", a=(4, 4), equation="ii", batch=False),
    case("Einsum", a=(4, 4), equation="ii->i", batch=False),
    case("Einsum", a=(3, 4, 4), equation="...ii->...i"),
    case("Einsum", a=(3, 3, 2, 3), b=(3, 2), equation="iiji,ij->j", batch=False),
    case("Einsum", a=(4, 3), b=(4, 4), equation="ik,jj->i"),
    case("Einsum", a=(2, 3, 4), b=(3, 5), equation="...ij,ik->...jk"),
    case("Einsum", a=(2, 3, 4), b=(1, 4, 3), equation="...ij,...ji->...i"),
    case("Einsum", a=(2, 1, 4), b=(2, 3, 4), equation="b...d,b...d->b...", batch=False),
    case("Einsum", a=(2, 3), b=(2, 1), equation="ij,ij->ij", batch=False),
    case("Einsum", a=(2, 3), b=(3, 4), c=(4, 2), equation="ij,jk,kl->il"),
    case("Einsum", a=(2, 3), b=(5,), equation="ij,k->ik"),
    case("Einsum", a=(2, 3), b=(2, 3), equation="ij,ij->", batch=False),
    case("Einsum", a=(2, 3), b=(4,), equation="Ab,c->Acb"),
    case("Einsum", a=(2, 3), equation="ij->ij"),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("size", [1, 3])
def test_sizes_that_may_be_one_are_summed_at_run_time(size: int) -> None:
    rng = np.random.default_rng(1)
    feeds = {"x": rng.normal(size=(2, size)).astype(np.float32), "w": rng.normal(size=(2, 3)).astype(np.float32)}
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,ij->ij")
    seed = rng.normal(size=(2, 3)).astype(np.float32)
    expected = (seed * feeds["w"]).sum(1, keepdims=True) if size == 1 else seed * feeds["w"]
    np.testing.assert_allclose(gradient(model([node], feeds), feeds, seed), expected, rtol=1e-6)
