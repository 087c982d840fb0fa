"""Sequences and optionals: resolved graphs against the evaluator's own sequences, gradients against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_cases import check_graph
from onnx import TensorProto, helper

import onnxplain as ox
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

DOUBLE, INT64, BOOL = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
SEQUENCES = {
    *("SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength"),
    *("SplitToSequence", "ConcatFromSequence", "SequenceMap", "Optional", "OptionalGetElement", "OptionalHasElement"),
}
#: No size, some sizes and all sizes of the operand known.
SIZES = [["A", "B", "C"], ["N", 6, 3], [2, 6, 3]]


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=f"{outputs.split()[0]}_node", **attributes)


def info(name: str, shape: Any = None, kind: int = DOUBLE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def listed(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, DOUBLE, None)


def graph(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inner", inputs, [o if not isinstance(o, str) else info(o) for o in outputs])


def model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], opset: int = 18, **weights: Any
) -> onnx.ModelProto:
    constants = [onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    results = [info(o) if isinstance(o, str) else o for o in outputs]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, results, constants),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def draw(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def operators(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in ir.traversal.RecursiveGraphIterator(canonicalise(read_model(proto)).graph)]


def check_resolved(proto: onnx.ModelProto, feeds: dict[str, Any], wrt: list[str], **options: Any) -> None:
    assert not SEQUENCES & set(operators(proto)), "something is left of sequences"
    check_graph(proto, feeds, wrt, **options)


X = draw(2, 6, 3)
NUMBERS = {f"n{i}": np.asarray(i) for i in range(5)}
NUMBERS |= {"one": np.asarray([1]), "minus": np.asarray(-1), "sizes": np.asarray([1, 2, 3])}


def mixed(first: str, second: str) -> list[onnx.NodeProto]:
    """y = a sin(b)."""
    return [node("Sin", second, "sine"), node("Mul", f"{first} sine", "y")]


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


def typed(proto: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The float64 model in another float type."""
    text = proto.SerializeToString()
    made = onnx.ModelProto.FromString(text)
    graphs = [made.graph]
    while graphs:
        one = graphs.pop()
        for value in (*one.input, *one.output):
            holder = value.type.sequence_type.elem_type if value.type.HasField("sequence_type") else value.type
            if holder.tensor_type.elem_type == DOUBLE:
                holder.tensor_type.elem_type = kind
        for each in one.node:
            for attribute in each.attribute:
                if attribute.name == "dtype":
                    attribute.i = kind
                elif attribute.type == onnx.AttributeProto.GRAPH:
                    graphs.append(attribute.g)
    return made


@pytest.mark.parametrize("opset", [11, 13, 18, 24])
def test_opsets(opset: int) -> None:
    nodes = [
        node("SplitToSequence", "x sizes", "s", axis=1),
        node("SequenceAt", "s n2", "p"),
        node("SequenceAt", "s n0", "q"),
        *mixed("p", "q"),
    ]
    check_resolved(model(nodes, [info("x", SIZES[0])], ["y"], opset=opset, **NUMBERS), {"x": X}, ["x"])


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
