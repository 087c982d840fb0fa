"""Every operator that is registered is tested: a gradient has a bias rule beside it and a case that runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import rule_cases

from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import BIAS, FLAT, GRADIENT

load_rules()

#: Their gradient is not the derivative, so that the generic case cannot judge it; test_quantization.py does.
STRAIGHT_THROUGH = {("", "QuantizeLinear"), ("", "DequantizeLinear")}


def operators_with_a_case() -> set[tuple[str, str]]:
    """Operators with a case in some file of this folder; the files are imported under names of their own."""
    before = list(rule_cases.ALL)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"coverage_of_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    found = {(c.domain, c.op_type) for c in rule_cases.ALL}
    rule_cases.ALL[:] = before
    return found


@pytest.fixture(scope="module")
def cases() -> set[tuple[str, str]]:
    return operators_with_a_case()


@pytest.mark.parametrize("key", GRADIENT.operators(), ids="::".join)
def test_operator_has_a_case(key: tuple[str, str], cases: set[tuple[str, str]]) -> None:
    if key in STRAIGHT_THROUGH:
        assert (Path(__file__).parent / "test_quantization.py").is_file()
    else:
        assert key in cases, f"add a case({key[1]!r}, ...) to tests/engine/rules"


@pytest.mark.parametrize("key", GRADIENT.operators(), ids="::".join)
def test_operator_has_a_bias_rule(key: tuple[str, str]) -> None:
    """Without one the full-gradient identity cannot be stated for a model that uses the operator."""
    assert BIAS.find(*key, 10**6) is not None


@pytest.mark.parametrize("key", sorted(FLAT), ids="::".join)
def test_operator_is_not_both_differentiable_and_flat(key: tuple[str, str]) -> None:
    assert GRADIENT.find(*key, 10**6) is None
    assert BIAS.find(*key, 10**6) is None


def test_no_bias_rule_without_a_gradient() -> None:
    assert set(BIAS.operators()) <= set(GRADIENT.operators())


@pytest.mark.parametrize("key", [k for k, f in sorted(FLAT.items()) if f.reported], ids="::".join)
def test_reported_blocks_say_what_to_do(key: tuple[str, str]) -> None:
    assert FLAT[key].remedy
