"""If, Loop and Scan: gradients against differences, completeness with their node biases, onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graph_cases import check_graph, rewritten, to_float32
from onnx import TensorProto, helper
from rule_cases import case as register_case  # the coverage of rules is counted by the cases made with it

from onnxplain.engine.errors import BlockedGradientError, UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]
DOUBLE, INT64, BOOL = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def info(name: str, shape: Any = None, kind: int = DOUBLE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[Any]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inner", inputs, [o if not isinstance(o, str) else info(o) for o in outputs])


def model(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[str], opset: int = 18, **weights: Any
) -> onnx.ModelProto:
    constants = [onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    whole = helper.make_graph(nodes, "g", inputs, [info(o) for o in outputs], constants)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def draw(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


W = draw(3, 3, seed=9)

for _operator in ("If", "Loop", "Scan"):
    register_case(_operator, x=(1,), name=f"{_operator} (test_control_flow.py)")


# ----- If ---------------------------------------------------------------------------------------------


def branching(**shape: Any) -> onnx.ModelProto:
    """y = relu(h W) h + z or sin(h) on the sign of the sum; the second result ignores x in one branch."""
    then = graph(
        [
            node("MatMul", ["h", "W"], ["m"]),
            node("Sigmoid", ["m"], ["s"]),
            node("Mul", ["s", "h"], ["p"]),
            node("Add", ["p", "z"], ["t"]),
            node("Identity", ["h"], ["u"]),
        ],
        [],
        ["t", "u"],
    )
    other = graph([node("Sin", ["h"], ["t"]), node("Identity", ["W"], ["u"])], [], ["t", "u"])
    nodes = [
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["c"]),
        node("Mul", ["x", "two"], ["h"]),
        node("If", ["c"], ["a", "b"], then_branch=then, else_branch=other),
        node("Mul", ["a", "h"], ["y"]),
    ]
    inputs = [info("x", shape.get("x", [3, 3])), info("z", [3])]
    return model(nodes, inputs, ["y", "b"], W=W, zero=np.asarray(0.0), two=np.asarray(2.0))


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["then", "else"])
@pytest.mark.parametrize("shape", [[3, 3], ["N", 3]], ids=["static", "dynamic"])
def test_if_takes_the_adjoint_of_the_branch_that_ran(sign: float, shape: list[Any]) -> None:
    feeds = {"x": sign * np.abs(draw(3, 3)), "z": draw(3, seed=1)}
    check_graph(branching(x=shape), feeds, ["x", "z"])


def nested() -> onnx.ModelProto:
    inner = [
        node("Exp", ["h"], ["e"]),
        node(
            "If",
            ["d"],
            ["q"],
            then_branch=graph([node("Mul", ["e", "h"], ["r"])], [], ["r"]),
            else_branch=graph([node("Tanh", ["e"], ["r"])], [], ["r"]),
        ),
    ]
    nodes = [
        node("Neg", ["x"], ["h"]),
        node(
            "If",
            ["c"],
            ["y"],
            then_branch=graph(inner, [], ["q"]),
            else_branch=graph([node("Mul", ["h", "h"], ["q"])], [], ["q"]),
        ),
    ]
    return model(nodes, [info("x", ["N", 3]), info("c", [], BOOL), info("d", [], BOOL)], ["y"])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_if_in_if(first: bool, second: bool) -> None:
    check_graph(nested(), {"x": draw(2, 3), "c": np.asarray(first), "d": np.asarray(second)}, ["x"])


def test_if_whose_branches_differ_in_rank() -> None:
    """As exporters write `squeeze`: what follows knows no rank."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "last"], ["size"]),
        node("Equal", ["size", "one"], ["c"]),
        node(
            "If",
            ["c"],
            ["s"],
            then_branch=graph([node("Squeeze", ["x", "axis"], ["r"])], [], ["r"]),
            else_branch=graph([node("Identity", ["x"], ["r"])], [], ["r"]),
        ),
        node("Sigmoid", ["s"], ["g"]),
        node("Mul", ["g", "s"], ["y"]),
    ]
    proto = model(nodes, [info("x", ["N", "T"])], ["y"], last=np.asarray(1), one=np.asarray(1), axis=np.asarray([1]))
    for width in (1, 3):
        check_graph(proto, {"x": draw(4, width)}, ["x"])


