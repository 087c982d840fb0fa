"""MuFidelity: ranks on linear models, cells of the grid, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from scipy.stats import spearmanr
from tiny_models import fullgrad_net

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.tiles import grid
from onnxplain.engine.loading import load


def test_linear_model() -> None:
    random = np.random.default_rng(0)
    weights, x = random.normal(size=(1, 6, 6)), random.normal(size=(2, 1, 6, 6))
    found = measured(given(linear(weights), x, x * weights), "mu_fidelity", cells=3, share=0.3, runs=50)
    assert found.values == pytest.approx(np.ones(2), abs=1e-3)  # float32 may swap two falls that are nearly equal
    assert found.facts["cells"] == 9 and found.facts["size"] == 3


def test_against_scipy() -> None:
    proto, x = fullgrad_net()
    case = by_method(load(proto, threads=1), x, "gradient")
    found = measured(case, "mu_fidelity", cells=2, share=0.5, runs=30).values[0]
    cells = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    sums, falls = [], []
    for k in range(30):
        members = np.isin(cells, generator(0, 2, k).choice(4, size=2, replace=False))
        sums.append((case.attribution[0, 0] * members).sum())
        falls.append(case.clean[0] - case.scorer.scores(np.where(members, 0, x).astype(np.float32), np.zeros(1))[0])
    assert found == pytest.approx(spearmanr(np.round(sums, 5), np.round(falls, 5))[0], abs=1e-2)


def test_grid_cells_are_as_even_as_they_can_be() -> None:
    assert grid([5], 3).tolist() == [0, 0, 1, 1, 2]
    assert grid([2, 3], 9).tolist() == [[0, 1, 2], [3, 4, 5]]
    sizes = np.bincount(grid([28, 28], 9).reshape(-1))
    assert len(sizes) == 81 and sizes.min() >= 9 and sizes.max() <= 16
