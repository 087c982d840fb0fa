"""Operators of the domain ``org.example`` for tests of plug-ins: what computes them, and models that use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import parser
from onnx.reference.op_run import OpRun

DOMAIN = "org.example"
Array = np.ndarray[Any, Any]

#: ``y = max(x, 0)``, but called in a strange domain; and ``y = x^3``.
RELU = parser.parse_function("""
    <opset_import: ["" : 18], domain: "org.example">
    Relu (x) => (y) { y = Relu(x) }
""")
CUBE = parser.parse_function("""
    <opset_import: ["" : 18], domain: "org.example">
    Cube (x) => (y) { s = Mul(x, x)  y = Mul(s, x) }
""")


class Cube(OpRun):
    """The same for the reference evaluator."""

    op_domain = DOMAIN

    def _run(self, x: Array) -> tuple[Array]:
        return (x**3,)


class Relu(OpRun):
    """The same for the reference evaluator."""

    op_domain = DOMAIN

    def _run(self, x: Array) -> tuple[Array]:
        return (np.maximum(x, 0),)


def net(operator: str, *functions: onnx.FunctionProto, version: int = 1) -> onnx.ModelProto:
    """``y = operator(x w + b) v`` with x of shape [N, 4]; the functions are the model's own."""
    proto = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18, "{DOMAIN}" : {version}]>
        net (float[N, 4] x, float[4, 5] w, float[5] b, float[5, 2] v) => (float[N, 2] y) {{
            z = Gemm(x, w, b)
            h = {DOMAIN}.{operator}(z)
            y = MatMul(h, v)
        }}
    """)
    # As exporters write it: the type of an inner tensor, for what inference cannot know.
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["N", 5]))
    proto.graph.node[1].name = "the_strange_one"
    rng = np.random.default_rng(3)
    for value, shape in zip(list(proto.graph.input)[1:], ((4, 5), (5,), (5, 2)), strict=True):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), value.name)
        )
        proto.graph.input.remove(value)
    proto.functions.extend(functions)
    return proto


#: A batch for it.
X = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
