"""Sequences and optionals: resolved graphs against the evaluator's own sequences, gradients against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from sequence_graphs import (
    BOOL,
    DOUBLE,
    INT64,
    NUMBERS,
    SIZES,
    X,
    check_resolved,
    draw,
    graph,
    info,
    listed,
    mixed,
    model,
    node,
    operators,
    typed,
)

import onnxplain as ox
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

# ----- lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [0, 1])
def test_a_list_that_is_joined(new: int) -> None:
    nodes = [
        node("Sin", "x", "a"),
        node("Exp", "x", "b"),
        node("SequenceConstruct", "a x", "s"),
        node("SequenceInsert", "s b n1", "t"),
        node("SequenceInsert", "t x", "u"),
        node("SequenceInsert", "u w minus", "v"),
        node("SequenceErase", "v n0", "z"),
        node("ConcatFromSequence", "z", "y", axis=-1, new_axis=new),
        node("SequenceLength", "z", "n"),
    ]
    for sizes in SIZES:
        proto = model(nodes, [info("x", sizes)], ["y", info("n", [], INT64)], w=draw(2, 6, 3, seed=1), **NUMBERS)
        check_resolved(proto, {"x": X}, ["x"])
    names = {v.name for n in canonicalise(read_model(proto)).graph for v in n.outputs}
    assert {"b", "y", "n"} <= names, "what is computed keeps its name"


@pytest.mark.parametrize(("first", "second"), [(0, -1), (-3, 2), (1, 1)])
def test_values_by_constant_positions(first: int, second: int) -> None:
    nodes = [
        node("Exp", "x", "a"),
        node("Tanh", "x", "b"),
        node("SequenceConstruct", "a x b", "s"),
        node("SequenceAt", "s i", "p"),
        node("SequenceAt", "s j", "q"),
        *mixed("p", "q"),
    ]
    proto = model(nodes, [info("x", SIZES[0])], ["y"], i=np.asarray(first), j=np.asarray(second, np.int32))
    check_resolved(proto, {"x": X}, ["x"])
    assert "If" not in operators(proto)


@pytest.mark.parametrize("position", [0, 2, -1, -3])
@pytest.mark.parametrize("sizes", [SIZES[1], SIZES[2]], ids=["branches", "stacked"])
def test_a_value_at_a_position_of_the_run_time(position: int, sizes: list[Any]) -> None:
    nodes = [
        node("Exp", "x", "a"),
        node("Tanh", "x", "b"),
        node("SequenceConstruct", "a x b", "s"),
        node("SequenceAt", "s i", "p"),
        *mixed("p", "x"),
    ]
    proto = model(nodes, [info("x", sizes), info("i", [], INT64)], ["y"])
    check_resolved(proto, {"x": X, "i": np.asarray(position)}, ["x"])


def test_branches_that_choose_between_values_of_different_shapes() -> None:
    nodes = [
        node("ReduceSum", "x axes", "a", keepdims=0),
        node("Tanh", "x", "b"),
        node("SequenceConstruct", "a b", "s"),
        node("SequenceAt", "s i", "p"),
        node("Mul", "p p", "y"),
    ]
    proto = model(nodes, [info("x", SIZES[1]), info("i", [], INT64)], ["y"], axes=np.asarray([1]))
    for position in (0, 1):
        check_resolved(proto, {"x": X, "i": np.asarray(position)}, ["x"])


# ----- one tensor in pieces -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES, ids=["open", "batch", "static"])
@pytest.mark.parametrize(
    ("split", "keepdims"), [("-", 0), ("-", 1), ("n1", 1), ("n2", 1), ("n4", 1), ("sizes", 1)], ids=str
)
@pytest.mark.parametrize("axis", [1, -2])
def test_pieces_by_position(axis: int, keepdims: int, split: str, sizes: list[Any]) -> None:
    nodes = [
        node("SplitToSequence", f"x {split}".removesuffix(" -"), "s", axis=axis, keepdims=keepdims),
        node("SequenceAt", "s n0", "p"),
        node("SequenceAt", "s minus", "q"),
        node("ReduceSum", "q", "r"),
        *mixed("p", "r"),
        node("SequenceLength", "s", "n"),
    ]
    proto = model(nodes, [info("x", sizes)], ["y", info("n", [], INT64)], **NUMBERS)
    check_resolved(proto, {"x": X}, ["x"])


@pytest.mark.parametrize("sizes", SIZES, ids=["open", "batch", "static"])
@pytest.mark.parametrize(("split", "keepdims"), [("-", 0), ("-", 1), ("n4", 1)], ids=str)
@pytest.mark.parametrize("position", [0, 1, -1])
def test_pieces_by_positions_of_the_run_time(position: int, split: str, keepdims: int, sizes: list[Any]) -> None:
    nodes = [
        node("SplitToSequence", f"x {split}".removesuffix(" -"), "s", axis=1, keepdims=keepdims),
        node("SequenceAt", "s i", "p"),
        node("Sin", "p", "y"),
    ]
    proto = model(nodes, [info("x", sizes), info("i", [], INT64)], ["y"], **NUMBERS)
    check_resolved(proto, {"x": X, "i": np.asarray(position)}, ["x"])


@pytest.mark.parametrize("sizes", SIZES, ids=["open", "batch", "static"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("new", "axis"), [(1, 0), (1, 1), (1, -1), (0, 0), (0, 1), (0, -1)])
def test_pieces_put_together_again(new: int, axis: int, keepdims: int, sizes: list[Any]) -> None:
    nodes = [
        node("SplitToSequence", "x", "s", axis=1, keepdims=keepdims),
        node("ConcatFromSequence", "s", "c", axis=axis, new_axis=new),
        node("Sin", "c", "y"),
    ]
    proto = model(nodes, [info("x", sizes)], ["y"])
    check_resolved(proto, {"x": X}, ["x"])


def test_splitting_and_joining_along_one_axis_is_nothing() -> None:
    nodes = [
        node("SplitToSequence", "x n2", "s", axis=1),
        node("ConcatFromSequence", "s", "c", axis=-2),
        node("Sin", "c", "y"),
    ]
    assert operators(model(nodes, [info("x", SIZES[0])], ["y"], **NUMBERS)) == ["Sin"]


def test_sizes_of_the_run_time() -> None:
    nodes = [
        node("SplitToSequence", "x parts", "s", axis=1),
        node("SequenceAt", "s n1", "p"),
        node("Sin", "p", "y"),
    ]
    proto = model(nodes, [info("x", SIZES[0]), info("parts", [3], INT64)], ["y"], **NUMBERS)
    check_resolved(proto, {"x": X, "parts": np.asarray([1, 4, 1])}, ["x"])


# ----- what stays, and says so --------------------------------------------------------------------------


def test_sequences_that_the_model_gives_stay() -> None:
    nodes = [
        node("Sin", "x", "a"),
        node("SequenceConstruct", "a x", "s"),
        node("SequenceAt", "s n0", "p"),
        node("Mul", "p x", "y"),
    ]
    proto = model(nodes, [info("x", [2, 3])], ["y", listed("s")], **NUMBERS)
    x = draw(2, 3).astype(np.float32)
    for provider in ("reference", "cpu"):
        u = np.ones((2, 3), np.float32 if provider == "cpu" else np.float64)
        given = typed(proto, TensorProto.FLOAT) if provider == "cpu" else proto
        found = ox.vjp(given, {"x": x.astype(u.dtype)}, {"y": u}, providers=provider)
        np.testing.assert_allclose(found["x"], np.sin(x) + x * np.cos(x), rtol=1e-5)
    canonical = canonicalise(read_model(proto))
    assert [v.name for v in canonical.graph.outputs] == ["y", "s"]
    assert isinstance(canonical.graph.outputs[1].type, ir.SequenceType)


def test_a_sequence_that_comes_in_is_refused() -> None:
    nodes = [
        node("SequenceInsert", "s x", "t"),
        node("ConcatFromSequence", "t", "y", axis=0),
    ]
    proto = model(nodes, [info("x", [2, 3]), listed("s")], ["y"])
    refusal(proto, "y_node", "ConcatFromSequence", "the model takes it as an input")


def test_positions_of_the_run_time_are_refused() -> None:
    nodes = [
        node("SequenceConstruct", "x x", "s"),
        node("SequenceErase", "s i", "t"),
        node("ConcatFromSequence", "t", "y", axis=0),
    ]
    proto = model(nodes, [info("x", [2, 3]), info("i", [], INT64)], ["y"])
    refusal(proto, "y_node", "ConcatFromSequence", "its position is known only at run time")


def test_what_the_runtime_takes_otherwise_than_the_standard_is_refused() -> None:
    nodes = [node("SplitToSequence", "x n2", "s", axis=1, keepdims=0), node("SequenceAt", "s n0", "y")]
    proto = model(nodes, [info("x", [2, 4])], ["y"], **NUMBERS)
    refusal(proto, "y_node", "SequenceAt", "the standard ignores and onnxruntime does not", (2, 2))


def test_loops_that_do_more_than_append_are_refused() -> None:
    body = graph(
        [
            node("SequenceErase", "list n0", "rest"),
            node("SequenceInsert", "rest x", "list2"),
            node("Identity", "going", "still"),
        ],
        [info("i", [], INT64), info("going", [], BOOL), listed("list")],
        [info("still", [], BOOL), listed("list2")],
    )
    nodes = [
        node("Mul", "x x", "q"),
        node("SequenceConstruct", "q x", "s"),
        node("Loop", "n3 - s", "all", body=body),
        node("ConcatFromSequence", "all", "y", axis=0),
    ]
    refusal(
        model(nodes, [info("x", [2, 3])], ["y"], **NUMBERS), "y_node", "ConcatFromSequence", "not empty at the start"
    )


def test_tensors_whose_shape_changes_from_trip_to_trip_are_refused() -> None:
    body = graph(
        [
            node("Concat", "h x", "h2", axis=0),
            node("SequenceInsert", "list h2", "list2"),
            node("Identity", "going", "still"),
        ],
        [info("i", [], INT64), info("going", [], BOOL), info("h"), listed("list")],
        [info("still", [], BOOL), "h2", listed("list2")],
    )
    nodes = [
        node("SequenceEmpty", "", "nothing", dtype=DOUBLE),
        node("Loop", "n3 - x nothing", "last all", body=body),
        node("ConcatFromSequence", "all", "y", axis=0),
    ]
    proto = model(nodes, [info("x", [2, 3])], ["y"], **NUMBERS)
    refusal(proto, "y_node", "ConcatFromSequence", "shape may differ from trip to trip")


def refusal(proto: onnx.ModelProto, name: str, operator: str, reason: str, shape: tuple[int, ...] = (2, 3)) -> None:
    """``vjp`` refuses with that reason, and ``check`` lists it."""
    feeds = {i.name: draw(2, 3) for i in proto.graph.input if i.type.HasField("tensor_type")}
    with pytest.raises(UnsupportedNodeError, match=reason) as caught:
        ox.vjp(
            proto, {**feeds, **{i.name: [] for i in proto.graph.input if i.name not in feeds}}, {"y": np.ones(shape)}
        )
    assert (caught.value.node, caught.value.operator) == (name, operator)
    assert caught.value.hint
    report = ox.check(proto)
    assert not report.ok
    assert (name, operator) in {(o.node, o.operator) for o in report.obstacles}
