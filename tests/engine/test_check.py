"""The pre-flight: everything that stands in the way, at once, by name, and without running anything."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from attention_nets import attention_net
from loop_nets import recurrent_net
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import BlockedGradientError, InputError, ModelFileError, OnnxplainError, TargetError


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
    nodes = [node("Cast", "ids", "f", to=1), node("Cast", "mask", "m", to=1), node("Mul", "f m", "y")]
    proto = model(nodes, {"ids": ["N", 3], "mask": ["N", 3]}, {"y": ["N", 3]})
    for fed in proto.graph.input:
        fed.type.tensor_type.elem_type = TensorProto.INT64
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
    start = time.process_time()
    assert ox.check(proto).ok
    elapsed = time.process_time() - start
    print(f"check of 1,000 nodes: {elapsed:.2f} s")  # noqa: T201
    assert elapsed < 10


# ----- graphs inside nodes ----------------------------------------------------------------------------


def body(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[str]) -> onnx.GraphProto:
    kinds = {"still": TensorProto.BOOL}
    results = [helper.make_tensor_value_info(o, kinds.get(o, TensorProto.FLOAT), None) for o in outputs]
    return helper.make_graph(nodes, "inner", inputs, results)


def obstructed_inside() -> onnx.ModelProto:
    """Two obstacles in a Loop's body, one of them in a branch inside it, and one in front of the Loop."""
    mine = helper.make_node("Relu", ["x"], ["h"], name="mine", domain="com.example")
    second = helper.make_node("Relu", ["s"], ["r"], name="second", domain="com.example")
    third = helper.make_node("Gelu", ["r"], ["t"], name="third", domain="com.example")
    then, other = body([third], [], ["t"]), body([node("Exp", "r", "t")], [], ["t"])
    steps = body(
        [second, node("If", "c", "u", then_branch=then, else_branch=other), node("Identity", "going", "still")],
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
        ],
        ["still", "u"],
    )
    proto = model(
        [mine, node("Loop", "three - h", "l", body=steps), node("Exp", "l", "y")],
        {"x": ["N", 2]}, {"y": ["N", 2]}, {"three": np.array(3)}, domains=["com.example"],
    )  # fmt: skip
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return proto


def test_obstacles_inside_of_loops_and_branches_are_all_listed() -> None:
    report = ox.check(obstructed_inside())
    assert not report.ok
    assert [(o.node, o.operator) for o in report.obstacles] == [
        ("third", "com.example::Gelu"),
        ("second", "com.example::Relu"),
        ("mine", "com.example::Relu"),
    ]
    assert all(o.reason and o.remedy for o in report.obstacles)
    status = {o.operator: o.gradient for o in report.operators}
    assert status == {"com.example::Relu": False, "Loop": False, "Exp": True}


# ----- what is blocked: everywhere, in part, for one of several ---------------------------------------


def ends_for_one() -> onnx.ModelProto:
    """y = x round(z): all that leads from z is blocked."""
    return model([node("Round", "z", "r"), node("Mul", "x r", "y")], {"x": ["N", 2], "z": ["N", 2]}, {"y": ["N", 2]})


FEEDS = {"x": np.array([[1.2, 2.7]], np.float32), "z": np.array([[0.6, 3.3]], np.float32)}
ONES = {"y": np.ones((1, 2), np.float32)}


def test_blocked_everywhere_is_an_error_of_all() -> None:
    proto = ends_for_one()
    said = r"no differentiable path leads from 'z' to the target: .*'r_node' \(Round\)"
    with pytest.raises(BlockedGradientError, match=said):
        ox.vjp(proto, FEEDS, ONES, wrt=["z"])
    with pytest.raises(BlockedGradientError, match=said):
        ox.explain(proto, FEEDS, method="gradient", wrt=["z"])
    report = ox.check(proto, wrt=["z"])
    assert not report.ok
    assert "blocked at 'r_node' (Round)" in report.problem


def test_blocked_for_one_of_several_is_told_by_all() -> None:
    proto = ends_for_one()
    found = ox.vjp(proto, FEEDS, ONES)
    np.testing.assert_allclose(found["x"], np.rint(FEEDS["z"]))
    np.testing.assert_array_equal(found["z"], 0.0)
    e = ox.explain(proto, FEEDS, method="gradient", target=0)
    np.testing.assert_array_equal(e.attributions["z"], 0.0)
    (note,) = (n for n in e.notes if n.startswith("its map is zero"))
    assert "leads from 'z' to the target: the gradient is blocked at 'r_node' (Round)" in note
    report = ox.check(proto)
    assert report.ok
    listed = tuple(f"{b.node} ({b.operator}): {b.remedy}" for b in report.blocked)
    assert len(listed) == 1
    assert found.blocked == e.blocked == listed


