"""Operators in other operators: the same numbers in onnxruntime, and the operator is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.shipping.spelling import _SPELLINGS, spell

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
REAL = np.array([[-np.inf, -2.5, -1e-38, -0.0, 0.0], [1e-38, 1.0, 3.25, 6.0, np.inf]], np.float32)
OTHER = np.array([[1.0, -2.5, 0.0, 3.0, -1.0]], np.float32)
FINITE = RNG.normal(size=(2, 3, 4)).astype(np.float32)
YES, NO = np.array([[True, True, False, False]]), np.array([[True], [False]])

CASES: dict[str, tuple[list[Array], dict[str, Any]]] = {
    "And": ([YES, NO], {}),
    "Or": ([YES, NO], {}),
    "GreaterOrEqual": ([REAL, OTHER], {}),
    "LessOrEqual": ([REAL, OTHER], {}),
    "Sign": ([REAL], {}),
    "Sum": ([FINITE, FINITE[:1], FINITE[:, :1]], {}),
    "Neg": ([REAL], {}),
    "Abs": ([REAL], {}),
    "Max": ([REAL, OTHER, REAL[::-1].copy()], {}),
    "Min": ([REAL, OTHER, REAL[::-1].copy()], {}),
    "ReduceMin": ([FINITE, np.array([1, 2])], {"keepdims": 0}),
    "Reciprocal": ([FINITE], {}),
    "Flatten": ([FINITE], {"axis": 1}),
}

#: Where several providers lack more than the operator itself.
FURTHER = {"Min": {"Where", "Greater"}, "Sign": {"Greater"}}


def one_node(op_type: str, operands: list[Array], attributes: dict[str, Any], inside: bool) -> onnx.ModelProto:
    """The operator alone, or in the body of an If."""
    names = [f"x{i}" for i in range(len(operands))]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, operands, strict=True)
        if a.dtype != np.int64
    ]
    axes = [onnx.numpy_helper.from_array(a, n) for n, a in zip(names, operands, strict=True) if a.dtype == np.int64]
    nodes = [helper.make_node(op_type, names, ["y"], name="it", **attributes)]
    if inside:
        body = helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info("y")])
        other = helper.make_graph(
            [helper.make_node(op_type, names, ["z"], **attributes)], "o", [], [helper.make_empty_tensor_value_info("z")]
        )
        nodes = [helper.make_node("If", ["yes"], ["r"], then_branch=body, else_branch=other)]
        infos.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    out = helper.make_empty_tensor_value_info("r" if inside else "y")
    graph = helper.make_graph(nodes, "g", infos, [out], axes)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(proto)


def answer(proto: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def test_every_spelling_has_a_case() -> None:
    assert set(CASES) == set(_SPELLINGS)


@pytest.mark.parametrize("inside", [False, True], ids=["graph", "body"])
@pytest.mark.parametrize("more", [False, True], ids=["alone", "with others"])
@pytest.mark.parametrize("op_type", CASES)
def test_the_same_numbers(op_type: str, more: bool, inside: bool) -> None:
    operands, attributes = CASES[op_type]
    lacks = {op_type} | (FURTHER.get(op_type, set()) if more else set())
    proto = one_node(op_type, operands, attributes, inside)
    feeds = {f"x{i}": a for i, a in enumerate(operands) if a.dtype != np.int64} | (
        {"yes": np.array(True)} if inside else {}
    )
    model = ir.from_proto(proto)
    spell(model, frozenset(lacks))
    assert not {n.op_type for n in model.graph.all_nodes()} & lacks
    spelt = ir.to_proto(model)
    if not inside:  # the check infers no sizes out of a body
        onnx.checker.check_model(spelt, full_check=True)
    # A reciprocal is an approximation in some kernels, right to the last bit but one.
    np.testing.assert_allclose(answer(spelt, feeds), answer(proto, feeds), rtol=3e-7 * (op_type == "Reciprocal"))


def test_what_has_no_exact_form_stays() -> None:
    model = ir.from_proto(one_node("Sign", [np.array([1, -2], np.int32)], {}, inside=False))
    spell(model, frozenset({"Sign"}))  # whole numbers
    spell(model, frozenset())
    assert [n.op_type for n in model.graph] == ["Sign"]
    model = ir.from_proto(one_node("And", [YES, NO], {}, inside=False))
    spell(model, frozenset({"And", "Mul"}))  # what it would be written in is missing as well
    assert [n.op_type for n in model.graph] == ["And"]
