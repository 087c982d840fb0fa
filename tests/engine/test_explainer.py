"""One model, one method, many calls: inputs, targets, batches, refusals and remarks. Answers by hand where possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tiny_models import fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import InputError, ResidualError, SessionError, TargetError, UnsupportedNodeError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)

#: Methods that exist in every state of the project.
CORE = ("gradient", "absolute_gradient", "input_x_gradient", "fullgrad", "integrated_gradients")


def integer(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The same model with these inputs of type int64."""
    for value in proto.graph.input:
        if value.name in names:
            value.type.tensor_type.elem_type = TensorProto.INT64
    return proto


# ----- several inputs ---------------------------------------------------------------------------------


def product() -> onnx.ModelProto:
    """y = sum_i a_i^2 b_i, with a constant input k that is no part of the batch."""
    nodes = [
        node("Mul", "a a", "s"), node("Mul", "s b", "p"), node("Mul", "p k", "q"),
        node("ReduceSum", "q axes", "y", keepdims=1),
    ]  # fmt: skip
    return model(nodes, {"a": ["N", 3], "b": ["N", 3], "k": [1]}, {"y": ["N", 1]}, {"axes": np.array([1])})


A, B = (RNG.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
K = np.array([2.0], np.float32)


def test_several_inputs() -> None:
    e = ox.explain(product(), {"a": A, "b": B, "k": K}, method="gradient")
    assert list(e.attributions) == ["a", "b"], "k is one for all samples, and has no row per sample"
    np.testing.assert_allclose(e.attributions["a"], 4 * A * B, rtol=1e-5)
    np.testing.assert_allclose(e.attributions["b"], 2 * A * A, rtol=1e-5)
    assert e.saliency is None


def test_several_inputs_are_complete_together() -> None:
    e = ox.explain(product(), {"a": A, "b": B, "k": K}, method="fullgrad")
    assert e.residual is not None
    assert e.residual.relative.max() < 1e-5
    e = ox.explain(product(), {"a": A, "b": B, "k": K}, method="integrated_gradients", baseline={"b": 0.5})
    assert e.residual is not None
    assert e.residual.relative.max() < 1e-5
    assert e.baseline_score == pytest.approx(np.zeros(4))


def test_chosen_among_several_inputs() -> None:
    e = ox.explain(product(), {"a": A, "b": B, "k": K}, method="fullgrad", wrt="b")
    assert list(e.attributions) == ["b"]
    np.testing.assert_allclose(e.attributions["b"].sum(axis=1), e.score, rtol=1e-5, err_msg="linear in b")
    assert e.saliency is not None


def test_chunks_cut_the_batch_and_leave_the_rest_whole() -> None:
    whole = ox.explain(product(), {"a": A, "b": B, "k": K}, method="gradient")
    cut = ox.explain(product(), {"a": A, "b": B, "k": K}, method="gradient", memory_mib=1e-5)
    np.testing.assert_allclose(cut.attributions["a"], whole.attributions["a"], rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"a": A, "b": B}, "input 'k' was not given"),
        ({"a": A, "b": B, "k": K, "c": K}, "no input 'c'"),
        ({"a": A, "b": B[:2], "k": K}, "different numbers of samples"),
        ({"a": A[:, :2], "b": B, "k": K}, "'a'"),
        ({"a": A[0], "b": B[0], "k": K}, "'a'"),
        (A, r"3 inputs \(a, b, k\); give a dictionary"),
    ],
    ids=["missing", "unknown", "lengths", "size", "rank", "array"],
)
def test_inputs_that_do_not_fit(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ox.explain(product(), x, method="gradient")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    x = np.array([[1.0, bad]], np.float32)
    with pytest.raises(InputError, match=r"NaN|infin"):
        ox.explain(simple_model(), x, method="gradient")


def test_overflow_inside_the_model_is_an_error_and_no_map() -> None:
    proto = model([node("Exp", "x", "y")], {"x": ["N", 2]}, {"y": ["N", 2]})
    with pytest.raises(SessionError, match="not finite for sample 1"):
        ox.explain(proto, np.array([[0.0, 1.0], [500.0, 1.0]], np.float32), method="gradient")


# ----- integer inputs ---------------------------------------------------------------------------------

TABLE = RNG.normal(size=(7, 4))
V = RNG.normal(size=(4, 2))
IDS = np.array([[1, 2, 3], [6, 0, 0]])
MASK = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], np.float32)


