"""Sequences in loops, branches and maps, and optionals: graphs against the evaluator's own, gradients against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
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

# ----- bodies -------------------------------------------------------------------------------------------


def mapped(sizes: list[Any], **split: Any) -> onnx.ModelProto:
    """y_i = sin(x_i) w + z_i, z_i = x_i squared: two sequences and a tensor go in, two come out."""
    body = graph(
        [
            node("Sin", "e", "a"),
            node("Mul", "a t", "b"),
            node("Mul", "e f", "g"),
            node("Add", "b f", "h"),
        ],
        [info("e"), info("f"), info("t")],
        ["h", "g"],
    )
    nodes = [
        node("Mul", "x x", "q"),
        node("SplitToSequence", "x", "s", axis=1, **split),
        node("SplitToSequence", "q", "r", axis=1, **split),
        node("SequenceMap", "s r w", "u v", body=body),
        node("ConcatFromSequence", "u", "c", axis=1, new_axis=1),
        node("SequenceAt", "v n1", "d"),
        node("Unsqueeze", "d axes", "e"),
        node("Mul", "c e", "y"),
    ]
    return model(nodes, [info("x", sizes), info("w", [3])], ["y"], axes=np.asarray([1]), **NUMBERS)


@pytest.mark.parametrize("sizes", SIZES[1:], ids=["batch", "static"])
def test_a_map_over_values(sizes: list[Any]) -> None:
    proto = mapped(sizes, keepdims=0)
    assert "Scan" not in operators(proto)
    check_resolved(proto, {"x": X, "w": draw(3, seed=2)}, ["x", "w"], plain=by_numpy())


def test_a_map_over_an_open_number_of_values() -> None:
    proto = mapped(["N", "T", 3], keepdims=0)
    assert "Scan" in operators(proto)
    check_resolved(proto, {"x": X, "w": draw(3, seed=2)}, ["x", "w"], plain=by_numpy())


def by_numpy() -> Any:
    """The map of :func:`mapped`, which the evaluator knows nothing of."""

    def run(feeds: dict[str, Any]) -> list[Any]:
        x, w = feeds["x"], feeds["w"]
        parts = [np.sin(x[:, i]) * w + x[:, i] ** 2 for i in range(x.shape[1])]
        return [np.stack(parts, axis=1) * (x[:, 1:2] ** 3)]

    return run


def appending(sizes: list[Any], axis: int, new: int) -> onnx.ModelProto:
    """h = tanh(h + x_t), as scripted recurrent nets are written: x_t by position, results appended, then stacked."""
    body = graph(
        [
            node("SequenceAt", "s i", "e"),
            node("Add", "h e", "p"),
            node("Tanh", "p", "h2"),
            node("SequenceInsert", "list h2", "list2"),
            node("Identity", "going", "still"),
        ],
        [info("i", [], INT64), info("going", [], BOOL), info("h"), listed("list")],
        [info("still", [], BOOL), "h2", listed("list2")],
    )
    nodes = [
        node("SplitToSequence", "x", "s", axis=1, keepdims=0),
        node("SequenceLength", "s", "steps"),
        node("SequenceEmpty", "", "nothing", dtype=DOUBLE),
        node("Loop", "steps - h0 nothing", "last all", body=body),
        node("ConcatFromSequence", "all", "c", axis=axis, new_axis=new),
        node("ReduceSum", "last", "total"),
        node("Mul", "c total", "y"),
    ]
    return model(nodes, [info("x", sizes), info("h0", [sizes[0], 3])], ["y"], **NUMBERS)


@pytest.mark.parametrize("sizes", [["N", "T", 3], *SIZES[1:]], ids=["open", "batch", "static"])
@pytest.mark.parametrize(("axis", "new"), [(1, 1), (0, 0), (-1, 0)])
def test_a_loop_that_appends(axis: int, new: int, sizes: list[Any]) -> None:
    check_resolved(appending(sizes, axis, new), {"x": X, "h0": draw(2, 3, seed=3)}, ["x", "h0"])


def branching() -> onnx.ModelProto:
    then = graph([node("Sin", "x", "a"), node("SequenceConstruct", "a x", "l")], [], [listed("l")])
    other = graph([node("Exp", "x", "a"), node("SplitToSequence", "q", "l", axis=0)], [], [listed("l")])
    nodes = [
        node("Concat", "x w", "q", axis=0),
        node("If", "c", "l", then_branch=then, else_branch=other),
        node("SequenceAt", "l n0", "a"),
        node("SequenceAt", "l n1", "b"),
        *mixed("a", "b"),
    ]
    return model(nodes, [info("x", [1, 3]), info("c", [], BOOL)], ["y"], w=draw(1, 3, seed=4), **NUMBERS)


@pytest.mark.parametrize("condition", [True, False])
def test_branches_that_give_sequences(condition: bool) -> None:
    check_resolved(branching(), {"x": draw(1, 3), "c": np.asarray(condition)}, ["x"])


# ----- optionals ----------------------------------------------------------------------------------------


def test_an_optional_with_a_tensor_and_what_asks_for_it() -> None:
    kind = helper.make_tensor_type_proto(DOUBLE, None)
    then = graph([node("OptionalGetElement", "o", "t"), node("Sin", "t", "r")], [], ["r"])
    other = graph([node("Exp", "x", "r")], [], ["r"])
    nodes = [
        node("Mul", "x x", "q"),
        node("Optional", "q", "o"),
        node("OptionalHasElement", "o", "has"),
        node("If", "has", "y", then_branch=then, else_branch=other),
        node("Optional", "", "empty", type=kind),
        node("OptionalHasElement", "empty", "none"),
        node("Cast", "none", "number", to=INT64),
    ]
    proto = model(nodes, [info("x", SIZES[1])], ["y", info("number", [], INT64)])
    # the evaluator wraps what is in an optional into a list, and stumbles over that
    check_resolved(proto, {"x": X}, ["x"], plain=lambda feeds: [np.sin(feeds["x"] ** 2), np.asarray(0)])
    assert "If" not in operators(proto)


def test_an_optional_with_a_sequence() -> None:
    nodes = [
        node("Sin", "x", "a"),
        node("SequenceConstruct", "a x", "s"),
        node("Optional", "s", "o"),
        node("OptionalGetElement", "o", "t"),
        node("SequenceAt", "t n0", "y"),
    ]
    proto = model(nodes, [info("x", SIZES[1])], ["y"], **NUMBERS)
    check_resolved(proto, {"x": X}, ["x"], plain=lambda feeds: [np.sin(feeds["x"])])


def test_a_tensor_is_its_own_element() -> None:
    nodes = [node("OptionalGetElement", "x", "t"), node("Sin", "t", "y")]
    check_resolved(model(nodes, [info("x", SIZES[1])], ["y"]), {"x": X}, ["x"])


@pytest.mark.parametrize("sizes", [["N", "T", 3], *SIZES[1:]], ids=["open", "batch", "static"])
def test_an_axis_that_is_unbound(sizes: list[Any]) -> None:
    """As PyTorch writes it, with a size of 1 and keepdims=0; the standard's evaluator keeps the axis."""
    nodes = [
        node("SplitToSequence", "x n1", "s", axis=1, keepdims=0),
        node("SequenceAt", "s n1", "p"),
        node("SequenceAt", "s i", "q"),
        *mixed("p", "q"),
    ]
    proto = model(nodes, [info("x", sizes), info("i", [], INT64)], ["y"], **NUMBERS)
    feeds = {"x": X, "i": np.asarray(-2)}
    check_resolved(proto, feeds, ["x"], plain=lambda f: [f["x"][:, 1] * np.sin(f["x"][:, f["i"]])])


