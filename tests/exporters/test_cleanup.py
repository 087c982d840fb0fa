"""Publishing a graph: versions, names, axes and metadata, on graphs written down here."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from onnxplain.engine.errors import ExportError
from onnxplain.exporters import cleanup
from onnxplain.exporters.report import Folded

PRIVATE = "/home/someone/model.py"


def _model(domain: str = "", opset: int = 18) -> ir.Model:
    """y = Relu(x), z = If(c) { y + 1 } with private texts wherever a graph can hold one."""
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float32, shape=ir.Shape(["s7", 4]))
    c = ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    relu = ir.node("Relu", [x], name="relu", domain=domain)
    relu.outputs[0].name = "y"
    relu.outputs[0].shape = ir.Shape(["2*s7", 4])
    one = ir.Value(name="one", const_value=ir.tensor([1.0], name="one"))
    add = ir.node("Add", [relu.outputs[0], one], name="inner")
    branch = ir.Graph([], [add.outputs[0]], nodes=[add], initializers=[one], name="branch", doc_string=PRIVATE)
    choose = ir.node("If", [c], {"then_branch": branch, "else_branch": _same(relu.outputs[0])}, name="if")
    choose.outputs[0].name = "z"
    graph = ir.Graph(
        [x, c], [relu.outputs[0], choose.outputs[0]], nodes=[relu, choose], name="g", opset_imports={"": opset}
    )
    model = ir.Model(graph, ir_version=8, doc_string=PRIVATE)
    model.metadata_props["source"] = PRIVATE
    graph.metadata_props["source"] = PRIVATE
    for node in (relu, add, choose):
        node.doc_string = PRIVATE
        node.metadata_props.update({"trace": PRIVATE, "layer": "relu1"})
    x.metadata_props["source"] = PRIVATE
    one.metadata_props["source"] = PRIVATE
    return model


def _same(value: ir.Value) -> ir.Graph:
    node = ir.node("Identity", [value])
    return ir.Graph([], [node.outputs[0]], nodes=[node], name="else")


def test_only_the_kept_metadata_stays_in_any_graph() -> None:
    model = _model()
    assert PRIVATE.encode() in ir.to_proto(model).SerializeToString()
    cleanup.strip_private(model, ("layer",))
    assert PRIVATE.encode() not in ir.to_proto(model).SerializeToString()
    kept = {node.op_type: dict(node.metadata_props) for node in model.graph.all_nodes()}
    assert kept == {"Relu": {"layer": "relu1"}, "If": {"layer": "relu1"}, "Add": {"layer": "relu1"}, "Identity": {}}


def test_names_can_be_swapped_and_others_make_way() -> None:
    model = _model()
    x, c = model.graph.inputs
    cleanup.rename(model, [x, c], ["c", "x"])
    assert (x.name, c.name) == ("c", "x")
    cleanup.rename(model, [model.graph.outputs[1]], ["y"])  # the other output has that name
    names = [value.name for value in model.graph.outputs]
    assert names[1] == "y"
    assert names[0] not in (None, "y")


def test_an_axis_is_renamed_inside_expressions_too() -> None:
    model = _model()
    assert cleanup.batch_symbol(model) == "s7"
    cleanup.rename_axis(model, "s7", "batch")
    assert cleanup.describe(model.graph.inputs[0]).shape == ("batch", 4)
    assert cleanup.describe(model.graph.outputs[0]).shape == ("2*batch", 4)


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 10), (22, 10), (23, 11), (25, 13)])
def test_versions_are_written(opset: int, ir_version: int) -> None:
    model = _model(opset=opset)
    model.opset_imports["unused.domain"] = 1
    cleanup.set_versions(model, opset)
    assert model.ir_version == ir_version
    assert dict(model.opset_imports) == {"": opset}


def test_a_graph_of_another_opset_or_domain_is_refused() -> None:
    with pytest.raises(ExportError, match="wrote opset 18, not 20"):
        cleanup.set_versions(_model(), 20)
    with pytest.raises(ExportError, match=r"does not define \(com\.example\)"):
        cleanup.set_versions(_model(domain="com.example"), 18)


def test_counts_and_folded_layers() -> None:
    assert cleanup.count_operators(_model()) == {"Relu": 1, "If": 1, "Add": 1, "Identity": 1}
    before = Counter({"BatchNormalization": 2, "Conv": 2, "Shape": 5})
    after = Counter({"Conv": 2})
    assert cleanup.folded(before, after) == (Folded("BatchNormalization", 2, 0),)