def test_a_gradient_that_ends_inside_a_branch_is_reported() -> None:
    then = graph([node("Round", ["x"], ["r"])], [], ["r"])
    other = graph([node("Sin", ["x"], ["r"])], [], ["r"])
    proto = model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)], [info("x", [3]), info("c", [], BOOL)], ["y"]
    )
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.value("y")
    path = rewriter.backward_from({y: rewriter.add_input("seed", y.dtype, [3])}, [rewriter.value("x")]).path
    assert [b.operator for b in path.blocked] == ["Round"]
    proto = model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=then)], [info("x", [3]), info("c", [], BOOL)], ["y"]
    )
    with pytest.raises(BlockedGradientError, match="Round"):
        rewritten(proto, ["x"], ["y"])


def stepping() -> onnx.ModelProto:
    """y = x picked at places of g that a branch inside a Loop moves, twice, times the sum of g."""
    inner = graph([node("GridSample", ["p", "g"], ["q"], name="picks", mode="nearest")], [], ["q"])
    other = graph([node("Mul", ["p", "p"], ["q"])], [], ["q"])
    body = graph(
        [node("If", ["c"], ["r"], then_branch=inner, else_branch=other), node("Identity", ["going"], ["still"])],
        [info("i", [], INT64), info("going", [], BOOL), info("p", [1, 1, 2, 2])],
        [info("still", [], BOOL), "r"],
    )
    nodes = [
        node("Loop", ["two", "", "x"], ["last"], body=body),
        node("ReduceSum", ["g"], ["t"], keepdims=0),
        node("Mul", ["last", "t"], ["y"]),
    ]
    inputs = [info("x", [1, 1, 2, 2]), info("g", [1, 2, 2, 2]), info("c", [], BOOL)]
    return model(nodes, inputs, ["y"], opset=20, two=np.asarray(2))


def test_a_zero_deep_inside_is_reported_once_under_the_names_of_the_model() -> None:
    rewriter = Rewriter(canonicalise(read_model(stepping())))
    y = rewriter.value("y")
    seeds = {y: rewriter.add_input("seed", y.dtype or DOUBLE, [1, 1, 2, 2])}
    adjoints = rewriter.backward_from(seeds, [rewriter.value("x"), rewriter.value("g")])
    assert [(b.node, b.operator) for b in adjoints.path.blocked] == [("picks", "GridSample")]
    assert "'g'" in adjoints.path.blocked[0].remedy
    count = len(adjoints.path.blocked)
    for n in adjoints.nodes:
        entry = BIAS.find("", n.op_type, 20)
        assert entry is not None
        entry.rule(rewriter.op, n)
    assert len(adjoints.path.blocked) == count, "bias rules walk again, and tell nothing twice"


# ----- Scan -------------------------------------------------------------------------------------------


