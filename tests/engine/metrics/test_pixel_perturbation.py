"""Pixel perturbation on linear models, where what is removed is what is lost."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured
from tiny_models import model, node

from onnxplain.engine.errors import OptionError
from onnxplain.engine.loading import load

X = np.arange(1.0, 11.0).reshape(1, 10)
WEIGHTS = np.ones(10)
#: float32 scores of about 55.
CLOSE = 1e-6


def test_least_salient_first_loses_the_smallest_shares() -> None:
    found = measured(given(linear(WEIGHTS), X, X), "pixel_perturbation", fractions=(0.1, 0.3))
    assert found.curves["change"][1] == pytest.approx(np.array([[1 / 55, 6 / 55]]), rel=CLOSE)
    assert found.values == pytest.approx([3.5 / 55], rel=CLOSE)
    assert found.facts == {"ranking": "signed", "first": "least"}


def test_most_salient_first() -> None:
    found = measured(given(linear(WEIGHTS), X, X), "pixel_perturbation", fractions=(0.1, 0.3), order="most")
    assert found.curves["change"][1] == pytest.approx(np.array([[10 / 55, 27 / 55]]), rel=CLOSE)


def test_signed_and_absolute_ranking() -> None:
    signs = np.where(np.arange(10) == 9, -1.0, 1.0)  # the last feature counts most, against the class
    case = given(linear(signs), X, X * signs)
    plain = measured(case, "pixel_perturbation", fractions=(0.1,))
    sized = measured(case, "pixel_perturbation", fractions=(0.1,), absolute=True)
    assert plain.values == pytest.approx([10 / 35], rel=CLOSE)
    assert sized.values == pytest.approx([1 / 35], rel=CLOSE)
    assert sized.facts["ranking"] == "absolute"


def test_incremental_measures_each_step_alone() -> None:
    found = measured(given(linear(WEIGHTS), X, X), "pixel_perturbation", fractions=(0.3, 0.1), incremental=True)
    at, change = found.curves["change"]
    assert at.tolist() == [0.1, 0.3]
    assert change == pytest.approx(np.array([[1 / 55, 5 / 55]]), rel=CLOSE)


def test_incremental_fills_from_what_the_step_before_left() -> None:
    x = np.array([[0.0, 0.0, 8.0, 4.0]])
    case = given(linear(np.array([0.0, 0.0, 1.0, 1.0])), x, np.array([[4.0, 3.0, 2.0, 1.0]]))
    # The mean is 3; once the last feature holds it, it is 11/4.
    found = measured(case, "pixel_perturbation", fractions=(0.25, 0.5), incremental=True, fill="mean")
    assert found.curves["change"][1] == pytest.approx(np.array([[1 / 12, (8 - 11 / 4) / 12]]), rel=CLOSE)


def test_kl_of_a_two_class_softmax() -> None:
    # One class with logit <1, x>, one with 0: the distribution is a sigmoid of the sum.
    x = np.array([[0.5, -1.0, 2.0]])
    found = measured(given(linear(np.ones(3)), x, x), "pixel_perturbation", fractions=(1 / 3,), distance="kl")
    p, q = (1 / (1 + np.exp(-s)) for s in (1.5, 2.5))
    assert found.values == pytest.approx([p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))], rel=1e-5)


def test_a_place_goes_with_all_its_channels() -> None:
    x = np.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    proto = model(
        [node("ReduceSum", "x axes", "s", keepdims=0), node("Unsqueeze", "s last", "y")],
        {"x": ["N", 2, 2, 2]}, {"y": ["N", 1]},
        {"axes": np.array([1, 2, 3], dtype=np.int64), "last": np.array([1], dtype=np.int64)},
    )  # fmt: skip
    found = measured(given(load(proto, threads=1), x, x), "pixel_perturbation", fractions=(0.25,))
    assert found.values == pytest.approx([(1 + 5) / 36], rel=CLOSE)


def test_ties_are_broken_by_the_seed_and_not_by_the_index() -> None:
    x = np.tile(X, (1, 10))
    flat = np.zeros_like(x)
    found = [
        measured(given(linear(np.ones(100)), x, flat, seed=s), "pixel_perturbation", fractions=(0.1,)).values[0]
        for s in (0, 0, 1, 2)
    ]
    assert found[0] == found[1]
    assert len(set(found)) > 1
    tenth = 10 * X.sum() / x.sum() / 10  # ten neighbours in a row, as an order by index would remove
    assert all(value != pytest.approx(tenth) for value in found)


def test_a_score_of_zero_is_not_divided_by() -> None:
    found = measured(
        given(linear(np.array([1.0, -1.0])), [[1.0, 1.0]], [[1.0, -1.0]]), "pixel_perturbation", fractions=(0.5,)
    )
    assert found.values == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": "worst"}, "order='worst'"),
        ({"fill": "grey"}, "fill='grey'"),
        ({"fill": None}, "fill=None"),
        ({"fractions": ()}, "shares from 0 to 1"),
        ({"fractions": (0.1, 1.5)}, "shares from 0 to 1"),
        ({"distance": "l2"}, "distance='l2'"),
    ],
)
def test_refusals(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        measured(given(linear(WEIGHTS), X, X), "pixel_perturbation", **options)
