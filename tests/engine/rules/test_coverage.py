"""Every operator that is registered is tested: a gradient has a bias rule beside it and a case that runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx_ir as ir
import pytest
import rule_cases

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import BIAS, FLAT, GRADIENT

load_rules()

#: Their gradient is not the derivative, so that the generic case cannot judge it; test_quantization.py does.
STRAIGHT_THROUGH = {("", "QuantizeLinear")}


def all_cases() -> list[rule_cases.Case]:
    """The cases of all files of this folder; the files are imported under names of their own."""
    before = list(rule_cases.ALL)
    rule_cases.ALL.clear()
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"coverage_of_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    found = list(rule_cases.ALL)
    rule_cases.ALL[:] = before
    return found


CASES: dict[tuple[str, str], list[rule_cases.Case]] = {}
for _case in all_cases():
    CASES.setdefault((_case.domain, _case.op_type), []).append(_case)


@pytest.mark.parametrize("key", GRADIENT.operators(), ids="::".join)
def test_operator_has_a_case(key: tuple[str, str]) -> None:
    if key in STRAIGHT_THROUGH:
        assert (Path(__file__).parent / "test_quantization.py").is_file()
    else:
        assert key in CASES, f"add a case({key[1]!r}, ...) to tests/engine/rules"


@pytest.mark.parametrize("key", GRADIENT.operators(), ids="::".join)
def test_operator_has_a_bias_rule(key: tuple[str, str]) -> None:
    """Without one the full-gradient identity cannot be stated for a model that uses the operator."""
    assert BIAS.find(*key, 10**6) is not None


#: Their cases stand for whole graphs; which operands they serve is tested where those are.
WITH_GRAPHS = {("", "If"), ("", "Loop"), ("", "Scan")}


@pytest.mark.parametrize("key", sorted((set(CASES) & set(GRADIENT.operators())) - WITH_GRAPHS), ids="::".join)
def test_no_operand_is_left_out(key: tuple[str, str]) -> None:
    """With every float operand wanted, those that the cases hold fixed as well, and each float result seeded alone."""
    for case in CASES[key]:
        operands = rule_cases.arrays_of(case)
        floats = [name for name, value in operands.items() if value.dtype.kind == "f"]
        proto = rule_cases.model_of(case, operands, floats, "static")
        canonical = canonicalise(read_model(proto))
        for output in [f"y{i}" for i in range(case.outputs)]:
            rewriter = Rewriter(canonical)
            y = rewriter.value(output)
            if not is_float(y):
                continue
            seeds = {y: rewriter.add_input("seed", y.dtype or ir.DataType.FLOAT, None)}
            adjoints = rewriter.backward_from(seeds, [rewriter.value(n) for n in floats], collect=True)
            left_out = [o for o in adjoints.obstacles if "gives no gradient for operand" in o.reason]
            assert not left_out, f"{case.id}, {output}: {left_out[0]}"


@pytest.mark.parametrize("key", sorted(FLAT), ids="::".join)
def test_operator_is_not_both_differentiable_and_flat(key: tuple[str, str]) -> None:
    assert GRADIENT.find(*key, 10**6) is None
    assert BIAS.find(*key, 10**6) is None


def test_no_bias_rule_without_a_gradient() -> None:
    assert set(BIAS.operators()) <= set(GRADIENT.operators())


@pytest.mark.parametrize("key", [k for k, f in sorted(FLAT.items()) if f.reported], ids="::".join)
def test_reported_blocks_say_what_to_do(key: tuple[str, str]) -> None:
    assert FLAT[key].remedy
