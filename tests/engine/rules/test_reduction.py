"""Rules of operators that go over the elements of some axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from completeness import assert_complete
from onnx import TensorProto, helper
from rule_cases import Case, case, check, distinct, parametrize, uniform
from run_time import gradient, ints, model, of_one_node

from onnxplain.engine.errors import BlockedGradientError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter

NONE = np.zeros(0, np.int64)


def two_zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Numbers from 1/2 to 2, two of them 0."""
    x = rng.uniform(0.5, 2.0, size=shape)
    x[1] = x[3] = 0.0
    return x


SHAPE = (2, 3, 4)

#: What the operands have to be: distinct where there are ties, positive below a logarithm.
DRAWS = {"ReduceMax": distinct, "ReduceMin": distinct, "ReduceLogSum": uniform(0.5, 2.0)}
REDUCTIONS = [
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
]


def variants(op_type: str) -> list[Case]:
    """Every form of axes with and without the reduced axes kept."""
    options = {"draw": DRAWS[op_type]} if op_type in DRAWS else {}
    old = 11 if op_type == "ReduceSum" else 13
    found = []
    for keepdims in (0, 1):
        both = {**options, "keepdims": keepdims}
        found += [
            case(op_type, x=SHAPE, axes=ints(1), name=f"{op_type}-1-{keepdims}", **both),
            case(op_type, x=SHAPE, axes=ints(-1), name=f"{op_type}-last-{keepdims}", **both),
            case(op_type, x=(2, 2, 3, 2), axes=ints(-1, 2), name=f"{op_type}-space-{keepdims}", **both),
            case(op_type, x=(3, 4), axes=ints(0), batch=False, name=f"{op_type}-0-{keepdims}", **both),
            case(op_type, x=(2, 1, 3), axes=ints(1), name=f"{op_type}-size1-{keepdims}", **both),
            case(op_type, x=SHAPE, batch=False, name=f"{op_type}-absent-{keepdims}", **both),
            case(op_type, x=(5,), batch=False, name=f"{op_type}-vector-{keepdims}", **both),
            case(op_type, x=(1, 1), batch=False, name=f"{op_type}-one-{keepdims}", **both),
            case(op_type, x=SHAPE, axes=NONE, batch=False, name=f"{op_type}-empty-{keepdims}", **both),
            case(op_type, x=SHAPE, axes=NONE, noop_with_empty_axes=1, name=f"{op_type}-noop-{keepdims}", **both),
            case(op_type, x=(2, 3), noop_with_empty_axes=1, name=f"{op_type}-absent-noop-{keepdims}", **both),
            case(op_type, x=SHAPE, opset=old, axes=[1, 2], name=f"{op_type}-{old}-{keepdims}", **both),
            case(op_type, x=SHAPE, opset=old, batch=False, name=f"{op_type}-{old}-absent-{keepdims}", **both),
        ]
    return found


CASES = [
    *(v for op_type in REDUCTIONS for v in variants(op_type)),
    case("ReduceSum", x=SHAPE, axes=ints(2), opset=13),
    case("ReduceMean", x=SHAPE, axes=ints(2), opset=21),
    case("ReduceMax", x=SHAPE, axes=ints(2), opset=20, draw=distinct),
    *(
        case("CumSum", x=SHAPE, axis=np.asarray(axis), attributes={"exclusive": e, "reverse": r}, batch=axis != 0)
        for axis, e, r in [(1, 0, 0), (-1, 1, 0), (2, 0, 1), (0, 1, 1)]
    ),
    case("TopK", x=(2, 5), k=ints(3), outputs=2, draw=distinct),
    case("TopK", x=(2, 5, 2), k=ints(2), axis=1, largest=0, outputs=2, draw=distinct),
    case("TopK", x=(4, 3), k=ints(2), axis=0, outputs=2, batch=False, draw=distinct),
    case("TopK", x=(2, 5), k=ints(1), axis=-1, outputs=2, opset=11, draw=distinct),
]

