"""A second forward pass in one graph equals a run of the model on the other operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.graph.replay import replay, replay_node
from onnxplain.engine.rewrite import Rewriter

Array = np.ndarray[Any, Any]


def run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def twice(proto: onnx.ModelProto, x: Array, other: Array) -> tuple[Array, Array, Array]:
    """The model's output on both inputs, from one graph; and on the second from the model itself."""
    rewriter = Rewriter(ox.load(proto).canonical)
    source = rewriter.value("x")
    second = rewriter.add_input("other", ir.DataType.FLOAT, ["N", *x.shape[1:]])
    twins = replay(rewriter.op, rewriter.forward_nodes, {source: second})
    output = rewriter.output_value()
    rewriter.add_output("again", twins[output])
    both = run(ir.to_proto(rewriter.finish()), {"x": x, "other": other})
    plain = ir.to_proto(ox.load(proto).canonical)
    return both[0], both[1], run(plain, {"x": other})[0]


def test_the_copy_computes_the_model_on_other_inputs() -> None:
    rng = np.random.default_rng(0)
    x, other = (rng.normal(size=(2, 1, 4, 4)).astype(np.float32) for _ in range(2))
    first, again, expected = twice(fullgrad_net()[0], x, other)
    np.testing.assert_allclose(again, expected, rtol=1e-6)
    assert np.abs(first - again).max() > 0.1


def test_weights_are_shared_and_independent_nodes_are_not_copied() -> None:
    proto = model(
        [node("Exp", "w", "e"), node("MatMul", "x e", "z"), node("Tanh", "z", "y")],
        {"x": ["N", 3]},
        {"y": ["N", 2]},
        {"w": np.ones((3, 2))},
    )
    rewriter = Rewriter(ox.load(proto).canonical)
    before = len(list(rewriter.graph))
    weights = len(rewriter.graph.initializers)
    x = rewriter.value("x")
    replay(rewriter.op, rewriter.forward_nodes, {x: rewriter.op.Mul(x, 0.5)})
    assert len(list(rewriter.graph)) == before + 1 + 2  # the product, MatMul and Tanh
    assert len(rewriter.graph.initializers) <= weights + 1  # the number 0.5


def test_bodies_read_the_substitute() -> None:
    """Both branches of an If capture x."""

    def branch(op_type: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 3])
        return helper.make_graph([helper.make_node(op_type, ["x"], ["r"])], op_type, [], [out])

    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch("Sigmoid"), else_branch=branch("Tanh"))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Greater", ["s", "zero"], ["c"]),
            choice,
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    _, again, expected = twice(proto, x, -x)
    np.testing.assert_allclose(again, expected, rtol=1e-6)
    np.testing.assert_allclose(again, np.tanh(-x), rtol=1e-5)


def test_one_of_two_equal_operands_is_replaced() -> None:
    proto = model([node("Mul", "x x", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, {})
    rewriter = Rewriter(ox.load(proto).canonical)
    x = rewriter.value("x")
    (square,) = rewriter.forward_nodes
    copy = replay_node(rewriter.op, square, [x, rewriter.op.Mul(x, 3.0)])
    rewriter.add_output("again", copy.outputs[0])
    found = run(ir.to_proto(rewriter.finish()), {"x": np.array([[1.0, 2.0]], np.float32)})
    np.testing.assert_array_equal(found[1], [[3.0, 12.0]])
