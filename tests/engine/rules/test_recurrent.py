"""Gradients of RNN, GRU and LSTM: differences of the equations in NumPy, completeness, onnxruntime, PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_cases import check_graph
from recurrent_cases import BATCH, CASES, HIDDEN, WIDTH, Recurrent, build, feeds_of, numpy_recurrent

from onnxplain.engine.vjp import vjp

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


@pytest.mark.torch
@pytest.mark.parametrize("steps", [5, 40], ids=["unrolled", "scan"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_gradient_is_that_of_pytorch(kind: str, steps: int) -> None:
    """Two directions, weights packed as the standard wants them."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    attributes = {"direction": "bidirectional", **({"linear_before_reset": 1} if kind == "GRU" else {})}
    case = Recurrent(kind, attributes, steps=steps, outputs=("Y",))
    arrays = case.arrays()
    module = getattr(torch.nn, kind)(WIDTH, HIDDEN, bidirectional=True).double()
    # Gates in PyTorch's order: LSTM i f c o for i o f c, GRU r z h for z r h.
    order = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}[kind]
    rows = np.concatenate([np.arange(k * HIDDEN, (k + 1) * HIDDEN) for k in order])
    bias = arrays["B"].reshape(2, 2, -1)
    with torch.no_grad():
        for d, suffix in enumerate(("", "_reverse")):
            for name, array in (
                ("weight_ih", arrays["W"][d]),
                ("weight_hh", arrays["R"][d]),
                ("bias_ih", bias[d, 0]),
                ("bias_hh", bias[d, 1]),
            ):
                getattr(module, f"{name}_l0{suffix}").copy_(torch.from_numpy(array[rows]))
    x = torch.from_numpy(arrays["X"]).requires_grad_()
    y, _ = module(x)
    seed = np.random.default_rng(3).normal(size=(steps, BATCH, 2, HIDDEN))
    y.backward(torch.from_numpy(seed.reshape(steps, BATCH, -1)))
    cotangent = {"Y": np.ascontiguousarray(seed.transpose(0, 2, 1, 3))}
    found = vjp(build(case, arrays, dynamic=False), {"X": arrays["X"]}, cotangent, providers=["reference"])
    np.testing.assert_allclose(found["X"], x.grad.numpy(), rtol=1e-9, atol=1e-12)
