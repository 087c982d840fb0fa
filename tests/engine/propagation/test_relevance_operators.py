"""Every operator that has a gradient hands relevance on, or refuses: none is lost without an entry.

The cases are those of the gradient rules. What arrives at the operands and what the ledger holds is summed
in float64 and compared with the relevance that the result was given.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rule_cases

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.propagation.ledger import absorbed
from onnxplain.engine.propagation.relevance import Settings
from onnxplain.engine.propagation.relevance_defaults import default_relevance, default_table
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import GRADIENT
from onnxplain.engine.session.session import Session

load_rules()

#: Cases looked at per operator; its rule of relevance rests on the gradient rule, which all of them have tested.
FIRST = 6

#: What an operand that is active makes impossible, said in one sentence.
REFUSED = {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"}

#: Their cases stand for whole graphs.
WITH_GRAPHS = {"If", "Loop", "Scan"}


def cases() -> list[rule_cases.Case]:
    """The first cases of each operator, from all files of rules."""
    before = list(rule_cases.ALL)
    rule_cases.ALL.clear()
    for path in sorted((Path(__file__).parents[1] / "rules").glob("test_*.py")):
        if path.stem != "test_coverage":
            spec = importlib.util.spec_from_file_location(f"relevance_of_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    found = list(rule_cases.ALL)
    rule_cases.ALL[:] = before
    count: dict[str, int] = {}
    chosen = []
    for case in found:
        count[case.op_type] = count.get(case.op_type, 0) + 1
        if (
            count[case.op_type] <= FIRST
            and case.op_type not in WITH_GRAPHS
            and ("", case.op_type) in GRADIENT.operators()
        ):
            chosen.append(case)
    return chosen


CASES = cases()


def subsets(case: rule_cases.Case) -> list[list[str]]:
    drawn = [k for k, v in case.operands.items() if isinstance(v, tuple) and (case.wrt is None or k in case.wrt)]
    return [drawn] if len(drawn) == 1 else [drawn[:1], drawn]


def seeded(case: rule_cases.Case, wrt: list[str]) -> tuple[Rewriter, dict[Any, Any], dict[str, Any]]:
    """A graph, a seed per float result, and random relevance for each."""
    arrays = rule_cases.arrays_of(case)
    proto = rule_cases.model_of(case, arrays, wrt, "static")
    rewriter = Rewriter(canonicalise(read_model(proto)))
    rng = np.random.default_rng(3)
    seeds, given = {}, {}
    for i, y in enumerate(rule_cases._plain(proto, {n: arrays[n] for n in wrt})):
        if y.dtype.kind == "f":
            value = rewriter.value(f"y{i}")
            seeds[value] = rewriter.add_input(f"seed_y{i}", value.dtype, None)
            seeds[value].shape = value.shape
            given[f"seed_y{i}"] = np.asarray(rng.normal(size=y.shape))
    return rewriter, seeds, given


def account(case: rule_cases.Case, wrt: list[str], bias: str) -> tuple[float, list[Any]]:
    """Relevance of the results, and all that became of it."""
    rewriter, seeds, given = seeded(case, wrt)
    wanted = [rewriter.value(n) for n in wrt]
    adjoints = rewriter.backward_from(seeds, wanted, default_relevance(Settings(bias=bias)))
    arrays = rule_cases.arrays_of(case)
    names = [rewriter.add_output(f"R_{v.name}", adjoints.of[v]) for v in wanted if v in adjoints.of]
    terms = absorbed(adjoints, {wanted[0]: ("batch", *[None] * (arrays[wrt[0]].ndim - 1))})
    op = rewriter.op
    names += [
        rewriter.add_output(f"kept_{k}", op.Mul(op.Mul(t.adjoint, t.bias), t.factor)) for k, t in enumerate(terms)
    ]
    run = Session(rewriter.finish(), "reference").run({**{n: arrays[n] for n in wrt}, **given})
    reached = {y.name for n in adjoints.nodes for y in n.outputs}
    begun = sum(float(r.sum()) for name, r in given.items() if name.removeprefix("seed_") in reached)
    return begun, [run[n] for n in names]


@pytest.mark.parametrize("bias", ["absorb", "ignore"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_relevance_is_accounted_for(case: rule_cases.Case, bias: str) -> None:
    for wrt in subsets(case):
        if case.op_type in REFUSED and (len(wrt) > 1 or case.outputs > 1):
            with pytest.raises(UnsupportedNodeError, match=r"scale or bias depends|beside its first one"):
                account(case, wrt, bias)
            continue
        begun, parts = account(case, wrt, bias)
        total, size = (sum(float(f(p).sum()) for p in parts) for f in (np.asarray, np.abs))
        assert np.isfinite(total)
        assert abs(begun - total) <= 1e-6 * (size + abs(begun) + 1e-6), f"wrt {wrt}: {begun} against {total}"


@pytest.mark.parametrize("key", [k for k in GRADIENT.operators() if not k[0]], ids="::".join)
def test_every_operator_is_in_a_list(key: tuple[str, str]) -> None:
    assert key in default_table(Settings()).operators(), f"say in relevance_defaults.py how {key[1]} hands relevance on"