CASES += [
    case("CumProd", x=(3, 4), axis=np.asarray(1), opset=26, exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)
]
CASES += [
    case("CumProd", x=(2, 3, 4), axis=np.asarray(-2), opset=26),
    case("CumProd", x=(5,), axis=np.asarray(0), opset=26, batch=False, draw=two_zeros),
    case("CumProd", x=(5,), axis=np.asarray(0), opset=26, batch=False, draw=two_zeros, reverse=1),
    case("CumProd", x=(5,), axis=np.asarray(0), opset=26, batch=False, draw=two_zeros, exclusive=1),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


# ----- axes and sizes of the run time -----------------------------------------------------------------


def of_axes(op_type: str, axes: list[int] | None, fed: bool, sized: bool = True, **attributes: int) -> onnx.ModelProto:
    """One reduction of a [2, 3, 4] tensor; axes fed or constant, sizes told or not even the rank."""
    node = helper.make_node(op_type, ["x"] if axes is None else ["x", "axes"], ["y"], **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE if sized else None)]
    weights = []
    if axes is not None and fed:
        inputs.append(helper.make_tensor_value_info("axes", TensorProto.INT64, ["k"]))
    elif axes is not None:
        weights.append(helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def drawn(op_type: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.asarray(DRAWS.get(op_type, uniform(0.3, 1.5))(rng, SHAPE), np.float32)


def seed_for(axes: list[int], noop: int, keepdims: int) -> np.ndarray:
    everything = [0, 1, 2] if not axes and not noop else [a % 3 for a in axes]
    shape = [(1 if a in everything else n) for a, n in enumerate(SHAPE) if keepdims or a not in everything]
    return np.asarray(np.random.default_rng(5).normal(size=shape), np.float32)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("axes", "noop"), [([1], 0), ([-1, 0], 1), ([0, 1, 2], 0), ([], 0), ([], 1)])
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_axes_known_only_at_run_time(op_type: str, axes: list[int], noop: int, keepdims: int) -> None:
    """As with constant axes, which the cases above hold against differences."""
    x, seed = drawn(op_type), seed_for(axes, noop, keepdims)
    options = {"noop_with_empty_axes": noop, "keepdims": keepdims}
    expected = gradient(of_axes(op_type, axes, False, **options), {"x": x}, seed)
    feeds = {"x": x, "axes": ints(*axes)}
    for sized in (True, False):
        found = gradient(of_axes(op_type, axes, True, sized, **options), feeds, seed)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_a_rank_known_only_at_run_time(op_type: str, axes: list[int] | None) -> None:
    x, seed = drawn(op_type), seed_for(axes or [], 0, 0)
    expected = gradient(of_axes(op_type, axes, False, keepdims=0), {"x": x}, seed)
    found = gradient(of_axes(op_type, axes, False, False, keepdims=0), {"x": x}, seed)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def double(op_type: str, sizes: list[object], axes: list[int] | None, fed: bool, **attributes: int) -> onnx.ModelProto:
    """The same in float64, with any description of the sizes."""
    proto = of_axes(op_type, axes, fed, **attributes)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.DOUBLE, sizes))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.DOUBLE, None))
    return proto


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("axes", "fed"), [(None, False), ([1], False), ([1, 2], False), ([1], True), ([], True)])
def test_the_bias_of_a_product_of_a_number_of_factors_known_only_at_run_time(
    axes: list[int] | None, fed: bool, keepdims: int
) -> None:
    proto = double("ReduceProd", ["a", "b", "c"], axes, fed, keepdims=keepdims)
    feeds = {"x": drawn("ReduceProd").astype(np.float64)}
    if fed:
        feeds["axes"] = ints(*(axes or []))
    assert_complete(proto, feeds, seed_for(axes or [], 0, keepdims).astype(np.float64))


def test_the_bias_of_a_product_of_a_vector_of_unknown_length() -> None:
    proto = double("ReduceProd", ["n"], None, False, keepdims=0)
    assert_complete(proto, {"x": np.asarray([2.0, -3.0, 0.5])}, np.asarray(1.7))


