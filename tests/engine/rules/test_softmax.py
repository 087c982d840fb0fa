"""Rules of Softmax and LogSoftmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from completeness import assert_complete, sides
from onnx import TensorProto, helper
from rule_cases import Case, case, check, parametrize
from run_time import gradient, model

from onnxplain.engine.errors import BlockedGradientError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter

BOTH = ("Softmax", "LogSoftmax")
CASES = [
    *(case(kind, x=(2, 3, 4), axis=axis, batch=axis != 0) for kind in BOTH for axis in (-1, -2, 0, 1, 2)),
    *(case(kind, x=(2, 3)) for kind in BOTH),
    *(case(kind, x=(4,), batch=False) for kind in BOTH),
    *(case(kind, x=(2, 1, 3), axis=1) for kind in BOTH),
    *(case(kind, x=(2, 3, 4), opset=11, axis=2) for kind in BOTH),
    *(case(kind, x=(2, 3), opset=9) for kind in BOTH),
    *(case(kind, x=(2, 3, 4), opset=21, axis=1) for kind in BOTH),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", BOTH)
def test_below_opset_13_everything_from_the_axis_on_counts_as_one(kind: str, axis: int, sized: bool) -> None:
    """Against the Jacobian of the flattened rows: onnx.reference computes the later form at every opset."""
    rng = np.random.default_rng(0)
    x, seed = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    proto = model([helper.make_node(kind, ["x"], ["y"], axis=axis)], {"x": x}, opset=11)
    if sized:
        proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape))
    expected = []
    for z, a in zip(x.reshape(*rows_of(x, axis)), seed.reshape(*rows_of(x, axis)), strict=True):
        expected.append(jacobian(kind, z.astype(np.float64)).T @ a)
    found = gradient(proto, {"x": x}, seed)
    np.testing.assert_allclose(found, np.reshape(expected, x.shape), rtol=1e-4, atol=1e-6)


def rows_of(x: np.ndarray, axis: int) -> tuple[int, int]:
    return int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))


def jacobian(kind: str, z: np.ndarray) -> np.ndarray:
    """Of one row, in closed form."""
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    return np.diag(p) - np.outer(p, p) if kind == "Softmax" else np.eye(len(z)) - np.outer(np.ones(len(z)), p)


# ----- masks ------------------------------------------------------------------------------------------

#: A causal mask over three places, as exporters write it.
CAUSAL = np.triu(np.ones((3, 3), bool), 1)


def attention(kind: str, how: str, fill: float, dtype: int, values: bool = True) -> onnx.ModelProto:
    """Masked scores, their Softmax or LogSoftmax, and (``values``) the product with something constant."""
    operands = ["x", "mask"] if how == "Add" else ["hide", "mask", "x"]
    nodes = [helper.make_node(how, operands, ["z"]), helper.make_node(kind, ["z"], ["p" if values else "y"], axis=-1)]
    if values:
        # Where(hidden, 0, .) stands between a masked log probability and what is made of it.
        nodes.append(helper.make_node("Where", ["hide", "zero", "p"], ["q"]))
        nodes.append(helper.make_node("MatMul", ["q", "v"], ["y"]))
    kind_of = helper.tensor_dtype_to_np_dtype(dtype)
    mask = np.where(CAUSAL, fill, 0).astype(kind_of)
    v = np.random.default_rng(0).normal(size=(3, 2)).astype(kind_of)
    arrays = {"mask": mask, "hide": CAUSAL, "v": v, "zero": np.zeros((), kind_of)}
    weights = [onnx.numpy_helper.from_array(a, k) for k, a in arrays.items()]
    infos = [helper.make_tensor_value_info("x", dtype, ["N", 3, 3]), helper.make_tensor_value_info("y", dtype, None)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def scores() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 3, 3)) * 2


@pytest.mark.parametrize("how", ["Add", "Where"])
@pytest.mark.parametrize("fill", [-np.inf, -3e38, -1e9])
@pytest.mark.parametrize("kind", BOTH)
def test_gradient_behind_a_mask(kind: str, fill: float, how: str) -> None:
    """As of the scores that are not masked, row by row; 0 for masked ones."""
    x, seed = scores().astype(np.float32), np.random.default_rng(2).normal(size=(2, 3, 2)).astype(np.float32)
    proto = attention(kind, how, fill, TensorProto.FLOAT)
    found = gradient(proto, {"x": x}, seed)
    v = onnx.numpy_helper.to_array(proto.graph.initializer[2]).astype(np.float64)
    expected = np.zeros(x.shape)
    for n, i in np.ndindex(2, 3):
        kept = slice(i + 1)
        expected[n, i, kept] = jacobian(kind, x[n, i, kept].astype(np.float64)).T @ (v[kept] @ seed[n, i])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["Add", "Where"])
@pytest.mark.parametrize("fill", [-np.inf, -1e3])
@pytest.mark.parametrize("kind", BOTH)
def test_completeness_behind_a_mask(kind: str, fill: float, how: str) -> None:
    """0 times -inf counts as 0. (-1e3 rather than -1e9: beyond it the sum of terms is all rounding.)"""
    seed = np.random.default_rng(2).normal(size=(2, 3, 2))
    assert_complete(attention(kind, how, fill, TensorProto.DOUBLE), {"x": scores()}, seed)


def test_the_bias_terms_of_a_softmax_sum_to_one() -> None:
    """methods.md: sum_i c_i = 1 in every row, masked or not; with a seed of ones nothing else is left."""
    proto = attention("Softmax", "Add", -np.inf, TensorProto.DOUBLE, values=False)
    total, terms = sides(proto, {"x": scores()}, np.ones((2, 3, 3)))
    assert total == pytest.approx(6, abs=1e-12)
    assert terms[-1] == pytest.approx(6, abs=1e-12)
    assert terms[:-1] == pytest.approx([0] * len(terms[:-1]), abs=1e-12)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_rank_known_only_at_run_time(kind: str, axis: int) -> None:
    x = scores().astype(np.float32)
    seed = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    node = helper.make_node(kind, ["x"], ["y"], axis=axis)
    proto = model([node], {"x": x})
    expected = gradient(proto, {"x": x}, seed)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    np.testing.assert_array_equal(gradient(proto, {"x": x}, seed), expected)


def test_large_scores_do_not_overflow() -> None:
    """The gradient reads the result, which is stable, and never an exponential of the scores."""
    x = np.asarray([[5000.0, 5001.0, 4000.0]], np.float32)
    seed = np.asarray([[1.0, 0.0, 0.0]], np.float32)
    p = np.asarray([1 / (1 + np.e), np.e / (1 + np.e), 0.0])
    for kind, expected in (("Softmax", p[0] * (np.eye(3)[0] - p)), ("LogSoftmax", np.eye(3)[0] - p)):
        found = gradient(model([helper.make_node(kind, ["x"], ["y"])], {"x": x}), {"x": x}, seed)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_softmax_is_four_nodes_without_a_guard() -> None:
    proto = model([helper.make_node("Softmax", ["x"], ["y"])], {"x": np.zeros((2, 3), np.float32)})
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.output_value()
    rewriter.backward_from({y: rewriter.add_input("seed", y.dtype, None)}, [rewriter.value("x")])
    assert [n.op_type for n in rewriter.op.graph] == ["Softmax", "Mul", "ReduceSum", "Sub", "Mul"]


def test_hardmax_blocks_the_gradient_and_says_so() -> None:
    proto = model([helper.make_node("Hardmax", ["x"], ["y"])], {"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(BlockedGradientError, match=r"Hardmax.*use Softmax instead"):
        gradient(proto, {}, np.zeros(()))
