"""The canonical form as a whole: outputs and names stay, whatever the file looks like."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from canonical_run import numbers, operators, run, same_outputs
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node, simple_model

from onnxplain.engine.errors import ModelFileError
from onnxplain.engine.graph.canonical import canonicalise, ir_version_for
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.rewrite import Rewriter

X = numbers(2, 3)


def function(
    name: str, nodes: list[onnx.NodeProto], opset: int = 18, attributes: Any = (), defaults: Any = ()
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], nodes, opsets, list(attributes), list(defaults))


def net(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] = [], opset: int = 18) -> onnx.ModelProto:  # noqa: B006
    proto = model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": numbers(3)}, opset=opset, domains=["f"])
    proto.functions.extend(functions)
    return proto


def referring(op_type: str, x: str, y: str, attribute: str, kind: int, to: str) -> onnx.NodeProto:
    """A node in a function whose attribute is the function's."""
    n = node(op_type, x, y)
    n.attribute.append(onnx.AttributeProto(name=attribute, type=kind, ref_attr_name=to))  # type: ignore[arg-type]
    return n


# ----- functions ------------------------------------------------------------------------------------


def test_functions_are_inlined() -> None:
    inner = function("Inner", [node("Exp", "a", "t"), node("Neg", "t", "b")])
    outer = function("Outer", [node("Inner", "a", "t", domain="f"), node("Inner", "t", "b", domain="f")])
    proto = net([node("Outer", "x", "u", domain="f"), node("Inner", "u", "y", domain="f")], [inner, outer])
    assert operators(same_outputs(proto, {"x": X})) == ["Exp", "Neg"] * 3


@pytest.mark.parametrize("given", [{}, {"alpha": 0.5}])
def test_functions_with_default_attributes(given: dict[str, float]) -> None:
    body = [referring("LeakyRelu", "a", "b", "alpha", onnx.AttributeProto.FLOAT, "alpha")]
    leaky = function("Leaky", body, defaults=[helper.make_attribute("alpha", 0.25)])
    canonical = same_outputs(net([node("Leaky", "x", "y", domain="f", **given)], [leaky]), {"x": X})
    assert next(iter(canonical.graph)).attributes["alpha"].value == given.get("alpha", 0.25)


def test_functions_of_an_old_opset_are_upgraded() -> None:
    body = function("F", [node("Clip", "a", "c", min=-0.5, max=0.5), node("Softmax", "c", "b", axis=0)], opset=10)
    same_outputs(net([node("F", "x", "y", domain="f")], [body], opset=10), {"x": X})


def test_functions_that_call_themselves_are_refused() -> None:
    body = function("F", [node("F", "a", "b", domain="f")])
    with pytest.raises(ModelFileError):
        canonicalise(read_model(net([node("F", "x", "y", domain="f")], [body])))


# ----- odd files ------------------------------------------------------------------------------------


def test_nodes_out_of_order() -> None:
    proto = fullgrad_net()[0]
    expected = operators(canonicalise(read_model(proto)))
    order = np.random.default_rng(3).permutation(len(proto.graph.node))
    nodes = [proto.graph.node[i] for i in order]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert operators(canonicalise(read_model(proto))) == expected


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ModelFileError, match="canonical form"):
        canonicalise(read_model(net([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Neg", "b", "y")])))


@pytest.mark.parametrize("bad", ["undefined", "twice", "input again", "output"])
def test_names_that_make_no_graph(bad: str) -> None:
    nodes = {
        "undefined": [node("Add", "x nothing", "y")],
        "twice": [node("Relu", "x", "y"), node("Neg", "x", "y")],
        "input again": [node("Relu", "w", "x"), node("Neg", "x", "y")],
        "output": [node("Relu", "x", "z")],
    }
    with pytest.raises(ModelFileError, match=r"tensor '(nothing|y|x)'"):
        read_model(net(nodes[bad]))


def test_names_of_nodes_missing_or_twice() -> None:
    nodes = [node("Relu", "x", "a"), node("Exp", "a", "b"), node("Neg", "b", "y")]
    for n, name in zip(nodes, ("", "same", "same"), strict=True):
        n.name = name
    canonical = canonicalise(read_model(net(nodes)))  # the runtime refuses names that stand twice
    # 1e-6: NumPy's exponential and the runtime's differ in the last bit.
    np.testing.assert_allclose(run(ir.to_proto(canonical), {"x": X})[0], -np.exp(np.maximum(X, 0)), rtol=1e-6)
    names = [n.name for n in canonical.graph]
    assert all(names)
    assert len(set(names)) == 3
    assert [n.outputs[0].name for n in canonical.graph] == ["a", "b", "y"]


def test_initializers_among_the_inputs_are_constants() -> None:
    proto = simple_model()
    for tensor in proto.graph.initializer:
        proto.graph.input.insert(0, helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    canonical = canonicalise(read_model(proto))
    assert [v.name for v in canonical.graph.inputs] == ["x"]


def test_a_domain_off_the_path_does_not_hurt() -> None:
    """A contrib operator beside the path runs as it did, and an unknown one is not touched."""
    contrib = net([node("Relu", "x", "y"), node("QuickGelu", "x", "z", domain="com.microsoft", alpha=1.5)])
    contrib.opset_import.add(domain="com.microsoft", version=1)
    contrib.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3]))
    same_outputs(contrib, {"x": X})
    unknown = net([node("Relu", "x", "y"), node("Mystery", "x", "z", domain="org.example")])
    unknown.opset_import.add(domain="org.example", version=3)
    unknown.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3]))
    canonical = canonicalise(read_model(unknown))
    assert sorted(operators(canonical)) == ["Mystery", "Relu"]
    assert canonical.graph.opset_imports["org.example"] == 3
    rewriter = Rewriter(canonical)
    adjoints = rewriter.backward(rewriter.seed("y"), [rewriter.value("x")])
    assert rewriter.value("x") in adjoints.of


