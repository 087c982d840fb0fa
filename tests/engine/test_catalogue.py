"""The table of operators: complete against the standard, with a reason for everything that is refused."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

import onnxplain as ox
from onnxplain.engine.catalogue import refusals
from onnxplain.engine.graph.model import MAX_OPSET
from onnxplain.engine.rules.table import FLAT, GRADIENT


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, Any]]:
    entries = ox.operators()
    names = [e["operator"] if e["domain"] == "ai.onnx" else f"{e['domain']}::{e['operator']}" for e in entries]
    assert len(set(names)) == len(names)
    return dict(zip(names, entries, strict=True))


def standard() -> set[str]:
    """Every operator of every domain of the standard, up to the newest opset that is read."""
    schemas = onnx.defs.get_all_schemas_with_history()
    return {
        s.name if not s.domain else f"{s.domain}::{s.name}" for s in schemas if s.domain or s.since_version <= MAX_OPSET
    }


#: Experimental operators of the first opsets, gone before the oldest that is read.
GONE = {"ATen", "Affine", "ConstantFill", "Crop", "DynamicSlice", "GRUUnit", "GivenTensorFill", "ImageScaler",
        "ParametricSoftplus", "Scale", "ScaledTanh"}  # fmt: skip


def test_no_operator_of_the_standard_is_left_out(known: dict[str, dict[str, Any]]) -> None:
    assert standard() - set(known) - GONE == set()


def test_how_each_is_served(known: dict[str, dict[str, Any]]) -> None:
    served = {name: known[name]["gradient"] for name in known}
    for domain, name in (*GRADIENT.operators(), *FLAT):
        assert served[f"{domain}::{name}" if domain else name] != "refused"
    assert {"Conv": "rule", "Attention": "body", "LSTM": "rewritten", "SequenceAt": "rewritten", "Round": "zero",
            "com.microsoft::FusedConv": "split", "ai.onnx.ml::SVMRegressor": "split", "QLinearConv": "split",
            "ai.onnx.preview::FlexAttention": "body", "ai.onnx.preview.training::Adam": "refused",
            "ai.onnx.ml::TreeEnsemble": "zero"}.items() <= served.items()  # fmt: skip
    assert {e["bias"] for e in known.values() if e["gradient"] in ("zero", "refused")} == {False}
    assert {e["bias"] for e in known.values() if e["gradient"] not in ("zero", "refused")} == {True}


def test_one_entry_in_full(known: dict[str, dict[str, Any]]) -> None:
    assert known["Resize"] == {
        "domain": "ai.onnx",
        "operator": "Resize",
        "versions": [10, 11, 13, 18, 19],
        "gradient": "rule",
        "bias": True,
        "remedy": "",
        "refused": [{"message": r.says, "reason": r.why} for r in refusals() if r.operator == "Resize"],
    }
    assert len(known["Resize"]["refused"]) == 2
    assert known["com.microsoft::FusedConv"]["versions"] == []


def test_refusals_have_reasons_and_name_operators_that_exist(known: dict[str, dict[str, Any]]) -> None:
    for refusal in refusals():
        assert refusal.why
        assert refusal.operator in standard() or refusal.operator.startswith("com.microsoft::")
    for name, entry in known.items():
        assert entry["gradient"] != "refused" or entry["refused"], name


def test_sensitivity_that_is_lost_comes_with_a_remedy(known: dict[str, dict[str, Any]]) -> None:
    for domain, name in (key for key, flat in FLAT.items() if flat.reported):
        assert known[f"{domain}::{name}" if domain else name]["remedy"]
