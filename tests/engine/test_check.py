"""The pre-flight: everything that stands in the way, at once, by name, and without running anything."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import InputError, ModelFileError, TargetError


def test_a_model_that_can_be_explained() -> None:
    report = ox.check(fullgrad_net()[0])
    assert report.ok
    assert (report.output, report.wrt, report.problem, report.obstacles, report.blocked) == (
        "logits",
        ("x",),
        "",
        [],
        [],
    )
    assert {o.operator: o.count for o in report.operators} == {
        "Conv": 2,
        "Flatten": 1,
        "Gemm": 1,
        "MaxPool": 1,
        "Relu": 2,
    }
    assert all(o.gradient and o.bias for o in report.operators)
    assert report.dynamic == {"x": ["N"]}
    assert report.opset == (18, 18)
    assert report.nodes == 7
    assert not report.quantised
    assert report.head == ""


def obstructed() -> onnx.ModelProto:
    """Two operators without a rule on the way, one of them of a domain of its own, and one beside it."""
    mine = helper.make_node("Relu", ["x"], ["h"], name="mine", domain="com.example")
    return model(
        [mine, node("Exp", "h", "e"), node("Det", "e", "d"), node("Sin", "d", "y"), node("Det", "x", "beside")],
        {"x": ["N", 2, 2]},
        {"y": ["N"], "beside": ["N"]},
        domains=["com.example"],
    )


@pytest.mark.usefixtures("det_without_rule")
def test_all_obstacles_at_once_with_names_reasons_and_remedies() -> None:
    report = ox.check(obstructed())
    assert not report.ok
    assert {(o.node, o.operator) for o in report.obstacles} == {("mine", "com.example::Relu"), ("d_node", "Det")}
    assert all(o.reason and o.remedy for o in report.obstacles)
    status = {o.operator: o.gradient for o in report.operators}
    assert status == {"com.example::Relu": False, "Exp": True, "Det": False, "Sin": True}


@pytest.mark.usefixtures("det_without_rule")
def test_wrt_and_target_move_the_ends_of_the_path() -> None:
    assert [o.node for o in ox.check(obstructed(), wrt=["e"]).obstacles] == ["d_node"]
    assert ox.check(obstructed(), wrt=["d"]).ok
    assert [o.node for o in ox.check(obstructed(), target="beside").obstacles] == ["beside_node"]


def test_blocked_everywhere_is_a_problem_of_the_whole() -> None:
    report = ox.check(model([node("Round", "x", "r"), node("Exp", "r", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}))
    assert not report.ok
    assert "blocked at 'r_node' (Round)" in report.problem


def test_blocked_in_part_is_reported_and_no_obstacle() -> None:
    proto = model([node("Round", "x", "r"), node("Mul", "x r", "y")], {"x": ["N", 2]}, {"y": ["N", 2]})
    report = ox.check(proto)
    assert report.ok
    assert [(b.node, b.operator) for b in report.blocked] == [("r_node", "Round")]
    assert report.blocked[0].remedy


def test_integer_inputs_start_at_the_embedding() -> None:
    report = ox.check(tokens())
    assert report.ok
    assert report.wrt == ("embedded",)


def tokens() -> onnx.ModelProto:
    proto = model(
        [
            node("Gather", "table ids", "embedded"),
            node("ReduceMean", "embedded axes", "m", keepdims=0),
            node("MatMul", "m w", "y"),
        ],
        {"ids": ["N", "T"]},
        {"y": ["N", 2]},
        {"table": np.eye(5, 3), "axes": np.array([1]), "w": np.ones((3, 2))},
    )  # fmt: skip
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def test_nothing_to_attribute_to() -> None:
    proto = model([node("Cast", "ids", "f", to=1), node("Exp", "f", "y")], {"ids": ["N", 3]}, {"y": ["N", 3]})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    report = ox.check(proto)
    assert not report.ok
    assert "no float input and no embedding" in report.problem


def test_trailing_activation_opset_and_quantisation_are_told() -> None:
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Softmax", "d", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"s": np.array(0.1), "z": np.array(0, np.int8)}, opset=13)
    report = ox.check(proto)
    assert report.ok
    assert report.quantised
    assert report.head == "Softmax"
    assert report.opset == (13, 18)


def test_report_is_plain_data() -> None:
    text = json.dumps(ox.check(obstructed()).to_dict())
    assert json.loads(text)["obstacles"][0]["node"] in ("mine", "d_node")


@pytest.mark.parametrize(
    ("options", "error"), [({"target": "none"}, TargetError), ({"wrt": ["none"]}, InputError)], ids=["target", "wrt"]
)
def test_names_that_do_not_exist(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="'none'"):
        ox.check(fullgrad_net()[0], **options)


def test_no_model() -> None:
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        ox.check(b"nothing of the kind")


def test_a_loaded_model_may_be_given() -> None:
    assert ox.check(ox.load(fullgrad_net()[0])).ok


def test_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("check opened a session")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    assert ox.check(fullgrad_net()[0]).ok


def test_a_thousand_nodes_take_seconds_at_most() -> None:
    """The figure is printed (pytest -rP); the bound only catches what grows with the square of the size."""
    nodes = [node("Relu" if i % 2 else "Sigmoid", f"h{i}", f"h{i + 1}") for i in range(1000)]
    proto = model(nodes, {"h0": ["N", 4]}, {"h1000": ["N", 4]})
    start = time.perf_counter()
    assert ox.check(proto).ok
    elapsed = time.perf_counter() - start
    print(f"check of 1,000 nodes: {elapsed:.2f} s")  # noqa: T201
    assert elapsed < 10
