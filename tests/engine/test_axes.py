"""Axes joined and split by Reshape, against the positions that NumPy's own reshape gives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxplain.engine.axes import Joined, Labels, joined, names, regrouped, unfolding
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dims
from onnxplain.engine.session.session import Session

YX: Labels = ("batch", None, "y", "x")
GRID = Joined((("y", 3), ("x", 4)))
TOKENS = Joined(GRID.parts, 1)


@pytest.mark.parametrize(
    ("labels", "source", "target", "expected"),
    [
        (YX, ("N", 5, 3, 4), ("N", 5, 12), ("batch", None, GRID)),
        (YX, ("N", 5, 3, 4), (None, 5, 12), ("batch", None, GRID)),
        (YX, ("N", 5, 3, 4), ("other", 60), ("batch", Joined(((None, 5), *GRID.parts)))),
        (YX, (1, 5, 3, 4), (5, 12), (Joined((("batch", 1), (None, 5))), GRID)),
        (YX, (2, 5, 3, 4), (2, 5, 1, 12), ("batch", None, None, GRID)),
        (YX, ("N", 6, 3, 4), ("N", 2, 3, 3, 4), ("batch", None, None, "y", "x")),
        (YX, ("N", 3, 6, 8), ("N", 3, 3, 2, 4, 2), ("batch", None, "y", None, "x", None)),
        (("batch", TOKENS, None), ("N", 13, 8), ("N", 13, 2, 4), ("batch", TOKENS, None, None)),
        (("batch", TOKENS, None), ("N", 13, 8), ("M", 8), (Joined((("batch", "N"), (TOKENS, 13))), None)),
        (("batch", None, GRID), ("N", 8, 12), ("N", 8, 3, 4), YX),
        (("batch", GRID, None), ("N", 12, 8), ("N", 2, 6, 8), None),
        (("batch", TOKENS, None), ("N", 13, 8), ("N", 104), ("batch", Joined(((TOKENS, 13), (None, 8))))),
        (YX, ("N", 5, None, 4), ("N", 5, None), None),
        (YX, ("N", 5, 3, 4), None, None),
        (("batch", "t"), (4, 3), (2, 6), None),
    ],
)
def test_regrouping(labels: Labels, source: Dims, target: Dims | None, expected: Labels | None) -> None:
    found = regrouped(labels, source, target)
    if expected is None:
        assert found is None or not names(found)["x"], "what cannot be followed must not look as if it had places"
    else:
        assert found == expected


def test_joining_says_no_more_than_is_known() -> None:
    assert joined([(None, 3), (None, 4)]) is None
    assert joined([("t", 7), (None, 1)]) == "t"
    assert joined([("t", 7)], before=1) == Joined((("t", 7),), 1)
    assert names(("batch", TOKENS, None, TOKENS)) == {"batch": 1, "y": 2, "x": 2}


@pytest.mark.parametrize(
    ("labels", "shape", "flat"),
    [
        (("batch", TOKENS, None), (2, 13, 5), ("batch", "y", "x", None)),
        ((None, "batch", None, TOKENS), (3, 2, 4, 13), ("batch", None, None, "y", "x")),
        ((Joined((("batch", "N"), (None, 2))), Joined(GRID.parts, 0, 2), None), (4, 14, 5), None),
        ((Joined((("batch", "N"), (TOKENS, 13))), None), (26, 5), None),
    ],
)
def test_unfolding_against_numpy(labels: Labels, shape: tuple[int, ...], flat: Labels | None) -> None:
    """Number the positions: each must come out at its own row and column, and those without a place not at all."""
    known = tuple("M" if "batch" in names([label]) else d for label, d in zip(labels, shape, strict=True))
    way = unfolding(labels, known)
    assert way is not None and way.partial and way.labels[0] == "batch"
    if flat is not None:
        assert way.labels == flat
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(list(known)))
    graph.inputs.append(value)
    graph.outputs.append(way.apply(Builder(graph), value))
    found = Session(ir.Model(graph, ir_version=8), ["CPUExecutionProvider"]).run({"x": x})
    np.testing.assert_array_equal(next(iter(found.values())), naive(x, labels))


def naive(x: np.ndarray, labels: Labels) -> np.ndarray:
    if labels[0] == "batch":
        return x[:, 1:].reshape(2, 3, 4, 5)
    if labels[0] is None:
        return x[..., 1:].reshape(3, 2, 4, 3, 4).transpose(1, 0, 2, 3, 4)
    if len(labels) == 3:
        return x[:, :12].reshape(2, 2, 3, 4, 5)
    return x.reshape(2, 13, 5)[:, 1:].reshape(2, 3, 4, 5)


def test_unfolding_needs_the_batch_once_and_sizes() -> None:
    assert unfolding(("y", None), (3, 4)) is None
    assert unfolding(("batch", Joined((("y", "H"), ("x", "W")))), ("N", None)) is None
    assert unfolding(YX, (1, 2, 3, 4)).trivial  # type: ignore[union-attr]
