"""Rewritten graphs keep the model's own answers and names, and take and return what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto
from tiny_models import example_one, example_two, fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import InputError, OptionError, TargetError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]

#: float32: what a runtime fuses differs between the plain graph and the rewritten one.
UNCHANGED = 1e-5

NETS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "fullgrad_net": (lambda: fullgrad_net()[0], (3, 1, 4, 4)),
    "example_one": (example_one, (3, 2)),
    "example_two": (example_two, (3, 2)),
    "simple_model": (simple_model, (3, 2)),
    "demo": (lambda: onnx.load(ox.demo_model()), (3, 1, 28, 28)),
}


def rewriter_of(proto: onnx.ModelProto) -> Rewriter:
    return Rewriter(canonicalise(read_model(proto)))


def plain(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "integrated_gradients"])
@pytest.mark.parametrize(("make", "shape"), NETS.values(), ids=NETS)
def test_own_outputs_do_not_change(make: Callable[[], onnx.ModelProto], shape: tuple[int, ...], method: str) -> None:
    proto = make()
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    name = proto.graph.input[0].name
    expected = plain(proto, {name: x})
    e = ox.explain(proto, x, method=method)
    assert list(e.outputs) == [o.name for o in proto.graph.output]
    for found, wanted in zip(e.outputs.values(), expected, strict=True):
        assert np.abs(found - wanted).max() <= UNCHANGED * np.abs(wanted).max()


def test_interface_of_a_rewritten_model() -> None:
    proto, _ = fullgrad_net()
    built = ox.compile(proto, method="gradient").model
    assert [v.name for v in built.graph.inputs] == ["x", "target"]
    assert [v.name for v in built.graph.outputs] == ["logits", "attribution/x", "saliency", "score", "explained_index"]
    written = ir.to_proto(built)
    onnx.checker.check_model(written, full_check=True)
    assert {o.domain for o in written.opset_import} == {""}
    assert {n.domain for n in written.graph.node} == {""}
    assert {p.key: p.value for p in written.metadata_props}["onnxplain.method"] == "gradient"


def clashing() -> onnx.ModelProto:
    """A model that has every name the rewriter would like to use."""
    return model(
        [
            node("MatMul", "target w", "score"),
            node("Relu", "score", "cotangent"),
            node("MatMul", "cotangent v", "gradient/target"),
            node("Identity", "gradient/target", "explained_index"),
        ],
        {"target": ["N", 3]},
        {"explained_index": ["N", 2], "score": ["N", 4]},
        {"w": np.arange(12.0).reshape(3, 4) - 5, "v": np.arange(8.0).reshape(4, 2) - 3},
    )


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "integrated_gradients"])
@pytest.mark.parametrize("target", [1, ox.Target.weights([0.0, 1.0])], ids=["index", "weights"])
def test_names_of_the_model_win(method: str, target: Any) -> None:
    proto = clashing()
    w, v = (onnx.numpy_helper.to_array(t) for t in proto.graph.initializer)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    e = ox.explain(proto, x, method=method, target=target)
    hidden = x @ w
    np.testing.assert_allclose(e.outputs["score"], hidden, rtol=1e-5)
    np.testing.assert_allclose(e.score, (np.maximum(hidden, 0) @ v)[:, 1], rtol=1e-5)
    assert set(e.outputs) == {"explained_index", "score"}
    assert set(e.attributions) == {"target"}
    if method == "gradient":
        np.testing.assert_allclose(e.attributions["target"], ((hidden > 0) * v[:, 1]) @ w.T, rtol=1e-5)


@pytest.mark.parametrize("index", [-1, 0, 1])
def test_target_input_of_the_graph(index: int) -> None:
    """-1 is the largest element; the explained index is returned."""
    proto, x = fullgrad_net()
    built = ox.compile(proto, method="gradient").model
    run = Session(built, threads=1).run({"x": x, "target": np.array([index])})
    largest = int(run["logits"].argmax())
    assert run["explained_index"].tolist() == [largest if index < 0 else index]
    np.testing.assert_allclose(run["score"], run["logits"][:, run["explained_index"][0]], rtol=1e-6)


def test_values_are_found_by_name() -> None:
    rewriter = rewriter_of(fullgrad_net()[0])
    for name in ("x", "w1", "p1", "logits"):
        assert rewriter.value(name).name == name
    with pytest.raises(InputError, match=r"no tensor named 'nothing'.*'x'"):
        rewriter.value("nothing")


def several_outputs() -> onnx.ModelProto:
    proto = model(
        [node("ArgMax", "x", "best", axis=1, keepdims=0), node("Exp", "x", "e"), node("Sin", "x", "s")],
        {"x": ["N", 3]},
        {"best": ["N"], "e": ["N", 3], "s": ["N", 3]},
    )
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def test_outputs_are_chosen_by_name_and_by_type() -> None:
    rewriter = rewriter_of(several_outputs())
    assert rewriter.output_value().name == "e", "the first float one"
    assert rewriter.output_value("s").name == "s"
    rewriter.add_output("extra", rewriter.value("x"))
    assert rewriter.output_value().name == "e"
    with pytest.raises(TargetError, match="no output 'extra'"):
        rewriter.output_value("extra")
    with pytest.raises(TargetError, match="'best' is no float"):
        rewriter.output_value("best")
    with pytest.raises(TargetError, match="no output 'z'; it has 'best', 'e', 's'"):
        rewriter.output_value("z")


def test_model_without_any_float_output() -> None:
    proto = several_outputs()
    del proto.graph.output[1:]
    with pytest.raises(TargetError, match="no output of the model is a float"):
        rewriter_of(proto).output_value()


def test_one_number_for_the_whole_batch_is_refused() -> None:
    """Its gradient by one sample's input says nothing of that sample alone."""
    proto = model([node("ReduceMean", "x", "y", keepdims=0)], {"x": ["N", 3]}, {"y": []})
    with pytest.raises(TargetError, match="one number for the whole batch"):
        ox.compile(proto, method="gradient")


