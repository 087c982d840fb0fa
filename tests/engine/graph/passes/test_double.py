"""Every float becomes a double, wherever it stands, and the model says the same in more digits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from custom_operators import CUBE, X, net
from onnx import TensorProto, helper, parser
from tiny_models import fullgrad_net, model, node

from onnxplain import rules
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.double import DoublePass
from onnxplain.engine.session.session import Session


def doubled(proto: object) -> ir.Model:
    made = canonicalise(read_model(proto))  # type: ignore[arg-type]
    DoublePass()(made)
    return made


def types(made: ir.Model) -> set[ir.DataType | None]:
    values = [*made.graph.inputs, *made.graph.initializers.values()]
    values += [y for n in ir.traversal.RecursiveGraphIterator(made.graph) for y in n.outputs]
    return {v.dtype for v in values}


def test_a_network() -> None:
    proto, x = fullgrad_net()
    made = doubled(proto)
    assert types(made) == {ir.DataType.DOUBLE}
    single = Session(canonicalise(read_model(proto)), threads=1).run({"x": x})["logits"]
    double = Session(made, "reference").run({"x": x.astype(np.float64)})["logits"]
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, single, rtol=1e-5)


@pytest.mark.parametrize("narrow", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_types_that_attributes_name(narrow: int) -> None:
    value = helper.make_tensor("v", narrow, [1], [2.5])
    nodes = [
        node("Cast", "i", "c", to=narrow), node("Shape", "c", "s"), node("ConstantOfShape", "s", "k", value=value),
        node("ConstantOfShape", "s", "zero"), node("Cast", "zero", "z", to=narrow), node("Add", "c k", "a"),
        node("Add", "a z", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"i": ["N"]}, {"y": ["N"]}, dtype=narrow)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    made = doubled(proto)
    assert types(made) <= {ir.DataType.DOUBLE, ir.DataType.INT64}
    found = Session(made, "reference").run({"i": np.array([1, 2])})["y"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [3.5, 4.5])


def test_branches_and_functions() -> None:
    branches = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        net (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = a () => (float[N] p) { k = Constant <value = float {0.1}> () p = Mul(x, k) },
                        else_branch = b () => (float[N] q) { q = Neg(x) }>
        }
    """)
    made = doubled(branches)
    assert types(made) <= {ir.DataType.DOUBLE, ir.DataType.BOOL}
    x = np.array([1.0, 3.0])
    found = Session(made, "reference").run({"x": x, "c": np.array(True)})["y"]
    np.testing.assert_array_equal(found, np.float64(np.float32(0.1)) * x)
    with rules.temporary():
        rules.gradient("Cube", domain="org.example")(lambda op, node, dy: [dy])
        made = doubled(net("Cube", CUBE))
        assert len(made.functions) == 1
        assert Session(made, "reference").run({"x": X.astype(np.float64)})["y"].dtype == np.float64


def test_the_source_is_left_alone() -> None:
    proto, x = fullgrad_net()
    canonical = canonicalise(read_model(proto))
    DoublePass()(canonical.clone())
    assert types(canonical) == {ir.DataType.FLOAT}
    assert Session(canonical, threads=1).run({"x": x})["logits"].dtype == np.float32
