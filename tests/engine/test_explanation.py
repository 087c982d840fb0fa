"""What a result says of itself: sums of terms, proof, indices, figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net

import onnxplain as ox
from onnxplain.engine.errors import OptionError, ResidualError
from onnxplain.engine.explanation import Residual, TermInfo, Terms, jsonable


def info(kind: str, *, placed: bool = True, mapped: bool = True) -> TermInfo:
    return TermInfo("n", "Conv", kind, "b", "t", placed, mapped)


TERMS = Terms(
    np.array([1.0, -2.0]),
    np.array([[0.5, -1.0, 4.0], [0.0, 3.0, -1.0]]),
    (info("explicit"), info("implicit", mapped=False), info("explicit", placed=False, mapped=False)),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("explicit", [4.5, -1.0]),
        ("implicit", [-1.0, 3.0]),
        ("unattributed", [4.0, -1.0]),
        ("unmapped", [3.0, 2.0]),
        ("total", [4.5, 0.0]),
        ("magnitude", [6.5, 6.0]),
    ],
)
def test_sums_of_terms(name: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(getattr(TERMS, name), expected)


def test_terms_that_have_a_place_in_part() -> None:
    """A class token's share of a placed term counts as unattributed, and is no part of what is placed."""
    unplaced = np.array([[0.5, 0.0, 4.0], [0.0, -1.0, -1.0]])
    terms = Terms(TERMS.input, TERMS.biases, TERMS.info, {}, unplaced)
    np.testing.assert_array_equal(terms.unattributed, [4.5, -2.0])
    np.testing.assert_allclose(terms.unattributed_share, [4.5 / 6.5, 2.0 / 8.0])
    np.testing.assert_allclose(TERMS.unattributed_share, [4.0 / 6.5, 1.0 / 6.0])


def test_no_bias_terms_at_all() -> None:
    none = Terms(np.array([1.0, -2.0]), np.zeros((2, 0)), ())
    np.testing.assert_array_equal(none.explicit, [0.0, 0.0])
    np.testing.assert_array_equal(none.total, [1.0, -2.0])


def explanation(**changes: Any) -> ox.Explanation:
    fields: dict[str, Any] = {
        "attributions": {"x": np.ones((2, 3, 4, 4))},
        "saliency": np.arange(32.0).reshape(2, 4, 4),
        "score": np.array([1.0, 2.0]),
        "target": np.array([5, 11]),
        "target_shape": (3, 4),
        "head": "logit",
        "output": "y",
        "method": "gradient",
        "options": {},
    }
    return ox.Explanation(**{**fields, **changes})


def residual(*relative: float) -> Residual:
    return Residual(np.array(relative), np.array(relative), "completeness", 1e-4)


@pytest.mark.parametrize(("relative", "ok"), [((0.0, 1e-4), True), ((0.0, 2e-4), False), ((0.0, np.nan), False)])
def test_proof(relative: tuple[float, ...], ok: bool) -> None:
    """A residual that is not a number proves nothing."""
    e = explanation(residual=residual(*relative))
    assert e.residual is not None
    assert e.residual.ok is ok
    if ok:
        e.require_proof()
    else:
        with pytest.raises(ResidualError, match=r"completeness of sample 1 is off by .* past the tolerance 1e-04"):
            e.require_proof()


def test_methods_without_a_check_promise_nothing() -> None:
    explanation().require_proof()


def test_target_index_in_the_outputs_shape() -> None:
    e = explanation()
    assert e.target_index() == (1, 1)
    assert e.target_index(1) == (2, 3)
    with pytest.raises(OptionError, match="given weights"):
        explanation(target=None).target_index()


def test_length_and_maps() -> None:
    e = explanation()
    assert len(e) == 2
    np.testing.assert_array_equal(e.map(1), np.arange(16.0, 32.0).reshape(4, 4))
    with pytest.raises(OptionError, match="several attributed inputs"):
        explanation(saliency=None).map()


def test_overlay_has_the_pictures_size() -> None:
    picture = np.full((20, 30, 3), 128, np.uint8)
    found = explanation().overlay(picture)
    assert (found.shape, found.dtype) == ((20, 30, 3), np.uint8)
    assert not np.array_equal(found, picture)


def test_notebooks_get_a_picture_where_there_is_one() -> None:
    shown = explanation()._repr_png_()
    assert shown is not None
    assert shown.startswith(b"\x89PNG")
    assert explanation(saliency=None)._repr_png_() is None
    assert explanation(saliency=np.ones((2, 7)))._repr_png_() is None


def test_summary_of_one_sample() -> None:
    e = explanation(
        terms=TERMS, residual=residual(0.0, 0.5), baseline_score=np.array([0.0, 7.0]), blocked=("a",), notes=("b",),
        quantisation="straight_through",
    )  # fmt: skip
    assert e.summary(1) == {
        "method": "gradient",
        "output": "y",
        "head": "logit",
        "score": 2.0,
        "target": [2, 3],
        "baseline_score": 7.0,
        "residual": {"of": "completeness", "absolute": 0.5, "relative": 0.5, "tolerance": 1e-4, "ok": False},
        "terms": {"input": -2.0, "explicit": -1.0, "implicit": 3.0, "unattributed": -1.0, "unattributed_share": 1 / 6},
        "quantisation": "straight_through",
        "blocked": ["a"],
        "notes": ["b"],
    }
    assert set(explanation().summary()) == {"method", "output", "head", "score", "target"}
    json.dumps(e.summary(0))


def test_jsonable() -> None:
    value = {
        "a": np.float32(1.5),
        "b": (1, np.array([[1, 2]])),
        3: {"c": Path("x") / "y"},
        "d": None,
        "e": frozenset({1}),
    }
    assert jsonable(value) == {"a": 1.5, "b": [1, [[1, 2]]], "3": {"c": "x/y"}, "d": None, "e": [1]}
    with pytest.raises(TypeError):
        jsonable(object())


def test_figures_of_a_real_result() -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="fullgrad", target=1)
    figures = e.summary()
    assert figures["target"] == 1
    assert figures["residual"]["ok"]
    parts = figures["terms"]
    assert parts["input"] + parts["explicit"] + parts["implicit"] == pytest.approx(figures["score"], rel=1e-6)
