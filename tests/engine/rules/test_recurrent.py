"""Gradients of RNN, GRU and LSTM: differences of the equations in NumPy, completeness, onnxruntime, PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_cases import check_graph
from recurrent_cases import CASES, Recurrent, build, feeds_of, numpy_recurrent

Array = np.ndarray[Any, Any]


def check(case: Recurrent, dynamic: bool) -> None:
    arrays = case.arrays()

    def plain(feeds: dict[str, Array]) -> list[Array]:
        return list(numpy_recurrent(case, {**arrays, **feeds}).values())

    feeds = feeds_of(case, arrays)
    check_graph(build(case, arrays, dynamic=dynamic), feeds, list(feeds), runtime=case.runtime, plain=plain)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_unrolled(case: Recurrent) -> None:
    check(case, dynamic=False)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_scan(case: Recurrent) -> None:
    check(case, dynamic=True)