def text_model() -> onnx.ModelProto:
    """tanh(embedding) averaged over the tokens that count, then linear."""
    nodes = [
        node("Gather", "table ids", "embedded"), node("Tanh", "embedded", "t"), node("Unsqueeze", "mask two", "m"),
        node("Mul", "t m", "kept"), node("ReduceSum", "kept one", "summed", keepdims=0), node("MatMul", "summed v", "y"),
    ]  # fmt: skip
    weights = {"table": TABLE, "v": V, "one": np.array([1]), "two": np.array([2])}
    return integer(model(nodes, {"ids": ["N", "T"], "mask": ["N", "T"]}, {"y": ["N", 2]}, weights), "ids")


FEEDS = {"ids": IDS, "mask": MASK}


def test_embedding_gradient_by_hand() -> None:
    e = ox.explain(text_model(), FEEDS, method="gradient", target=1, wrt="embedded")
    x = TABLE[IDS]
    np.testing.assert_allclose(e.attributions["embedded"], (1 - np.tanh(x) ** 2) * MASK[..., None] * V[:, 1], rtol=1e-5)
    assert e.saliency is not None
    assert e.saliency.shape == (2, 3), "one value per token"


def integer_model() -> onnx.ModelProto:
    """The same with an integer mask: nothing float is fed."""
    proto = text_model()
    proto.graph.node.insert(0, node("Cast", "mask_ids", "mask", to=TensorProto.FLOAT))
    proto.graph.input[1].name = "mask_ids"
    return integer(proto, "mask_ids")


INTEGER_FEEDS = {"ids": IDS, "mask_ids": MASK.astype(np.int64)}


@pytest.mark.parametrize("method", CORE)
def test_integer_inputs_start_at_the_embedding(method: str) -> None:
    e = ox.explain(integer_model(), INTEGER_FEEDS, method=method)
    assert list(e.attributions) == ["embedded"]
    assert e.attributions["embedded"].shape == (2, 3, 4)
    assert e.saliency is not None
    assert e.saliency.shape == (2, 3)
    assert not e.attributions["embedded"][1, 2].any(), "the token that is masked counts for nothing"
    if e.residual is not None:
        assert e.residual.relative.max() < 1e-4


def test_integrated_gradients_of_an_embedding_by_hand() -> None:
    """The function adds up over tokens and dimensions, so IG is each element's own change: tanh(x) v."""
    e = ox.explain(integer_model(), INTEGER_FEEDS, method="integrated_gradients", target=0)
    expected = np.tanh(TABLE[IDS]) * MASK[..., None] * V[:, 0]
    np.testing.assert_allclose(e.attributions["embedded"], expected, rtol=1e-5, atol=1e-7)


def test_embedding_in_chunks_and_one_by_one() -> None:
    whole = ox.explain(integer_model(), INTEGER_FEEDS, method="integrated_gradients", steps=8)
    chunked = ox.explain(integer_model(), INTEGER_FEEDS, method="integrated_gradients", steps=8, memory_mib=1e-5)
    np.testing.assert_allclose(chunked.attributions["embedded"], whole.attributions["embedded"], rtol=1e-5, atol=1e-7)


def test_embedding_of_a_model_with_a_batch_of_one() -> None:
    proto = integer_model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    free = ox.explain(integer_model(), INTEGER_FEEDS, method="integrated_gradients", steps=8)
    fixed = ox.explain(proto, INTEGER_FEEDS, method="integrated_gradients", steps=8)
    np.testing.assert_allclose(fixed.attributions["embedded"], free.attributions["embedded"], rtol=1e-5, atol=1e-7)


def test_nothing_to_attribute_to() -> None:
    nodes = [node("Cast", "ids", "f", to=1), node("Cast", "mask", "m", to=1), node("Mul", "f m", "y")]
    proto = integer(model(nodes, {"ids": ["N", 3], "mask": ["N", 3]}, {"y": ["N", 3]}), "ids")
    integer(proto, "mask")
    with pytest.raises(InputError, match=r"no float input and no embedding lookup.*wrt="):
        ox.compile(proto)


