"""The walk: sums of contributions, broadcasting, what is skipped, what is refused. Answers by hand, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.backward import Adjoints, Lookup, find_path, gradients
from onnxplain.engine.errors import BlockedGradientError, InputError, UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.node import Primal
from onnxplain.engine.rules.table import ZERO, Entry, zero
from onnxplain.engine.vjp import vjp

Array = np.ndarray[Any, Any]
DOUBLE = TensorProto.DOUBLE


def rewriter_of(proto: onnx.ModelProto) -> Rewriter:
    return Rewriter(canonicalise(read_model(proto)))


def walk(
    proto: onnx.ModelProto,
    wanted: Sequence[str] = ("x",),
    output: str = "y",
    lookup: Lookup = gradients,
    *,
    collect: bool = False,
) -> tuple[Rewriter, Adjoints]:
    rewriter = rewriter_of(proto)
    y = rewriter.value(output)
    assert y.dtype is not None
    seeds = {y: rewriter.add_input("seed", y.dtype, None)}
    return rewriter, rewriter.backward_from(seeds, [rewriter.value(n) for n in wanted], lookup, collect=collect)


def exact(proto: onnx.ModelProto, feeds: Mapping[str, Array], seeds: Mapping[str, Array], wrt: Sequence[str]) -> Any:
    return vjp(proto, feeds, seeds, wrt=wrt, providers="reference")


# ----- sums -------------------------------------------------------------------------------------------


def test_a_tensor_used_twice_by_one_node() -> None:
    """x * x: both operands contribute, 2 x in all."""
    proto = model([node("Mul", "x x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, dtype=DOUBLE)
    x, u = np.array([[1.0, -2.0, 0.5]]), np.array([[3.0, 1.0, 4.0]])
    np.testing.assert_array_equal(exact(proto, {"x": x}, {"y": u}, ["x"])["x"], 2 * x * u)


def test_a_tensor_used_by_three_nodes() -> None:
    """y = x^2 + 3 x + exp(x): contributions of two nodes are one Add, of three one Sum."""
    nodes = [
        node("Mul", "x x", "a"), node("Mul", "x three", "b"), node("Exp", "x", "c"),
        node("Add", "a b", "ab"), node("Add", "ab c", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"three": np.array(3.0)}, dtype=DOUBLE)
    x, u = np.array([[1.0, -2.0, 0.5]]), np.array([[3.0, 1.0, 4.0]])
    np.testing.assert_allclose(exact(proto, {"x": x}, {"y": u}, ["x"])["x"], u * (2 * x + 3 + np.exp(x)), rtol=1e-15)


def test_a_diamond_is_visited_once_per_node() -> None:
    """h = exp(x) feeds two branches; its own rule runs once, on the finished sum."""
    nodes = [node("Exp", "x", "h"), node("Sin", "h", "a"), node("Cos", "h", "b"), node("Mul", "a b", "y")]
    proto = model(nodes, {"x": ["N", 2]}, {"y": ["N", 2]}, dtype=DOUBLE)
    visited: list[str] = []

    def watching(n: Primal, opset: int) -> Any:
        visited.append(n.op_type)
        return gradients(n, opset)

    _, adjoints = walk(proto, lookup=watching)
    assert visited == ["Mul", "Cos", "Sin", "Exp"]
    assert [n.op_type for n in adjoints.nodes] == ["Exp", "Sin", "Cos", "Mul"]
    x = np.array([[0.3, -0.7]])
    expected = np.exp(x) * np.cos(2 * np.exp(x))  # d sin(h) cos(h) = cos(2 h)
    np.testing.assert_allclose(exact(proto, {"x": x}, {"y": np.ones((1, 2))}, ["x"])["x"], expected, rtol=1e-12)


# ----- broadcasting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ["static", "symbolic", "unknown"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (3, 1), (2, 1, 4), (1, 1, 1), (2, 3, 4)])
def test_gradient_has_the_shape_of_its_operand(shape: tuple[int, ...], sizes: str) -> None:
    """A product with an operand that is repeated, where all, some or no sizes are known."""
    rng = np.random.default_rng(0)
    x, w, u = rng.normal(size=(2, 3, 4)), rng.normal(size=shape), rng.normal(size=(2, 3, 4))
    given: dict[str, list[Any]] = {
        "static": [2, 3, 4], "symbolic": ["N", 3, "T"], "unknown": ["a", "b", "c"],
    }  # fmt: skip
    other: list[Any] = list(shape) if sizes == "static" else [f"w{i}" for i in range(len(shape))]
    proto = model([node("Mul", "x w", "y")], {"x": given[sizes], "w": other}, {"y": given[sizes]}, dtype=DOUBLE)
    found = exact(proto, {"x": x, "w": w}, {"y": u}, ["x", "w"])
    full = np.broadcast_to(w, x.shape)
    np.testing.assert_allclose(found["x"], u * full, rtol=1e-14)
    lead = x.ndim - w.ndim
    axes = tuple(i for i in range(x.ndim) if i < lead or (w.shape[i - lead] == 1 and x.shape[i] != 1))
    expected = (u * x).sum(axis=axes, keepdims=True).reshape(shape)
    assert found["w"].shape == shape
    np.testing.assert_allclose(found["w"], expected, rtol=1e-13)


def test_both_operands_are_repeated() -> None:
    rng = np.random.default_rng(0)
    a, b, u = rng.normal(size=(3, 1)), rng.normal(size=(1, 4)), rng.normal(size=(3, 4))
    proto = model([node("Mul", "a b", "y")], {"a": ["N", 1], "b": [1, "M"]}, {"y": ["N", "M"]}, dtype=DOUBLE)
    found = exact(proto, {"a": a, "b": b}, {"y": u}, ["a", "b"])
    np.testing.assert_allclose(found["a"], (u * b).sum(1, keepdims=True), rtol=1e-14)
    np.testing.assert_allclose(found["b"], (u * a).sum(0, keepdims=True), rtol=1e-14)


# ----- what is wanted and what is seeded --------------------------------------------------------------


def chain() -> onnx.ModelProto:
    """h = x W, a = tanh(h), y = a V; a second output z = sum of a."""
    nodes = [
        node("MatMul", "x W", "h"), node("Tanh", "h", "a"), node("MatMul", "a V", "y"),
        node("ReduceSum", "a axes", "z", keepdims=1),
    ]  # fmt: skip
    rng = np.random.default_rng(2)
    weights = {"W": rng.normal(size=(3, 4)), "V": rng.normal(size=(4, 2)), "axes": np.array([1])}
    return model(nodes, {"x": ["N", 3]}, {"y": ["N", 2], "z": ["N", 1]}, weights, dtype=DOUBLE)


def weights_of(proto: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_inputs_initializers_and_inner_tensors_may_be_wanted() -> None:
    proto = chain()
    w = weights_of(proto)
    rng = np.random.default_rng(3)
    x, u = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    a = np.tanh(x @ w["W"])
    da = u @ w["V"].T
    dh = da * (1 - a**2)
    expected = {"x": dh @ w["W"].T, "h": dh, "a": da, "W": x.T @ dh, "V": a.T @ u, "y": u}
    found = exact(proto, {"x": x}, {"y": u}, list(expected))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


def test_several_seeds_add_up() -> None:
    """Two outputs and an inner tensor between them and the input, all seeded at once."""
    proto = chain()
    rng = np.random.default_rng(4)
    x = rng.normal(size=(5, 3))
    seeds = {"y": rng.normal(size=(5, 2)), "z": rng.normal(size=(5, 1)), "h": rng.normal(size=(5, 4))}
    together = exact(proto, {"x": x}, seeds, ["x", "W", "h"])
    alone = [exact(proto, {"x": x}, {name: seed}, ["x", "W", "h"]) for name, seed in seeds.items()]
    for name in ("x", "W", "h"):
        np.testing.assert_allclose(together[name], sum(part[name] for part in alone), rtol=1e-12, atol=1e-14)


def test_operands_nobody_asked_for_cost_nothing() -> None:
    """Wanting x alone, no rule emits a weight's gradient: no product of x with an adjoint."""
    rewriter, _ = walk(chain())
    appended = [n.op_type for n in rewriter.graph if n not in rewriter.forward_nodes]
    assert appended.count("MatMul") == 2, "one for a, one for x"
    rewriter, _ = walk(chain(), ["x", "W", "V"])
    assert [n.op_type for n in rewriter.graph if n not in rewriter.forward_nodes].count("MatMul") == 4