def scanning(directions: tuple[int, int] = (0, 0), axes: tuple[int, int] = (0, 0), steps: Any = "T") -> onnx.ModelProto:
    """s' = tanh(s W + x t) + z, y = s' x; W captured from a node, t and z from inputs."""
    body = graph(
        [
            node("MatMul", ["s", "V"], ["m"]),
            node("Mul", ["x_", "t"], ["xt"]),
            node("Add", ["m", "xt"], ["p"]),
            node("Tanh", ["p"], ["q"]),
            node("Add", ["q", "z"], ["s2"]),
            node("Mul", ["s2", "x_"], ["k"]),
            node("Add", ["count", "one"], ["count2"]),
        ],
        [info("count", [], INT64), info("s", ["B", 3]), info("x_", ["B", 3])],
        [info("count2", [], INT64), "s2", "k"],
    )
    shape: list[Any] = ["N", 3]
    shape.insert(axes[0], steps)
    nodes = [
        node("Mul", ["W", "half"], ["V"]),
        node(
            "Scan",
            ["start", "s0", "x"],
            ["n", "s", "y"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[axes[0]],
            scan_output_axes=[axes[1]],
            scan_input_directions=[directions[0]],
            scan_output_directions=[directions[1]],
        ),
    ]
    inputs = [info("x", shape), info("s0", ["N", 3]), info("z", [3]), info("t", [])]
    return model(nodes, inputs, ["s", "y"], W=W, half=np.asarray(0.5), start=np.asarray(0), one=np.asarray(1))


@pytest.mark.parametrize("directions", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("axes", [(0, 0), (1, 0), (0, 2), (-2, 1)])
def test_scan(directions: tuple[int, int], axes: tuple[int, int]) -> None:
    shape = [2, 3]
    shape.insert(axes[0] if axes[0] >= 0 else 1, 4)
    feeds = {"x": draw(*shape), "s0": draw(2, 3, seed=1), "z": draw(3, seed=2), "t": np.asarray(0.7)}
    check_graph(scanning(directions, axes if axes[0] >= 0 else (1, axes[1])), feeds, ["x", "s0", "z", "t"])


@pytest.mark.parametrize("wrt", [["x"], ["s0"], ["z"]], ids=lambda w: w[0])
def test_scan_for_one_operand(wrt: list[str]) -> None:
    feeds = {"x": draw(4, 2, 3), "s0": draw(2, 3, seed=1), "z": draw(3, seed=2), "t": np.asarray(0.7)}
    check_graph(scanning(), feeds, wrt)


# ----- Loop -------------------------------------------------------------------------------------------


def looping(trips: bool = True, condition: bool = False) -> onnx.ModelProto:
    """s' = sin(s W) + s z (+ the trip's number), y = s x; ends at the trip count or when the sum is large."""
    nodes = [
        node("MatMul", ["s", "W"], ["m"]),
        node("Sin", ["m"], ["q"]),
        node("Mul", ["s", "z"], ["p"]),
        node("Cast", ["i"], ["f"], to=DOUBLE),
        node("Mul", ["f", "q"], ["fq"]),
        node("Add", ["fq", "p"], ["s2"]),
        node("Mul", ["s", "x"], ["k"]),
        node("ReduceSum", ["s2"], ["total"], keepdims=0),
        node("Abs", ["total"], ["size"]),
        node("Less", ["size", "limit"], ["small"]) if condition else node("Identity", ["c"], ["small"]),
    ]
    body = graph(
        nodes, [info("i", [], INT64), info("c", [], BOOL), info("s", None)], [info("small", [], BOOL), "s2", "k"]
    )
    loop = node("Loop", ["trips" if trips else "", "go" if condition else "", "s0"], ["s_last", "y"], body=body)
    inputs = [info("s0", ["N", 3]), info("x", ["N", 3]), info("z", [3])]
    if trips:
        inputs.append(info("trips", [], INT64))
    return model([loop], inputs, ["s_last", "y"], W=W, go=np.asarray(True), limit=np.asarray(1e3))


def loop_feeds(**more: Any) -> dict[str, Array]:
    return {"s0": draw(2, 3), "x": draw(2, 3, seed=1), "z": 1.5 * draw(3, seed=2), **more}


@pytest.mark.parametrize("trips", [1, 2, 5])
def test_loop_with_a_trip_count_of_the_run_time(trips: int) -> None:
    check_graph(looping(), loop_feeds(trips=np.asarray(trips)), ["s0", "x", "z"])


def test_loop_that_ends_by_its_condition() -> None:
    proto = looping(trips=False, condition=True)
    feeds = loop_feeds()
    feeds["z"] = np.asarray([3.0, 4.0, 5.0])
    check_graph(proto, feeds, ["s0", "x", "z"])


def test_loop_without_a_single_trip() -> None:
    """The result is the initial state, and so is its gradient; what is only captured has none."""
    proto = looping()
    wide, _ = rewritten(proto, ["s0", "x", "z"], ["s_last"])
    seed = draw(2, 3, seed=5)
    feeds = {**loop_feeds(trips=np.asarray(0)), "seed_s_last": seed}
    narrow, _ = rewritten(to_float32(proto), ["s0", "x", "z"], ["s_last"])
    small = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in feeds.items()}
    wanted = ["s_last", "d_s0", "d_x", "d_z"]
    for run in (Session(wide, "reference").run(feeds, wanted), Session(narrow, threads=1).run(small, wanted)):
        np.testing.assert_allclose(run["s_last"], feeds["s0"], rtol=1e-6)
        np.testing.assert_allclose(run["d_s0"], seed, rtol=1e-6)
        assert run["d_x"].shape == (2, 3)
        assert not run["d_x"].any()
        assert not run["d_z"].any()


def test_loop_in_if_in_loop() -> None:
    inner = graph(
        [node("Mul", ["v", "x"], ["w"]), node("Cos", ["w"], ["v2"]), node("Identity", ["c1"], ["c2"])],
        [info("j", [], INT64), info("c1", [], BOOL), info("v", ["N", 3])],
        [info("c2", [], BOOL), "v2"],
    )
    then = graph([node("Loop", ["two", "", "s"], ["r"], body=inner)], [], ["r"])
    other = graph([node("Mul", ["s", "x"], ["r"])], [], ["r"])
    body = graph(
        [
            node("Less", ["i", "one"], ["first"]),
            node("If", ["first"], ["b"], then_branch=then, else_branch=other),
            node("Add", ["b", "s"], ["s2"]),
            node("Identity", ["c"], ["c3"]),
        ],
        [info("i", [], INT64), info("c", [], BOOL), info("s", ["N", 3])],
        [info("c3", [], BOOL), "s2"],
    )
    proto = model(
        [node("Loop", ["trips", "", "s0"], ["y"], body=body)],
        [info("s0", ["N", 3]), info("x", ["N", 3]), info("trips", [], INT64)],
        ["y"],
        two=np.asarray(2),
        one=np.asarray(1),
    )
    feeds = {"s0": draw(2, 3), "x": draw(2, 3, seed=1), "trips": np.asarray(3)}
    check_graph(proto, feeds, ["s0", "x"])


def test_loop_whose_state_grows_is_refused() -> None:
    body = graph(
        [node("Concat", ["s", "x"], ["s2"], axis=0), node("Identity", ["c"], ["c2"])],
        [info("i", [], INT64), info("c", [], BOOL), info("s", None)],
        [info("c2", [], BOOL), "s2"],
    )
    proto = model([node("Loop", ["n", "", "x"], ["y"], body=body)], [info("x", [2, 3])], ["y"], n=np.asarray(2))
    with pytest.raises(UnsupportedNodeError, match="changes its shape"):
        rewritten(proto, ["x"], ["y"])


@pytest.mark.parametrize("condition", ["", "yes"])
def test_a_loop_without_states(condition: str) -> None:
    """Scan outputs alone, with and without a condition: nothing but the number of trips is left then."""
    body = graph(
        [
            node("Gather", ["x", "i"], ["e"], axis=1),
            node("Sin", ["e"], ["s"]),
            node("Identity", ["going"], ["still"]),
        ],
        [info("i", [], INT64), info("going", [], BOOL)],
        [info("still", [], BOOL), "s"],
    )
    proto = model(
        [node("Loop", ["trips", condition], ["y"], body=body)],
        [info("x", ["N", "T", 3])],
        ["y"],
        trips=np.asarray(4),
        yes=np.asarray(True),
    )
    check_graph(proto, {"x": draw(2, 6, 3)}, ["x"])