@pytest.mark.parametrize(("keepdims", "emitted"), [(1, ["Mul", "Expand"]), (0, ["Mul", "Unsqueeze", "Expand"])])
def test_the_mean_over_space_costs_one_small_product_and_one_expand(keepdims: int, emitted: list[str]) -> None:
    """No shape is computed at run time although the batch is open."""
    proto = of_axes("ReduceMean", [2, 3], False, keepdims=keepdims)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 5, 5]))
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.output_value()
    rewriter.backward_from({y: rewriter.add_input("seed", y.dtype, None)}, [rewriter.value("x")])
    assert [n.op_type for n in rewriter.op.graph][1:] == emitted


# ----- kinks, ties, zeros -----------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
def test_elements_that_tie_share_the_gradient_evenly(op_type: str) -> None:
    sign = 1 if op_type == "ReduceMax" else -1
    x = sign * np.asarray([[2, 2, 1], [3, 1, 0], [5, 5, 5]], np.float32)
    found = of_one_node(op_type, {"x": x, "axes": ints(1)}, np.asarray([6, 6, 6], np.float32), keepdims=0)
    np.testing.assert_allclose(found, [[3, 3, 0], [6, 0, 0], [2, 2, 2]], rtol=1e-6)


def test_products_with_zeros() -> None:
    x = np.asarray([[2, 3, 4], [2, 0, 4], [0, 0, 4], [0, 0, 0]], np.float32)
    found = of_one_node("ReduceProd", {"x": x, "axes": ints(1)}, np.ones(4, np.float32), keepdims=0)
    np.testing.assert_allclose(found, [[12, 8, 6], [0, 8, 0], [0, 0, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("op_type", ["ReduceL1", "ReduceL2"])
def test_norms_at_zero_have_gradient_zero(op_type: str) -> None:
    x = np.asarray([[0, 0], [3, 0]], np.float32)
    found = of_one_node(op_type, {"x": x, "axes": ints(1)}, np.ones(2, np.float32), keepdims=0)
    np.testing.assert_array_equal(found, [[0, 0], [1, 0]])


def test_log_sum_exp_of_masked_elements() -> None:
    """-inf gets no gradient and no bias, a row of nothing else neither."""
    inf = np.inf
    x = np.asarray([[0.5, -inf, 1.5], [-inf, -inf, -inf]], np.float32)
    found = of_one_node("ReduceLogSumExp", {"x": x, "axes": ints(1)}, np.ones(2, np.float32), keepdims=0)
    share = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(found, [[share, 0, 1 - share], [0, 0, 0]], rtol=1e-6)


def test_completeness_of_log_sum_exp_behind_a_mask() -> None:
    nodes = [helper.make_node("Add", ["x", "mask"], ["z"]), helper.make_node("ReduceLogSumExp", ["z"], ["y"])]
    info = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, s) for n, s in (("x", [4]), ("y", None))]
    mask = helper.make_tensor("mask", TensorProto.DOUBLE, [4], [0.0, -np.inf, 0.0, 0.0])
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [mask])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert_complete(proto, {"x": np.asarray([0.3, 2.0, -1.0, 0.7])}, np.asarray([1.5]))


# ----- TopK, ArgMax -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [["y", "places"], ["y", ""]])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_number_of_elements_to_pick_is_fed(outputs: list[str], largest: int) -> None:
    """Also where nobody asked which ones they are."""
    x = np.asarray([[4, 1, 3, 2], [10, 30, 20, 40]], np.float32)
    proto = model([helper.make_node("TopK", ["x", "k"], outputs, axis=-1, largest=largest)], {"x": x, "k": ints(2)})
    found = gradient(proto, {"x": x, "k": ints(2)}, np.asarray([[5, 6], [7, 8]], np.float32))
    expected = [[5, 0, 6, 0], [0, 8, 0, 7]] if largest else [[0, 5, 0, 6], [7, 0, 8, 0]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_the_place_of_an_extremum_blocks_the_gradient_and_says_so(op_type: str) -> None:
    nodes = [helper.make_node(op_type, ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    proto = model(nodes, {"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(BlockedGradientError, match=f"{op_type}.*explain the scores that enter it"):
        gradient(proto, {}, np.zeros(()))