def test_nodes_off_the_path_are_never_looked_up() -> None:
    """An operator without any rule does no harm beside the path: only the way from x to y is asked for."""
    nodes = [node("Exp", "x", "h"), node("Mul", "h k", "y"), node("Det", "x2", "z")]
    proto = model(nodes, {"x": [2, 2], "x2": [2, 2], "k": [2, 2]}, {"y": [2, 2], "z": []}, dtype=DOUBLE)
    x = np.ones((2, 2))
    found = exact(proto, {"x": x, "x2": x, "k": x}, {"y": x}, ["x"])
    np.testing.assert_allclose(found["x"], np.e, rtol=1e-15)


def test_one_wanted_tensor_that_is_not_reached_gets_zeros() -> None:
    nodes = [node("Exp", "x", "y"), node("Exp", "other", "z")]
    proto = model(nodes, {"x": [2], "other": [3]}, {"y": [2], "z": [3]}, dtype=DOUBLE)
    found = exact(proto, {"x": np.zeros(2), "other": np.full(3, 5.0)}, {"y": np.ones(2)}, ["x", "other"])
    np.testing.assert_array_equal(found["x"], 1.0)
    np.testing.assert_array_equal(found["other"], np.zeros(3))


def test_target_that_does_not_depend_on_the_input() -> None:
    nodes = [node("Exp", "x", "y"), node("Exp", "other", "z")]
    proto = model(nodes, {"x": [2], "other": [3]}, {"y": [2], "z": [3]}, dtype=DOUBLE)
    with pytest.raises(BlockedGradientError, match="does not depend on 'x'"):
        walk(proto, output="z")


