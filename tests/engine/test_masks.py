"""Scores of altered inputs: every copy once, whatever the memory; coalitions against a loop."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onnxplain.engine.masks import Game, score_blocks
from onnxplain.engine.method import Run
from onnxplain.engine.players import make_players

Array = np.ndarray[Any, Any]
X = {"a": np.array([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]]), "b": np.array([[0.5], [0.25], [4.0]])}
LABELS = {"a": ("batch", "t"), "b": ("batch", "t")}


def f(a: Array, b: Array) -> Array:
    return np.asarray(a[:, 0] * a[:, 1] + 10 * b[:, 0])


def run(sizes: list[int] | None = None) -> Run:
    def evaluate(points: Mapping[str, Array], samples: Array, keys: Sequence[str]) -> dict[str, Array]:
        if sizes is not None:
            sizes.append(len(samples))
        # The sample's number is part of the score, so that a mixed-up sample would show.
        return {"score": f(points["a"], points["b"]) + 1000 * samples}

    return Run(X, {"score": f(X["a"], X["b"]) + 1000 * np.arange(3)}, evaluate, 0, LABELS)


@pytest.mark.parametrize("staging", [1, 60, 1 << 20])
def test_every_copy_once(staging: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxplain.engine.method.STAGING_BYTES", staging)
    sizes: list[int] = []
    turns = np.array([2, 0, 3])

    def change(point: dict[str, Array], sample: int, turn: int) -> None:
        point["a"][0] = turn
        point["b"][:] = 0

    found = {}
    for samples, numbers, scores in score_blocks(run(sizes), turns, change):
        found |= {(s, t): v for s, t, v in zip(samples.tolist(), numbers.tolist(), scores.tolist(), strict=True)}
    assert found == {(s, t): t * X["a"][s, 1] + 1000 * s for s in range(3) for t in range(turns[s])}
    assert max(sizes) <= max(1, staging // 24), "a point has three float64 numbers"
    np.testing.assert_array_equal(X["a"][0], [1.0, 2.0])


def test_coalitions() -> None:
    """Two baselines: the value is the mean over them."""
    r = run()
    players = make_players("features", r.x, LABELS)
    baselines = [{"a": np.zeros((3, 2)), "b": np.zeros((3, 1))}, {"a": np.full((3, 2), 2.0), "b": np.ones((3, 1))}]
    coalitions = np.array(list(itertools.product([False, True], repeat=3)))
    found = Game(r, players, baselines).values(8, lambda _, turn: coalitions[turn])
    for n in range(3):
        for there, value in zip(coalitions, found[n], strict=True):
            scores = [
                f(np.where(there[:2], X["a"], low["a"])[n : n + 1], np.where(there[2:], X["b"], low["b"])[n : n + 1])
                for low in baselines
            ]
            assert value == pytest.approx(np.mean(scores) + 1000 * n)
    np.testing.assert_allclose(Game(r, players, baselines).nobody(), [7.0 + 1000 * n for n in range(3)])


def test_a_run_elsewhere_keeps_its_samples() -> None:
    inner = run().at({"a": X["a"][[2, 0]] + 1, "b": X["b"][[2, 0]]}, np.array([2, 0]), seed=9)
    np.testing.assert_allclose(inner.score, [8 * 12 + 40 + 2000, 2 * 3 + 5])
    further = inner.evaluate({"a": np.ones((3, 2)), "b": np.zeros((3, 1))}, np.array([1, 1, 0]), ["score"])
    np.testing.assert_allclose(further["score"], [1, 1, 2001])
    assert inner.seed == 9 and run().at(X, np.arange(3)).seed == 0