def test_unused_domains_are_kept_out_of_the_way() -> None:
    proto = net([node("Relu", "x", "y")])
    proto.opset_import.extend(helper.make_opsetid(d, 1) for d in ("com.microsoft", "org.pytorch.aten", "ai.onnx.ml"))
    same_outputs(proto, {"x": X}, 0)


def test_constants_in_all_their_forms() -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=0.5),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [4.0])),
        helper.make_node("Constant", [], ["i"], value_ints=[0]),
        node("Mul", "x a", "xa"), node("Add", "xa b", "xb"), node("Div", "xb c", "xc"), node("Unsqueeze", "xc i", "u"),
        node("Squeeze", "u i", "y"),
    ]  # fmt: skip
    assert "Constant" not in operators(same_outputs(net(nodes), {"x": X}))


def test_shapes_noted_in_the_file_are_not_believed() -> None:
    """A batch of 1 noted for inner values of a model whose input was made dynamic by hand."""
    proto = net([node("Relu", "x", "a"), node("Neg", "a", "y")])
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 3]))
    canonical = canonicalise(read_model(proto))
    assert dims(next(iter(canonical.graph)).outputs[0]) == ("N", 3)


@pytest.mark.parametrize("at", [[1], [[1]]], ids=["flat", "per axis"])
def test_sparse_initializers_are_written_out(at: list[Any]) -> None:
    proto = net([node("Add", "x k", "y")])
    values = helper.make_tensor("k", TensorProto.FLOAT, [1], [2.0])
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(np.array(at), "at"), [3])
    )
    canonical = same_outputs(proto, {"x": X}, 0)
    assert "k" in canonical.graph.initializers


# ----- interface ------------------------------------------------------------------------------------


def test_the_source_stays_as_it_is() -> None:
    proto = simple_model()
    before = proto.SerializeToString(deterministic=True)
    source = read_model(proto)
    first, second = (ir.to_proto(canonicalise(source)).SerializeToString(deterministic=True) for _ in range(2))
    assert proto.SerializeToString(deterministic=True) == before
    assert first == second


def test_canonical_form_of_a_canonical_form() -> None:
    proto, x = fullgrad_net()
    once = canonicalise(read_model(proto))
    twice = canonicalise(read_model(once))
    assert operators(once) == operators(twice)
    np.testing.assert_array_equal(run(ir.to_proto(once), {"x": x})[0], run(ir.to_proto(twice), {"x": x})[0])


def test_ir_versions() -> None:
    assert ir_version_for({"": 18}) == 8
    assert ir_version_for({"": 18, "com.microsoft": 1}) == 8
    assert ir_version_for({"": 22}) == onnx.helper.find_min_ir_version_for([helper.make_opsetid("", 22)])
    assert ir_version_for({"": 18, "ai.onnx.ml": 5}) >= 8


def test_bins_of_a_real_spectrum_are_counted_once() -> None:
    """The standard's inference counts all 16 where the attribute that halves them is left at its default."""
    weights = {"step": np.asarray(8), "length": np.asarray(16)}
    proto = model([node("STFT", "x step  length", "y")], {"x": [2, 128, 1]}, {"y": []}, weights, opset=17)
    proto.graph.node[0].input[:] = ["x", "step", "", "length"]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert dims(canonicalise(read_model(proto)).graph.outputs[0]) == (2, 15, 9, 2)


def test_question_marks_are_no_symbol() -> None:
    """Paddle's exporter calls every unknown size ``?``; read as a symbol, a column and a row would have one length."""
    nodes = [node("ReduceSum", "x one", "c", keepdims=1), node("Mul", "c x", "y")]
    proto = model(nodes, {"x": ["N", "?", "?"]}, {"y": ["N", None, None]}, {"one": np.array([1])})
    assert dims(canonicalise(read_model(proto)).graph.inputs[0]) == ("N", None, None)