def test_wanted_tensor_that_is_no_float_is_refused() -> None:
    """Anything else would invent a derivative: the Cast in front of the sum has none."""
    nodes = [node("Cast", "ids", "f", to=TensorProto.FLOAT), node("ReduceSum", "f axes", "y", keepdims=0)]
    proto = model(nodes, {"ids": ["N", 3]}, {"y": ["N"]}, {"axes": np.array([1])})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(InputError, match="'ids' is no float tensor"):
        vjp(proto, {"ids": np.ones((1, 3), np.int64)}, {"y": np.ones(1, np.float32)}, wrt=["ids"])


# ----- errors of rules --------------------------------------------------------------------------------


def lookup_with(rule: Any, **options: Any) -> Lookup:
    return lambda n, opset: Entry(rule, **options)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_rule_with_the_wrong_number_of_contributions_is_an_error(count: int) -> None:
    proto = model([node("Mul", "x k", "y")], {"x": [2], "k": [2]}, {"y": [2]})
    with pytest.raises(AssertionError, match=f"rule of Mul gave {count} contributions for 2 operands"):
        walk(proto, lookup=lookup_with(lambda op, n, dy: [dy] * count))


def test_a_contribution_may_be_a_function_that_is_called_only_on_demand() -> None:
    called: list[str] = []

    def rule(op: Builder, n: Primal, dy: Any) -> Any:
        def part(name: str) -> Any:
            called.append(name)
            return dy

        return [lambda: part("x"), lambda: part("k")]

    proto = model([node("Mul", "x k", "y")], {"x": [2], "k": [2]}, {"y": [2]})
    walk(proto, lookup=lookup_with(rule))
    assert called == ["x"]


# ----- what is refused --------------------------------------------------------------------------------