def test_what_does_not_depend_on_an_input_is_told_apart_from_what_is_blocked() -> None:
    proto = model(
        [node("Exp", "x", "y"), node("Exp", "z", "w")], {"x": ["N", 2], "z": ["N", 2]}, {"y": ["N", 2], "w": ["N", 2]}
    )
    found = ox.vjp(proto, FEEDS, ONES)
    np.testing.assert_array_equal(found["z"], 0.0)
    assert found.blocked == ()
    e = ox.explain(proto, FEEDS, method="gradient", output="y", target=0)
    assert e.blocked == ()
    assert any("the target does not depend on 'z'" in note for note in e.notes)


# ----- samples: which axis counts them, and whether they see each other -------------------------------


def pooled() -> onnx.ModelProto:
    """A mean over the first axis: the answer's samples are the second one."""
    nodes = [node("ReduceMean", "x axis", "y", keepdims=0)]
    return model(nodes, {"x": ["T", "N", 3]}, {"y": ["N", 3]}, {"axis": np.array([0])})


def over_samples() -> onnx.ModelProto:
    nodes = [node("Softmax", "x", "s", axis=0), node("Exp", "s", "e"), node("Softmax", "e", "y", axis=0)]
    return model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]})


MIXED = {
    "loop": recurrent_net(("Loop",), time_major=True),
    "scan": recurrent_net(("Scan",), time_major=True),
    "attention": attention_net(),
    "softmax": over_samples(),
    "pooled": pooled(),
}


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "occlusion"])
@pytest.mark.parametrize("name", MIXED)
def test_what_refuses_all_methods_is_told_with_and_without_one(name: str, method: str) -> None:
    with pytest.raises(OnnxplainError) as refused:
        ox.compile(MIXED[name], method=method, providers=["reference"])
    for asked in (None, method):
        report = ox.check(MIXED[name], method=asked)
        assert not report.ok
        said = [f"node '{o.node}' ({o.operator}): {o.reason}; {o.remedy}" for o in report.obstacles]
        assert str(refused.value) in [*said, report.problem]


def test_all_places_where_samples_see_each_other_are_told_at_once() -> None:
    assert [o.node for o in ox.check(over_samples()).obstacles] == ["s_node", "y_node"]


def test_terms_whose_samples_cannot_be_told_stand_in_the_way_of_some_methods() -> None:
    """How often the Loop runs is not known, so that the steps might be three as well as the samples."""
    proto = recurrent_net(("Loop",), 3)
    with pytest.raises(OnnxplainError) as refused:
        ox.compile(proto, method="fullgrad", providers=["reference"])
    report = ox.check(proto)
    assert report.ok
    assert str(refused.value) in [f"node '{o.node}' ({o.operator}): {o.reason}; {o.remedy}" for o in report.incomplete]
    asked = ox.check(proto, method="fullgrad")
    assert not asked.ok
    assert (asked.obstacles, asked.incomplete) == (report.incomplete, [])
    assert ox.check(proto, method="gradient").ok
    ox.compile(proto, method="gradient", providers=["reference"])


def test_samples_that_go_one_by_one_are_no_obstacle_and_told() -> None:
    """An added column, where samples stand along the second axis and no inference of shapes tells it."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0]), node("Shape", "t", "shape"), node("Max", "shape one", "sizes"),
        node("Reshape", "t sizes", "hidden"), node("Add", "hidden column", "moved"), node("Shape", "x", "back"),
        node("Transpose", "moved", "again", perm=[1, 0]), node("Reshape", "again back", "y"),
    ]  # fmt: skip
    column = {"one": np.array([1, 1]), "column": np.arange(4.0)[:, None]}
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, column)
    for asked in (None, "fullgrad"):
        report = ox.check(proto, method=asked)
        assert report.ok and not report.incomplete
        assert "cannot be told, and a file takes them all at once" in report.notes[0]
    assert ox.check(fullgrad_net()[0]).notes == []


# ----- asked about one method -------------------------------------------------------------------------


@pytest.mark.usefixtures("det_without_rule")
def test_a_method_that_only_runs_the_model_needs_no_rules() -> None:
    """Det has a kernel and no rule here."""
    proto = model([node("Det", "x", "d"), node("Sin", "d", "y")], {"x": ["N", 2, 2]}, {"y": ["N"]})
    assert not ox.check(proto).ok
    assert not ox.check(proto, method="integrated_gradients").ok
    report = ox.check(proto, method="occlusion")
    assert (report.ok, report.obstacles, report.problem, report.method) == (True, [], "", "occlusion")
    assert not all(o.gradient for o in report.operators)


def test_what_a_method_alone_refuses() -> None:
    """Attention methods need an attention."""
    proto = fullgrad_net()[0]
    report = ox.check(proto, method="attention_rollout")
    assert not report.ok
    assert "there is no attention" in report.problem
    assert ox.check(proto).ok


def test_nothing_is_run_for_a_method_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("check opened a session")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    assert ox.check(tokens(), method="integrated_gradients").ok
    assert ox.check(tokens(), method="fullgrad").ok