# ----- cutting ----------------------------------------------------------------------------------------


def test_cut_makes_an_input_and_drops_what_computed_it() -> None:
    rewriter = rewriter_of(fullgrad_net()[0])
    new = rewriter.cut("p1")
    assert rewriter.value("p1") is new
    built = rewriter.finish()
    assert [v.name for v in built.graph.inputs] == ["p1"]
    assert [n.op_type for n in built.graph] == ["Conv", "Relu", "Flatten", "Gemm"]
    onnx.checker.check_model(ir.to_proto(built), full_check=True)


def test_cut_keeps_what_another_output_needs() -> None:
    """``h`` feeds the cut tensor and an output of its own: the output is still computed from x."""
    proto = model(
        [node("Exp", "x", "h"), node("Sin", "h", "s"), node("Cos", "s", "y")],
        {"x": ["N", 3]},
        {"y": ["N", 3], "h": ["N", 3]},
    )
    rewriter = rewriter_of(proto)
    rewriter.cut("s")
    built = rewriter.finish()
    assert [v.name for v in built.graph.inputs] == ["x", "s"]
    x, s = np.full((1, 3), 0.5, np.float32), np.full((1, 3), 2.0, np.float32)
    run = Session(built, threads=1).run({"x": x, "s": s})
    np.testing.assert_allclose(run["h"], np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(run["y"], np.cos(s), rtol=1e-6)


def test_cut_at_an_output_of_the_model() -> None:
    """It is returned as it is fed."""
    proto = model([node("Exp", "x", "h"), node("Sin", "h", "y")], {"x": ["N", 3]}, {"y": ["N", 3], "h": ["N", 3]})
    rewriter = rewriter_of(proto)
    rewriter.cut("h")
    built = rewriter.finish()
    assert [v.name for v in built.graph.inputs] == ["h"]
    h = np.full((1, 3), 2.0, np.float32)
    run = Session(built, threads=1).run({"h": h})
    np.testing.assert_allclose(run["y"], np.sin(h), rtol=1e-6)
    np.testing.assert_array_equal(run["h"], h)


def test_the_canonical_model_is_not_touched() -> None:
    canonical = canonicalise(read_model(fullgrad_net()[0]))
    before = ir.to_proto(canonical).SerializeToString()
    rewriter = Rewriter(canonical)
    rewriter.cut("p1")
    seed = rewriter.seed()
    rewriter.backward(seed, [rewriter.value("p1")])
    rewriter.finish({"key": "value"})
    assert ir.to_proto(canonical).SerializeToString() == before


@pytest.mark.parametrize(("make", "shape"), NETS.values(), ids=NETS)
def test_every_methods_model_is_valid_and_complete_by_itself(
    make: Callable[[], onnx.ModelProto], shape: tuple[int, ...]
) -> None:
    """The checker asks more than a runtime: types and shapes of all outputs, every operator known.

    Some methods are for pictures alone and say so; those have to take pictures.
    """
    for name in [m["name"] for m in ox.methods()]:
        try:
            built = ox.compile(make(), method=name).model
        except OptionError as refusal:
            suits = len(shape) == 4 and "there is no attention" not in str(refusal)
            assert not suits, f"{name} refuses a picture"
            continue
        written = ir.to_proto(built)
        onnx.checker.check_model(written, full_check=True)
        assert {n.domain for n in written.graph.node} == {""}, f"{name} needs operators outside the standard"