def test_a_loop_that_cuts_nothing_off() -> None:
    """``x[:, t]`` is a Slice of everything and a Gather, where it is exported step by step."""
    body = graph(
        [
            node("Slice", "x zero huge zero", "whole"),
            node("Gather", "whole i", "e", axis=1),
            node("Sin", "e", "sine"),
            node("SequenceInsert", "list sine", "list2"),
            node("Identity", "going", "still"),
        ],
        [info("i", [], INT64), info("going", [], BOOL), listed("list")],
        [info("still", [], BOOL), listed("list2")],
    )
    nodes = [
        node("SequenceEmpty", "", "nothing", dtype=DOUBLE),
        node("Loop", "n4 - nothing", "all", body=body),
        node("ConcatFromSequence", "all", "y", axis=0, new_axis=1),
    ]
    ends = {"zero": np.asarray([0]), "huge": np.asarray([np.iinfo(np.int64).max])}
    check_resolved(model(nodes, [info("x", ["N", "T", 3])], ["y"], **NUMBERS, **ends), {"x": X}, ["x"])


# ----- whole models -------------------------------------------------------------------------------------


def summed() -> onnx.ModelProto:
    """y_k = sum over t of the squared k-th element of the states."""
    proto = appending(["N", "T", 3], 1, 1)
    del proto.graph.node[-2:]
    proto.graph.node.extend([node("Mul", "c c", "squares"), node("ReduceSum", "squares one", "y", keepdims=0)])
    return proto


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_explanations_of_a_model_with_a_loop_over_a_sequence(kind: type) -> None:
    """Complete with node biases, and equal to the float64 gradient; in half precision as well."""
    feeds = {"x": X.astype(kind), "h0": draw(2, 3, seed=3).astype(kind)}
    proto = typed(summed(), onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    e = ox.explain(proto, feeds, method="fullgrad", target=1)
    assert e.residual is not None
    assert e.residual.relative.max() < 1e-5
    assert e.blocked == ()
    wide = {n: a.astype(np.float64) for n, a in feeds.items()}
    exact = ox.vjp(summed(), wide, {"y": np.array([[0.0, 1.0, 0.0]] * 2)}, providers="reference")
    plain = ox.explain(proto, feeds, method="gradient", target=1)
    for name in ("x", "h0"):  # the shadow computes in float32, from the same rounded inputs
        np.testing.assert_allclose(plain.attributions[name], exact[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13, 18, 24])
def test_opsets(opset: int) -> None:
    nodes = [
        node("SplitToSequence", "x sizes", "s", axis=1),
        node("SequenceAt", "s n2", "p"),
        node("SequenceAt", "s n0", "q"),
        *mixed("p", "q"),
    ]
    check_resolved(model(nodes, [info("x", SIZES[0])], ["y"], opset=opset, **NUMBERS), {"x": X}, ["x"])
