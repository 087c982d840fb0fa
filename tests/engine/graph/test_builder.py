"""What the builder refuses at once, and what it names, types and shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from canonical_run import numbers, run
from onnx import TensorProto
from tiny_models import model, node

from onnxplain.engine.graph.builder import PREFIX, Builder, names_of, schema_of


def graph(dtype: int = TensorProto.FLOAT, opset: int = 18) -> ir.Graph:
    proto = model([node("Relu", "x", "y")], {"x": [2, 3]}, {"y": [2, 3]}, {"w": numbers(3)}, dtype=dtype, opset=opset)
    return ir.from_proto(proto).graph


@pytest.mark.parametrize("operator", ["Rlu", "relu", "Gelu", "Swish"])
def test_operators_that_the_opset_lacks(operator: str) -> None:
    built = graph()
    with pytest.raises(ValueError, match=f"{operator} does not exist at opset 18"):
        getattr(Builder(built), operator)(built.inputs[0])
    assert len(list(built)) == 1


def test_operators_of_the_graphs_own_opset() -> None:
    newer, older = graph(opset=20), graph(opset=12)
    assert Builder(newer).Gelu(newer.inputs[0]).producer().op_type == "Gelu"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="has no attribute 'axes' at opset 18"):
        Builder(graph()).ReduceSum(graph().inputs[0], axes=[1])
    assert Builder(older).ReduceSum(older.inputs[0], axes=[1]) is not None


def test_domains() -> None:
    assert schema_of("Scaler", 3, "ai.onnx.ml").name == "Scaler"
    with pytest.raises(ValueError, match=r"ai\.onnx\.ml::Relu"):
        schema_of("Relu", 3, "ai.onnx.ml")


def test_private_names_are_no_operators() -> None:
    with pytest.raises(AttributeError):
        _ = Builder(graph())._nothing


def test_names_are_unique_and_marked() -> None:
    built = graph()
    op = Builder(built)
    values = [op.Neg(built.inputs[0]) for _ in range(3)] + [
        op.Neg(built.inputs[0], name="y"),
        op.Neg(built.inputs[0], name="y"),
    ]
    values += op.emit("Split", [built.inputs[0], [1, 2]], outputs=2, axis=1)
    names = [v.name or "" for v in values]
    assert len(set(names) | {"x", "y", "w"}) == len(names) + 3
    assert all(n.startswith(PREFIX) for n in names[:3])
    assert names[3].startswith("y")
    assert all(v.producer() is not None and v.producer().name for v in values)  # type: ignore[union-attr]


def test_names_of_graphs_inside_are_taken() -> None:
    inner = ir.Graph(
        [], [], nodes=[ir.node("Constant", [], name="k", attributes={"value": ir.tensor([1.0])})], name="inner"
    )
    inner[0].outputs[0].name = "k"
    built = graph()
    built.append(ir.node("If", [built.inputs[0]], attributes={"then_branch": inner, "else_branch": inner.clone()}))
    assert {"x", "y", "w", "k"} <= names_of(built)
    assert Builder(built).unique_name("k") != "k"


def test_builders_that_share_names() -> None:
    built = graph()
    taken = names_of(built)
    first, second = Builder(built, taken=taken), Builder(built, taken=taken)
    assert first.unique_name("n") != second.unique_name("n")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(TensorProto.FLOAT, np.float32), (TensorProto.DOUBLE, np.float64), (TensorProto.FLOAT16, np.float16)],
)
def test_numbers_take_the_other_operands_type(kind: int, dtype: Any) -> None:
    built = graph(kind)
    op = Builder(built)
    y = op.Where(op.Greater(built.inputs[0], 0), op.Mul(2, built.inputs[0]), -1)
    assert y.dtype == built.inputs[0].dtype
    built.outputs[0] = y
    proto = ir.to_proto(ir.Model(built, ir_version=8))
    x = numbers(2, 3, dtype=dtype)
    np.testing.assert_array_equal(run(proto, {"x": x})[0], np.where(x > 0, 2 * x, dtype(-1)))


def test_constants_are_shared_when_equal_in_type_and_shape() -> None:
    op = Builder(graph())
    assert op.constant(1.0, ir.DataType.FLOAT) is op.constant(1, ir.DataType.FLOAT)
    different = [
        op.constant(1, ir.DataType.FLOAT), op.constant(1), op.constant([1]), op.constant(1.0, ir.DataType.DOUBLE),
        op.constant(True), op.constant(1, name="own"), op.constant(1, name="own"),
    ]  # fmt: skip
    assert len({id(v) for v in different}) == len(different)
    assert op.constant(1).dtype == ir.DataType.INT64
    assert op.constant(np.int32(1)).dtype == ir.DataType.INT64
    large = np.arange(1000)
    assert op.constant(large) is not op.constant(large)


def test_omitted_operands() -> None:
    built = graph()
    y = Builder(built).Clip(built.inputs[0], None, 0.5)
    z = Builder(built).Clip(built.inputs[0], -1.0, None)
    assert [x.name if x else None for x in y.producer().inputs][:2] == ["x", None]  # type: ignore[union-attr]
    assert len(z.producer().inputs) == 2  # type: ignore[union-attr]


def test_types_of_results() -> None:
    built = graph(TensorProto.DOUBLE)
    op = Builder(built)
    x = built.inputs[0]
    assert op.Shape(x).dtype == ir.DataType.INT64
    assert op.ArgMax(x).dtype == ir.DataType.INT64
    assert op.Less(x, 0.0).dtype == ir.DataType.BOOL
    assert op.Cast(x, to=ir.DataType.FLOAT16).dtype == ir.DataType.FLOAT16
    assert op.ConstantOfShape([2]).dtype == ir.DataType.FLOAT
    assert op.ConstantOfShape([2], value=ir.tensor(np.zeros(1, np.int8))).dtype == ir.DataType.INT8
    assert [v.dtype for v in op.emit("TopK", [x, [1]], outputs=2)] == [ir.DataType.DOUBLE, ir.DataType.INT64]


def test_nodes_go_in_front_of_the_one_that_is_named() -> None:
    built = graph()
    relu = built[0]
    op = Builder(built, before=relu)
    op.Neg(built.inputs[0])
    op.Exp(built.inputs[0])
    assert [n.op_type for n in built] == ["Neg", "Exp", "Relu"]
