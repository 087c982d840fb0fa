"""Products of a matrix and a vector: what onnxruntime makes of them behind a Transpose, and what is made of them here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 3)).astype(np.float32)
V = RNG.normal(size=5).astype(np.float32)
B = RNG.normal(size=(2, 5, 3)).astype(np.float32)


def net(stacked: bool, constant: bool) -> onnx.ModelProto:
    """The transposed input times a vector: of the file, or fed."""
    perm = [0, 2, 1] if stacked else [1, 0]
    inputs = {"x": ["N", 5, 3] if stacked else ["M", "N"], **({} if constant else {"v": [5]})}
    return model(
        [node("Transpose", "x", "t", perm=perm), node("MatMul", "t v", "y")],
        inputs, {"y": ["N", 3] if stacked else ["N"]}, {"v": V} if constant else {},
    )  # fmt: skip


@pytest.mark.parametrize("constant", [True, False], ids=["a weight", "fed"])
@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "plain"])
def test_the_answer_is_the_products(stacked: bool, constant: bool) -> None:
    x = B if stacked else A
    feeds = {"x": x, **({} if constant else {"v": V})}
    wanted = np.swapaxes(x, -1, -2).astype(np.float64) @ V
    seed = RNG.normal(size=wanted.shape).astype(np.float32)
    found = ox.vjp(net(stacked, constant), feeds, {"y": seed}, wrt=["x"] if constant else ["x", "v"])
    np.testing.assert_allclose(found["x"], np.swapaxes(seed[..., None] * V, -1, -2), rtol=1e-5)
    if not constant:
        rows = np.swapaxes(x, -1, -2).reshape(-1, 5)
        np.testing.assert_allclose(found["v"], seed.reshape(-1) @ rows, rtol=1e-4, atol=1e-5)


def test_the_runtime_reads_the_matrix_as_it_was_transposed() -> None:
    """onnxruntime 1.31 takes the Transpose into the product, and is wrong with a vector."""
    e = ox.explain(net(stacked=True, constant=True), B, method="gradient", target=1)
    wanted = np.swapaxes(B, 1, 2).astype(np.float64) @ V
    np.testing.assert_allclose(e.outputs["y"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e.score, wanted[:, 1], rtol=1e-4, atol=1e-5)


def test_a_model_with_one_keeps_its_answer_and_its_names() -> None:
    """A kernel machine: distances to its vectors, a Transpose, weights of one answer."""
    nodes = [
        node("Transpose", "w", "wt", perm=[1, 0]), node("MatMul", "x w", "k"), node("Transpose", "k", "kt", perm=[1, 0]),
        node("Exp", "kt", "e"), node("Transpose", "e", "et", perm=[1, 0]), node("MatMul", "et v", "s"),
        node("Reshape", "s column", "y"),
    ]  # fmt: skip
    weights = {"w": 0.1 * A.T, "v": V, "column": np.array([-1, 1])}
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    e = ox.explain(model(nodes, {"x": ["N", 3]}, {"y": ["N", 1]}, weights), x, method="fullgrad")
    wanted = np.exp(x.astype(np.float64) @ (0.1 * A.T)) @ V
    np.testing.assert_allclose(e.score, wanted, rtol=1e-5)
    assert e.residual is not None and e.residual.relative.max() < 1e-5
    loaded = ox.load(model(nodes, {"x": ["N", 3]}, {"y": ["N", 1]}, weights))
    assert "s" in {y.name for n in loaded.canonical.graph for y in n.outputs}