def with_branch(inside: Sequence[onnx.NodeProto], results: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = x + (flag ? inside : 0); the branches read ``x`` of the outer graph."""
    out = helper.make_tensor_value_info("r", results, None)
    empty = helper.make_node("Sub", ["x", "x"], ["r"])
    branches = {
        "then_branch": helper.make_graph(list(inside), "then", [], [out]),
        "else_branch": helper.make_graph([empty], "else", [], [out]),
    }
    choice = helper.make_node("If", ["flag"], ["b"], name="choice", **branches)
    proto = model([choice, node("Add", "x b", "y")], {"x": ["N", 2], "flag": []}, {"y": ["N", 2]})
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.BOOL
    return proto


def branch_gradient(proto: onnx.ModelProto, flag: bool) -> Any:
    x = np.array([[0.3, -1.2]], dtype=np.float32)
    return ox.vjp(proto, {"x": x, "flag": np.array(flag)}, {"y": np.ones_like(x)}, wrt=["x"])["x"], x


def test_values_that_a_subgraph_captures_count_as_operands() -> None:
    """Skipping them would give the gradient of x alone: 1 instead of 1 + cos(x), without a word."""
    proto = with_branch([helper.make_node("Sin", ["x"], ["r"])])
    found, x = branch_gradient(proto, True)
    np.testing.assert_allclose(found, 1 + np.cos(x), rtol=1e-5)
    found, x = branch_gradient(proto, False)
    np.testing.assert_allclose(found, np.ones_like(x), rtol=1e-6)


def test_values_that_a_nested_subgraph_captures_count_as_operands() -> None:
    inner = with_branch([helper.make_node("Sin", ["x"], ["r"])]).graph.node[0]
    inner.output[0] = "r"
    inner.name = "inner"
    found, x = branch_gradient(with_branch([inner]), True)
    np.testing.assert_allclose(found, 1 + np.cos(x), rtol=1e-5)


def test_a_node_without_a_rule_inside_a_branch_is_named() -> None:
    mine = helper.make_node("Relu", ["x"], ["r"], name="mine", domain="com.example")
    proto = with_branch([mine])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedNodeError, match=r"mine|choice"):
        walk(proto)


def test_unknown_domain_is_not_matched_by_the_name_of_the_operator() -> None:
    mine = helper.make_node("Relu", ["x"], ["h"], name="mine", domain="com.example")
    proto = model([mine, node("Exp", "h", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, domains=["com.example"])
    with pytest.raises(UnsupportedNodeError) as caught:
        walk(proto)
    assert (caught.value.node, caught.value.operator) == ("mine", "com.example::Relu")
    assert "com.example" in caught.value.reason


def test_unknown_domain_beside_another_way_is_refused_too() -> None:
    """The way around it must not be taken for the whole gradient, though the type of its result is not known."""
    mine = helper.make_node("Relu", ["x"], ["h"], name="mine", domain="com.example")
    proto = model([mine, node("Add", "x h", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, domains=["com.example"])
    with pytest.raises(UnsupportedNodeError, match="mine"):
        walk(proto)


@pytest.mark.usefixtures("det_without_rule")
def test_operator_without_a_rule_names_node_reason_and_remedy() -> None:
    proto = model([node("Det", "x", "d"), node("Exp", "d", "y")], {"x": ["N", 2, 2]}, {"y": ["N"]})
    with pytest.raises(UnsupportedNodeError) as caught:
        walk(proto)
    assert caught.value.node == "d_node"
    assert caught.value.operator == "Det"
    assert "no gradient rule" in caught.value.reason
    assert "onnxplain operators" in caught.value.hint


@pytest.mark.usefixtures("det_without_rule")
def test_collecting_finds_the_obstacles_behind_the_first_one() -> None:
    mine = helper.make_node("Relu", ["x"], ["h"], name="mine", domain="com.example")
    nodes = [mine, node("Det", "h", "d"), node("Exp", "d", "y")]
    proto = model(nodes, {"x": ["N", 2, 2]}, {"y": ["N"]}, domains=["com.example"])
    _, adjoints = walk(proto, collect=True)
    assert [o.node for o in adjoints.obstacles] == ["d_node", "mine"]
    assert [n.op_type for n in adjoints.nodes] == ["Relu", "Det", "Exp"]


# ----- where the gradient ends ------------------------------------------------------------------------

BLOCKING = [
    ("Round", [node("Round", "x", "r")]),
    ("Sign", [node("Sign", "x", "r")]),
    ("Floor", [node("Floor", "x", "r")]),
    ("ArgMax", [node("ArgMax", "x", "i", axis=-1, keepdims=1), node("Cast", "i", "r", to=TensorProto.FLOAT)]),
    ("Cast", [node("Cast", "x", "i", to=TensorProto.INT32), node("Cast", "i", "r", to=TensorProto.FLOAT)]),
]


@pytest.mark.parametrize(("operator", "nodes"), BLOCKING, ids=[b[0] for b in BLOCKING])
def test_blocked_everywhere_is_an_error(operator: str, nodes: list[onnx.NodeProto]) -> None:
    proto = model([*nodes, node("Exp", "r", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    with pytest.raises(BlockedGradientError, match=rf"no differentiable path.*\({operator}\)"):
        walk(proto)


@pytest.mark.parametrize(("operator", "nodes"), BLOCKING, ids=[b[0] for b in BLOCKING])
def test_blocked_on_one_way_is_reported(operator: str, nodes: list[onnx.NodeProto]) -> None:
    proto = model([*nodes, node("Mul", "x r", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    _, adjoints = walk(proto)
    assert [b.operator for b in adjoints.path.blocked] == [operator]
    assert adjoints.path.blocked[0].remedy
    x = np.array([[0.2, 1.7, 3.4]], np.float32)
    found = vjp(proto, {"x": x}, {"y": np.ones_like(x)})["x"]
    r = {"Round": np.rint(x), "Sign": np.sign(x), "Floor": np.floor(x), "ArgMax": 2.0, "Cast": np.trunc(x)}[operator]
    np.testing.assert_allclose(found, np.broadcast_to(r, x.shape), rtol=1e-6)


def table(**contributions: Any) -> Lookup:
    """The gradients, but Mul gives what is said for its operands ``first`` and ``second``."""

    def rule(op: Builder, node: Primal, dy: Any) -> Sequence[Any]:
        return [contributions.get("first", dy), contributions.get("second", dy)]

    return lambda node, opset: Entry(rule) if node.op_type == "Mul" else gradients(node, opset)


def two_ways() -> onnx.ModelProto:
    """y = sin(x) exp(x)."""
    nodes = [node("Sin", "x", "a"), node("Exp", "x", "b"), node("Mul", "a b", "y")]
    return model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]})


@pytest.mark.parametrize("collect", [False, True])
def test_a_rule_that_gives_nothing_for_an_active_operand_is_refused(collect: bool) -> None:
    lookup = table(second=None)
    if collect:
        _, adjoints = walk(two_ways(), lookup=lookup, collect=True)
        (error,) = adjoints.obstacles
        assert [n.op_type for n in adjoints.failed] == ["Mul"]
    else:
        with pytest.raises(UnsupportedNodeError) as caught:
            walk(two_ways(), lookup=lookup)
        error = caught.value
    assert (error.node, error.operator) == ("y_node", "Mul")
    assert error.reason == "its rule gives no gradient for operand 1 ('b')"
    assert error.hint


def test_nothing_may_be_given_for_an_operand_that_is_not_active() -> None:
    proto = model([node("Mul", "x w", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": np.ones(3)})
    rewriter, adjoints = walk(proto, lookup=table(second=None))
    assert rewriter.value("x") in adjoints.of


def test_a_zero_that_loses_sensitivity_is_reported() -> None:
    rewriter, adjoints = walk(two_ways(), lookup=table(second=zero("it changes in steps", "smooth it")))
    assert rewriter.value("b") not in adjoints.of
    (found,) = adjoints.path.blocked
    assert (found.node, found.operator) == ("y_node", "Mul")
    assert found.remedy == "the derivative by 'b' is zero: it changes in steps; smooth it"


def test_a_zero_that_everybody_expects_is_not() -> None:
    rewriter, adjoints = walk(two_ways(), lookup=table(second=ZERO))
    assert rewriter.value("b") not in adjoints.of
    assert adjoints.path.blocked == []


def test_zeros_on_all_ways_are_an_error() -> None:
    lost = zero("it changes in steps", "smooth it")
    with pytest.raises(BlockedGradientError, match=r"blocked at 'y_node' \(Mul\): .*'a'.*changes in steps; smooth it"):
        walk(two_ways(), lookup=table(first=lost, second=ZERO))
    with pytest.raises(BlockedGradientError, match="does not depend on 'x'"):
        walk(two_ways(), lookup=table(first=ZERO, second=ZERO))
    _, adjoints = walk(two_ways(), lookup=table(first=lost, second=ZERO), collect=True)
    assert "blocked at 'y_node'" in adjoints.problem
    assert adjoints.obstacles == []


def test_an_operand_of_unknown_type_that_takes_no_floats_needs_nothing() -> None:
    """Where inference stops, nobody knows that Gather's indices are integers; the operator's own form does."""
    cast = helper.make_node("ToIndex", ["x"], ["i"], name="i_node", domain="com.example")
    proto = model([cast, node("Gather", "x i", "y")], {"x": [3]}, {"y": [3]}, domains=["com.example"])
    rewriter, adjoints = walk(proto)
    assert rewriter.value("i").dtype is None
    assert [n.op_type for n in adjoints.nodes] == ["Gather"]


def test_blocks_that_lead_nowhere_are_not_reported() -> None:
    """A rounding whose result the target does not use says nothing about the target."""
    nodes = [node("Exp", "x", "y"), node("Round", "x", "z")]
    _, adjoints = walk(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3], "z": ["N", 3]}))
    assert adjoints.path.blocked == []


def test_sizes_and_comparisons_are_no_lost_sensitivity() -> None:
    nodes = [node("Greater", "x zero", "g"), node("Where", "g x zero", "y")]
    _, adjoints = walk(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"zero": np.array(0.0)}))
    assert adjoints.path.blocked == []


def test_path_lists_nodes_in_topological_order() -> None:
    rewriter = rewriter_of(chain())
    path = find_path(list(rewriter.graph), [rewriter.value("h")], [rewriter.value("y")])
    assert [n.op_type for n in path.nodes] == ["Tanh", "MatMul"]
    assert rewriter.value("x") not in path.active


def test_what_computes_a_wanted_tensor_is_never_looked_up() -> None:
    """An inner tensor stands for itself: what lies in front of it needs no rule, and owes no bias term."""
    rewriter, adjoints = walk(
        model([node("Det", "x", "d"), node("Exp", "d", "y")], {"x": ["N", 2, 2]}, {"y": ["N"]}), ["d"]
    )
    assert [n.op_type for n in adjoints.nodes] == ["Exp"]
    assert adjoints.of[rewriter.value("d")].name


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Greater", "x zero", "g"), node("Cast", "g", "y", to=TensorProto.FLOAT)], r"steps only, by .*\(Greater\)"),
        ([node("TopK", "x one", "v i", axis=1), node("Cast", "i", "y", to=TensorProto.FLOAT)], r"steps only, by .*\(TopK\)"),
        ([node("Shape", "x", "s"), node("Cast", "s", "y", to=TensorProto.FLOAT)], "does not depend on 'x'"),
    ],
    ids=["a comparison", "a place", "a size"],
)  # fmt: skip
def test_what_changes_in_steps_is_told_from_what_does_not_change(nodes: list[onnx.NodeProto], words: str) -> None:
    weights = {"zero": np.array(0.0), "one": np.array([1])}
    with pytest.raises(BlockedGradientError, match=words) as raised:
        walk(model(nodes, {"x": ["N", 3]}, {"y": None}, weights))
    assert ("shapley_sampling" in str(raised.value)) == ("steps" in words)