# ----- inner tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CORE)
def test_inner_tensor(method: str) -> None:
    """With respect to p1 the net is a smaller net: the same answer as for that one alone."""
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, x / 2])
    e = ox.explain(proto, batch, method=method, target=1, wrt="p1")
    rest = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(proto)).extract_model(["p1"], ["logits"])
    p1 = inner_values(proto, batch, "p1")
    alone = ox.explain(rest, p1, method=method, target=1)
    np.testing.assert_allclose(e.attributions["p1"], alone.attributions["p1"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(e.saliency, alone.saliency, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(e.score, alone.score, rtol=1e-6)
    assert e.residual is None or e.residual.ok


def inner_values(proto: onnx.ModelProto, x: Array, name: str) -> Array:
    import onnxruntime

    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {proto.graph.input[0].name: x})[0])


@pytest.mark.usefixtures("det_without_rule")
def test_what_lies_before_an_inner_tensor_needs_no_rule() -> None:
    nodes = [node("Det", "x", "d"), node("Exp", "d", "y")]
    proto = model(nodes, {"x": ["N", 2, 2]}, {"y": ["N"]})
    x = np.stack([np.eye(2), 2 * np.eye(2)]).astype(np.float32)
    with pytest.raises(UnsupportedNodeError, match="Det"):
        ox.compile(proto, method="gradient")
    for method, expected in [("gradient", np.exp([1.0, 4.0])), ("integrated_gradients", np.expm1([1.0, 4.0]))]:
        e = ox.explain(proto, x, method=method, wrt="d")
        np.testing.assert_allclose(e.attributions["d"], expected, rtol=1e-5)


def test_inner_tensor_that_is_an_output_as_well() -> None:
    proto = model([node("Exp", "x", "h"), node("Sin", "h", "y")], {"x": ["N", 2]}, {"y": ["N", 2], "h": ["N", 2]})
    x = np.array([[0.5, 0.1]], np.float32)
    for method in CORE:
        e = ox.explain(proto, x, method=method, target=0, wrt="h")
        np.testing.assert_allclose(e.outputs["h"], np.exp(x), rtol=1e-6)
        assert e.attributions["h"].shape == (1, 2)


@pytest.mark.parametrize(
    ("wrt", "message"),
    [
        ("w1", "one tensor for the whole batch.*use vjp"),
        ("nothing", "no tensor named 'nothing'"),
        ([], "wrt names no tensor"),
    ],
)
def test_what_cannot_be_attributed_to(wrt: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ox.compile(fullgrad_net()[0], method="gradient", wrt=wrt)
    with pytest.raises(InputError, match="'ids' is no float tensor"):
        ox.compile(integer_model(), wrt="ids")


# ----- targets ----------------------------------------------------------------------------------------


def table_model(shape: list[Any]) -> tuple[onnx.ModelProto, Array]:
    """Linear, 3 inputs to an output of any shape; and the matrix [3, size]."""
    size = int(np.prod(shape))
    w = np.random.default_rng(size).normal(size=(3, size))
    proto = model(
        [node("MatMul", "x w", "z"), node("Reshape", "z shape", "y")], {"x": ["N", 3]}, {"y": ["N", *shape]},
        {"w": w, "shape": np.array([-1, *shape])},
    )  # fmt: skip
    return proto, w


@pytest.mark.parametrize("shape", [[], [1], [5], [2, 3], [2, 3, 2]], ids=str)
@pytest.mark.parametrize("known", [True, False], ids=["static", "dynamic"])
def test_targets_of_outputs_of_any_rank(shape: list[int], known: bool) -> None:
    proto, w = table_model(shape)
    if not known:
        for dim in proto.graph.output[0].type.tensor_type.shape.dim[1:]:
            dim.dim_param = "d"
        proto.graph.initializer.pop()
        proto.graph.input.append(onnx.helper.make_tensor_value_info("shape", TensorProto.INT64, [1 + len(shape)]))
    x = A
    feeds = {"x": x} if known else {"x": x, "shape": np.array([-1, *shape])}
    explainer = ox.compile(proto, method="gradient")
    largest = (x @ w).argmax(axis=1)
    e = explainer(feeds)
    assert e.target is not None
    assert e.target.tolist() == largest.tolist()
    np.testing.assert_allclose(e.score, (x @ w).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(e.attributions["x"], w.T[largest], rtol=1e-5)
    assert e.target_index(1) == tuple(np.unravel_index(largest[1], shape or [1]))
    size = w.shape[1]
    for target, flat in [(size - 1, [size - 1] * 4), (np.arange(4) % size, np.arange(4) % size)]:
        np.testing.assert_allclose(explainer(feeds, target=target).attributions["x"], w.T[flat], rtol=1e-5)
    with pytest.raises(TargetError, match="out of range"):
        explainer(feeds, target=size)
    if len(shape) > 1:
        index = tuple(n - 1 for n in shape)
        np.testing.assert_allclose(explainer(feeds, target=index).attributions["x"], w.T[[size - 1] * 4], rtol=1e-5)
        rows = [tuple(i % n for n in shape) for i in range(4)]
        flat = [int(np.ravel_multi_index(row, shape)) for row in rows]
        np.testing.assert_allclose(explainer(feeds, target=rows).attributions["x"], w.T[flat], rtol=1e-5)


@pytest.mark.parametrize("shape", [[], [1], [5], [2, 3]], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_weights(shape: list[int], per_sample: bool) -> None:
    proto, w = table_model(shape)
    weights = RNG.normal(size=(*([4] if per_sample else []), *shape))
    e = ox.explain(proto, A, method="gradient", target=ox.Target.weights(weights))
    rows = np.broadcast_to(weights, (4, *shape)).reshape(4, -1)
    np.testing.assert_allclose(e.score, ((A @ w) * rows).sum(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e.attributions["x"], rows @ w.T, rtol=1e-4, atol=1e-5)
    assert e.target is None


@pytest.mark.parametrize("method", CORE)
def test_margin_of_two_given_classes(method: str) -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method=method, target=ox.Target.margin(1, 0, 2))
    logits = e.outputs["logits"].astype(np.float64)
    assert e.score == pytest.approx(logits[:, 1] - logits[:, 0], rel=1e-5)
    if e.residual is not None:
        assert e.residual.relative.max() < 0.02, "the default tolerance of a path integral is 1e-2"


@pytest.mark.parametrize(
    "weights",
    [np.ones(3), np.ones((2, 2)), np.array([np.nan, 1.0]), np.array(["a", "b"])],
    ids=["size", "rows", "nan", "text"],
)
def test_weights_that_do_not_fit(weights: Array) -> None:
    with pytest.raises(TargetError, match="weights"):
        ox.explain(*fullgrad_net(), method="gradient", target=ox.Target.weights(weights))


def test_one_target_per_sample() -> None:
    x = np.array([[5.0, 3.0], [1.0, 3.0], [5.0, 3.0]], np.float32)
    e = ox.explain(simple_model(), x, method="input_x_gradient", target=[0, 1, 1])
    np.testing.assert_allclose(e.attributions["x"], [[5.5, -3.3], [-1.0, 3.0], [7.0, -4.2]], rtol=1e-5)
    with pytest.raises(TargetError, match="2 targets for 3 samples"):
        ox.explain(simple_model(), x, method="gradient", target=[0, 1])


def several_outputs() -> onnx.ModelProto:
    nodes = [node("Exp", "x", "e"), node("MatMul", "e w", "s")]
    return model(nodes, {"x": ["N", 2]}, {"e": ["N", 2], "s": ["N", "K"]}, {"w": np.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize("target", [2, (2,), ox.Target.weights([0.0, 0.0, 1.0])], ids=["int", "tuple", "weights"])
def test_output_by_name(target: Any) -> None:
    """Shapes and ranges are those of the output that is explained, not of the first one."""
    x = np.array([[0.0, 1.0]], np.float32)
    e = ox.explain(several_outputs(), x, method="gradient", output="s", target=target)
    assert e.output == "s"
    assert set(e.outputs) == {"e", "s"}
    np.testing.assert_allclose(e.attributions["x"], np.exp(x) * [2.0, 5.0], rtol=1e-5)
    with pytest.raises(TargetError, match="no output 'z'"):
        ox.compile(several_outputs(), output="z")
    with pytest.raises(TargetError, match="out of range"):
        ox.explain(several_outputs(), x, method="gradient", target=2)


# ----- batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("size", [1, 4])
def test_fixed_batch(method: str, size: int) -> None:
    """A model that takes exactly so many samples explains any multiple of them."""
    proto, x = fullgrad_net()
    batch = np.concatenate([x * s for s in (1.0, -1.0, 0.5, 2.0)])
    free = ox.explain(proto, batch, method=method)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    fixed = ox.explain(proto, batch, method=method)
    np.testing.assert_allclose(fixed.attributions["x"], free.attributions["x"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fixed.saliency, free.saliency, rtol=1e-4, atol=1e-4)
    if size == 4:
        with pytest.raises(InputError, match="batches of exactly 4, and 3 samples"):
            ox.explain(proto, batch[:3], method=method)


def test_many_calls_of_one_explainer() -> None:
    proto, x = fullgrad_net()
    explainer = ox.compile(proto, method="fullgrad")
    for count in (1, 3, 2):
        batch = np.repeat(x, count, axis=0)
        e = explainer(batch, target=1)
        assert len(e) == count
        np.testing.assert_allclose(e.map(count - 1), ox.explain(proto, x, method="fullgrad", target=1).map(), atol=1e-5)
    assert explainer(x, target=0).score == pytest.approx(-4.034375, rel=1e-5)
    assert explainer(x, target=ox.Target.weights([0.0, 1.0])).score == pytest.approx(7.946875, rel=1e-5)


# ----- what the result says ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", CORE)
def test_the_same_call_gives_the_same_bytes(method: str) -> None:
    proto, x = fullgrad_net()
    first, second = (ox.explain(proto, x, method=method, seed=3, threads=1) for _ in range(2))
    assert first.attributions["x"].tobytes() == second.attributions["x"].tobytes()
    assert first.saliency is not None
    assert second.saliency is not None
    assert first.saliency.tobytes() == second.saliency.tobytes()
    assert first.provenance == second.provenance


@pytest.mark.parametrize("method", CORE)
def test_float64_on_the_reference_evaluator(method: str) -> None:
    proto, x = fullgrad_net(TensorProto.DOUBLE)
    options: dict[str, Any] = {"steps": 10} if method == "integrated_gradients" else {}
    exact = ox.explain(proto, x, method=method, target=1, providers="reference", **options)
    single, x32 = fullgrad_net()
    fast = ox.explain(single, x32, method=method, target=1, **options)
    assert exact.attributions["x"].dtype == np.float64
    assert fast.attributions["x"].dtype == np.float32
    np.testing.assert_allclose(fast.attributions["x"], exact.attributions["x"], rtol=1e-4, atol=1e-5)
    assert exact.provenance["providers"] == ["reference"]
    assert exact.provenance["dtype"] == "double"
    if method == "fullgrad":
        assert exact.residual is not None
        assert exact.residual.relative.max() < 1e-12


def test_zero_everywhere_is_remarked_on() -> None:
    """Sample 1 lies where the ReLU is closed: a map of zeros is not shown without a word."""
    proto = model(
        [node("Relu", "x", "r"), node("MatMul", "r w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1))}
    )
    e = ox.explain(proto, np.array([[1.0, 2.0], [-1.0, -2.0]], np.float32), method="gradient")
    assert any("zero everywhere for sample(s) [1]" in note for note in e.notes)
    assert not ox.explain(proto, np.ones((1, 2), np.float32), method="gradient").notes


def test_a_blocked_way_is_remarked_on() -> None:
    proto = model([node("Round", "x", "r"), node("Mul", "x r", "y")], {"x": ["N", 2]}, {"y": ["N", 2]})
    e = ox.explain(proto, np.array([[1.2, 2.7]], np.float32), method="gradient")
    assert len(e.blocked) == 1
    assert e.blocked[0].startswith("r_node (Round): ")
    assert ox.explain(*fullgrad_net(), method="gradient").blocked == ()


def test_strict_mode() -> None:
    proto, x = fullgrad_net()
    ox.explain(proto, x, method="fullgrad", strict=True)
    loose: dict[str, Any] = {"method": "integrated_gradients", "steps": 2, "max_steps": 2, "tolerance": 1e-9}
    assert not ox.explain(proto, x, **loose).residual.ok  # type: ignore[union-attr]
    with pytest.raises(ResidualError, match="convergence of the path integral of sample 0"):
        ox.explain(proto, x, strict=True, **loose)


def test_provenance_names_the_model_and_what_ran_it() -> None:
    proto, x = fullgrad_net()
    found = ox.explain(proto, x, method="gradient").provenance
    assert len(found["model_sha256"]) == 64
    assert found["versions"]["onnxplain"] == ox.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["providers"] == ["CPUExecutionProvider"]
    assert found["dtype"] == "float"
    proto.graph.initializer[0].raw_data = bytes(len(proto.graph.initializer[0].raw_data))
    assert ox.explain(proto, x, method="gradient").provenance["model_sha256"] != found["model_sha256"]


def test_options_of_the_call_are_kept() -> None:
    e = ox.explain(*fullgrad_net(), method="fullgrad", sign="pos", seed=7, head="margin", target=1)
    assert (e.method, e.seed, e.head, e.options["sign"], e.options["rescale"]) == (
        "fullgrad",
        7,
        "margin",
        "pos",
        "minmax",
    )
