"""Undoing of broadcasting by what is known of the sizes, against NumPy's own rules."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.broadcast import reduce_to, repeated_axes, unbroadcast
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import Dims


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        ((3, 4), (3, 4), []),
        ((1, 4), (3, 4), [0]),
        ((1, 1), (1, 4), [1]),
        ((4,), (3, 4), [0]),
        ((), (3, 4), [0, 1]),
        (("N", 1), ("N", 4), [1]),
        ((1, 4), ("N", 4), [0]),
        (("N",), ("N", "N"), [0]),
        ((4,), ("N", None), [0]),
        (("M",), ("N", "K"), None),
        ((None,), (2, 3), None),
        (("N", 4), (3, 4), None),
        (None, (3, 4), None),
        ((3,), None, None),
        ((2, 3), (3,), None),
    ],
)
def test_repeated_axes(small: Dims | None, large: Dims | None, expected: list[int] | None) -> None:
    """None wherever a size that is not known could be 1: two symbols that differ may be equal, or not."""
    assert repeated_axes(small, large) == expected


def built(small: tuple[int, ...], large: tuple[int, ...], known: str) -> tuple[ReferenceEvaluator, list[str]]:
    """A model that brings ``g`` of shape ``large`` to the shape of ``like``; and the operators it needs."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")

    def value(name: str, shape: tuple[int, ...]) -> ir.Value:
        sizes = ir.Shape(shape if known == "static" else [f"{name}{i}" for i in range(len(shape))])
        made = ir.Value(name=name, shape=None if known == "nothing" else sizes, type=ir.TensorType(ir.DataType.DOUBLE))
        graph.inputs.append(made)
        return made

    gradient, like = value("g", large), value("like", small)
    result = Builder(graph).Identity(unbroadcast(Builder(graph), gradient, like, gradient), name="result")
    graph.outputs.append(result)
    return ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=9))), [n.op_type for n in graph]


LARGE = [(3, 4), (1, 4), (2, 3, 4), (2, 3, 1), (1, 1, 1)]
SHAPES = [(), (1,), (4,), (3, 4), (1, 4), (3, 1), (1, 1), (2, 3, 4), (2, 1, 4), (2, 1, 1), (1, 3, 1), (1, 1, 1)]


def repeats(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    lead = len(large) - len(small)
    return lead >= 0 and all(s in (1, n) for s, n in zip(small, large[lead:], strict=True))


PAIRS = [(small, large) for small in SHAPES for large in LARGE if repeats(small, large)]


@pytest.mark.parametrize("known", ["static", "symbols", "nothing"])
@pytest.mark.parametrize(("small", "large"), PAIRS, ids=str)
def test_sum_is_the_adjoint_of_numpys_broadcasting(small: tuple[int, ...], large: tuple[int, ...], known: str) -> None:
    """<g, broadcast(v)> = <sum(g), v> for every v: the definition of an adjoint."""
    rng = np.random.default_rng(0)
    g, v = rng.normal(size=large), rng.normal(size=small)
    evaluator, operators = built(small, large, known)
    found = evaluator.run(None, {"g": g, "like": v})[0]
    assert found.shape == small
    assert np.sum(found * v) == pytest.approx(np.sum(g * np.broadcast_to(v, large)), rel=1e-12)
    if known == "static":
        assert "Shape" not in operators


def test_equal_shapes_cost_nothing() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    x = ir.Value(name="x", shape=ir.Shape(["N", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    assert unbroadcast(Builder(graph), x, x, x) is x
    assert reduce_to(Builder(graph), x, x, ("N", 3), ("N", 3)) is x
    assert len(list(graph)) == 0
