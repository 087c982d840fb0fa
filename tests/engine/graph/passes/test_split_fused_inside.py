"""Fused operators inside branches and bodies: the runtime's own answer, and the gradient of the same written plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import node

import onnxplain as ox

MS = "com.microsoft"
RNG = np.random.default_rng(0)
WEIGHTS = {"w": RNG.normal(size=(4, 4)), "g": RNG.normal(size=4), "b": RNG.normal(size=4)}
X = RNG.normal(size=(3, 4)).astype(np.float32)

FUSED = [
    node("FusedMatMul", "x w", "m", domain=MS, alpha=0.5), node("BiasGelu", "m b", "u", domain=MS),
    node("SkipLayerNormalization", "u x3 g b", "n", domain=MS, epsilon=1e-3),
]  # fmt: skip
PLAIN = [
    node("MatMul", "x w", "m1"), node("Mul", "m1 half", "m"), node("Add", "m b", "mb"), node("Gelu", "mb", "u"),
    node("Add", "u x3", "s"), node("LayerNormalization", "s g b", "n", axis=-1, epsilon=1e-3),
]  # fmt: skip


def graph(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: dict[str, Any], weights: dict[str, Any]) -> Any:
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    return helper.make_graph(nodes, "g", inputs, made, [numpy_helper.from_array(a, n) for n, a in weights.items()])


def net(nodes: list[onnx.NodeProto], kind: str) -> onnx.ModelProto:
    """``If`` the sum is positive the block, else -x; or a Loop of two trips of it."""
    weights: dict[str, Any] = {k: v.astype(np.float32) for k, v in WEIGHTS.items()}
    weights |= {"half": np.array(0.5, np.float32), "zero": np.array(0.0, np.float32), "two": np.array(2)}
    weights |= {"front": np.array([0])}
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    # `x3` has the three axes that the fused kernel wants, or those of its runtime: two are enough.
    block = [node("Identity", "x", "x3"), *nodes]
    if kind == "If":
        then = graph([*block, node("Identity", "n", "t")], [], {"t": [None, 4]}, {})
        other = graph([node("Neg", "x", "e")], [], {"e": [None, 4]}, {})
        outer = [
            node("ReduceSum", "x", "total", keepdims=0), node("Greater", "total zero", "c"),
            helper.make_node("If", ["c"], ["y"], name="y_node", then_branch=then, else_branch=other),
        ]  # fmt: skip
    else:
        trip = [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("k", TensorProto.BOOL, []),
        ]
        inner = [
            helper.make_node(n.op_type, [{"x": "h"}.get(i, i) for i in n.input], n.output, domain=n.domain)
            for n in block
        ]
        for a, b in zip(inner, block, strict=True):
            a.attribute.extend(b.attribute)
        body = graph(
            [node("Identity", "k", "go"), *inner, node("Identity", "n", "h2")],
            [*trip, helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 4])], {"h2": ["N", 4]}, {},
        )  # fmt: skip
        body.output.insert(0, helper.make_tensor_value_info("go", TensorProto.BOOL, []))
        outer = [helper.make_node("Loop", ["two", "", "x"], ["y"], name="y_node", body=body)]
    proto = graph(outer, [value], {"y": ["N", 4]}, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MS, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_a_block_inside(kind: str) -> None:
    fused, plain = net(FUSED, kind), net(PLAIN, kind)
    x = X + 1
    session = onnxruntime.InferenceSession(fused.SerializeToString())
    found = ox.explain(fused, x, method="fullgrad", target=1)
    truth = ox.explain(plain, x, method="fullgrad", target=1)
    np.testing.assert_allclose(found.outputs["y"], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.attributions["x"], truth.attributions["x"], rtol=1e-4, atol=1e-5)
    assert found.residual is not None and found.residual.relative.max() < 1e-5
