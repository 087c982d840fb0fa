"""Which axis counts the samples: totals per sample are right wherever it is, and refused where it cannot be told."""

from __future__ import annotations

import attention_nets
import numpy as np
import onnx
import onnxruntime
import pytest
from attention_nets import attention_net
from loop_nets import STEPS, recurrent_net
from onnx import TensorProto, helper
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.axes import Joined, Labels
from onnxplain.engine.errors import InputError, OptionError, UnsupportedNodeError
from onnxplain.engine.graph.shapes import Dim, Dims
from onnxplain.engine.samples import SampleAxis, sample_axis

REFERENCE = ["reference"]  # float64 throughout
X = np.random.default_rng(1).normal(size=(3, STEPS, 3))
HEADS = Joined((("batch", "N"), (None, 2)))


@pytest.mark.parametrize(
    ("labels", "known", "batch", "expected"),
    [
        ((None, "batch", "t"), None, "N", SampleAxis(1, 3)),
        ((), ("T", "N", 4), "N", SampleAxis(1, 3)),
        ((), ("N", "N"), "N", None),
        ((), (None, 4), "N", None),
        ((HEADS, None), (None, 4), "N", SampleAxis(0, 2, joined=True)),
        ((Joined(((None, 2), ("batch", "N"))), None), (None, 4), "N", None),
        ((), (None, 4), 1, SampleAxis(0, 2, joined=True)),
        ((), (5, 3, 4), 3, SampleAxis(1, 3)),
        ((), (3, 3, 4), 3, None),
        ((), (15, 3), 3, None),  # either samples and steps are joined, or 3 is something else
        ((), (None, 3), 3, None),
        ((), (5, 4), None, None),
        ((), (0, 4), 0, None),  # as malformed files have it
    ],
)
def test_what_tells_the_axis(labels: Labels, known: Dims | None, batch: Dim, expected: SampleAxis | None) -> None:
    assert sample_axis(labels, known, batch) == expected


# ----- states of all steps are stacked in front of the batch ------------------------------------------

KINDS = [("Loop",), ("Scan",), ("Loop", "Loop"), ("Scan", "Loop")]


def differences(proto: onnx.ModelProto, x: np.ndarray, target: int) -> np.ndarray:
    """Central differences of the score of each sample, in float64."""
    run = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found, step = np.zeros_like(x), 1e-6
    for place in np.ndindex(x.shape[1:]):
        moved = np.zeros_like(x)
        moved[(slice(None), *place)] = step
        up, down = (run.run(None, {"x": x + sign * moved})[0][:, target] for sign in (1, -1))
        found[(slice(None), *place)] = (up - down) / (2 * step)
    return found


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_recurrent_nets(kinds: tuple[str, ...]) -> None:
    """Every sample's identity closes, each of its terms is what it is alone, and gradients are differences."""
    proto = recurrent_net(kinds)
    found = ox.explain(proto, X, method="fullgrad", target=1, providers=REFERENCE)
    assert found.residual.relative.max() < 1e-12
    assert sum("loop" in t.node or "scan" in t.node for t in found.terms.info) == len(kinds)
    gradient = found.attributions["x"] / X
    np.testing.assert_allclose(gradient, differences(proto, X, 1), rtol=1e-6, atol=1e-9)  # differences: 1e-6 steps
    for n in range(len(X)):
        alone = ox.explain(proto, X[n : n + 1], method="fullgrad", target=1, providers=REFERENCE)
        np.testing.assert_allclose(alone.terms.biases[0], found.terms.biases[n], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("kind", "batch"), [("Loop", 1), ("Scan", 1), ("Scan", 3)])
def test_fixed_batches(kind: str, batch: int) -> None:
    """One sample at a time is always told; three are by their size."""
    wanted = ox.explain(recurrent_net((kind,)), X, method="fullgrad", target=1, providers=REFERENCE)
    found = ox.explain(recurrent_net((kind,), batch), X, method="fullgrad", target=1, providers=REFERENCE)
    np.testing.assert_allclose(found.terms.biases, wanted.terms.biases, rtol=1e-10, atol=1e-13)


def test_fixed_samples_that_nothing_tells_apart_are_given_no_numbers() -> None:
    """How often the Loop runs is not known, so that the steps might be three as well."""
    with pytest.raises(UnsupportedNodeError, match="cannot be told, and the model takes 3 at a time; export it with"):
        ox.compile(recurrent_net(("Loop",), 3), method="fullgrad", providers=REFERENCE)


def test_a_batch_without_a_name() -> None:
    wanted = ox.explain(recurrent_net(("Loop",)), X, method="fullgrad", target=1, providers=REFERENCE)
    found = ox.explain(recurrent_net(("Loop",), None), X, method="fullgrad", target=1, providers=REFERENCE)
    np.testing.assert_allclose(found.terms.biases, wanted.terms.biases, rtol=1e-10, atol=1e-13)


# ----- lost from sight ---------------------------------------------------------------------------------


def lost() -> onnx.ModelProto:
    """A bias is added where samples stand along the second axis of a tensor, which no inference tells."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Shape", ["t"], ["shape"]),
        helper.make_node("Max", ["shape", "one"], ["sizes"]),
        helper.make_node("Reshape", ["t", "sizes"], ["hidden"]),
        helper.make_node("Add", ["hidden", "column"], ["moved"], "plus"),
        helper.make_node("Tanh", ["moved"], ["bent"]),
        helper.make_node("Shape", ["x"], ["back"]),
        helper.make_node("Transpose", ["bent"], ["again"], perm=[1, 0]),
        helper.make_node("Reshape", ["again", "back"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lost",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["N", 4])],
        [
            onnx.numpy_helper.from_array(np.asarray([1, 1]), "one"),
            onnx.numpy_helper.from_array(np.arange(4.0)[:, None], "column"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_samples_that_cannot_be_told_apart_go_one_by_one() -> None:
    x = X[:, 0, :].repeat(2, axis=1)[:, :4]
    explainer = ox.compile(lost(), method="fullgrad", providers=REFERENCE)
    assert explainer.program().plan.one_by_one
    found = explainer(x, target=[0, 2, 1])
    np.testing.assert_allclose(found.score, np.tanh(x + np.arange(4))[range(3), [0, 2, 1]], rtol=1e-12)
    assert found.residual.relative.max() < 1e-12
    (plus,) = (i for i, t in enumerate(found.terms.info) if t.node == "plus")
    slope = 1 - found.score**2
    np.testing.assert_allclose(found.terms.biases[:, plus], slope * [0, 2, 1], rtol=1e-12)


def test_they_are_refused_where_they_cannot_go_one_by_one() -> None:
    with pytest.raises(OptionError, match="takes all samples together, and which axis"):
        ox.compile(lost(), method="fullgrad", scope="batch", providers=REFERENCE)
    with pytest.raises(OptionError, match="a file takes them all at once; export the model with a batch of 1"):
        ox.compile(lost(), method="fullgrad", providers=REFERENCE).ship()


# ----- the batch is not the first axis ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "occlusion"])
@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_time_major_inputs_are_refused(kind: str, batch: int | str, method: str) -> None:
    proto = recurrent_net((kind,), batch, time_major=True)
    with pytest.raises(UnsupportedNodeError, match=r"_(loop|scan)' .*through the input's first axis.*batch first"):
        ox.compile(proto, method=method, providers=REFERENCE)


def test_an_answer_whose_samples_are_another_axis_of_the_input_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axis"], ["y"], keepdims=0)],
        "pooled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(np.asarray([0]), "axis")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(InputError, match=r"first axis \(N\) is axis 1 of 'x', whose first axis \(T\) is taken for"):
        ox.explain(proto, X.astype(np.float32), method="gradient")


def test_attention_between_rows_that_pass_for_samples_is_refused() -> None:
    """``[T, N, F]`` with N = 1: every step looks at every other one."""
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["x", "one"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0]),
            helper.make_node("MatMul", ["rows", "columns"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["shares"], "attention", axis=-1),
            helper.make_node("MatMul", ["shares", "rows"], ["y"]),
        ],
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 3])],
        [onnx.numpy_helper.from_array(np.asarray([1]), "one")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(
        UnsupportedNodeError, match=r"'attention' \(Softmax\): it normalises over the input's first axis"
    ):
        ox.compile(proto, method="gradient")


STEPS_FIRST = np.random.default_rng(3).normal(size=(attention_nets.STEPS, 3, attention_nets.WIDTH)).astype(np.float32)


def answer(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    run = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(run.run(None, {"x": x})[0])


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "occlusion"])
@pytest.mark.parametrize("form", attention_nets.FORMS)
def test_attention_over_steps_that_come_first_is_refused(form: str, method: str) -> None:
    """Also where exporters leave every size open, or wrote the number of steps down."""
    proto = attention_net(form)
    moved = STEPS_FIRST.copy()
    moved[0] += 1.0
    assert np.abs(answer(proto, moved) - answer(proto, STEPS_FIRST))[1:].min() > 0  # all rows look at the first
    said = r"'shares_node' \(Softmax\): .*first axis, which is taken for the batch.*batch_first=True"
    with pytest.raises(UnsupportedNodeError, match=said):
        ox.compile(proto, method=method)


@pytest.mark.parametrize("form", attention_nets.FORMS)
def test_the_same_attention_with_its_samples_first_is_served(form: str) -> None:
    x = STEPS_FIRST.swapaxes(0, 1)
    proto = attention_net(form, batch_first=True)
    np.testing.assert_array_equal(answer(proto, x), answer(attention_net(form), STEPS_FIRST).swapaxes(0, 1))
    found = ox.explain(proto, x, method="fullgrad", target=(1, 2))
    assert found.residual.relative.max() < 1e-5  # float32
    for n in range(len(x)):
        alone = ox.explain(proto, x[n : n + 1], method="fullgrad", target=(1, 2))
        np.testing.assert_allclose(alone.attributions["x"][0], found.attributions["x"][n], rtol=1e-4, atol=1e-6)


def test_samples_that_weigh_what_is_no_sample_are_served() -> None:
    """A memory of the model's own, and one whose rows are as many as the samples' features and made of their sizes."""
    memory = np.random.default_rng(4).normal(size=(4, 2))
    nodes = [
        node("Softmax", "x", "shares", axis=-1),
        node("MatMul", "shares memory", "read"),
        node("Shape", "x", "sizes"),
        node("Cast", "sizes", "counts", to=TensorProto.FLOAT),
        node("Slice", "counts one two", "width"),
        node("Mul", "memory width", "larger"),
        node("MatMul", "shares larger", "more"),
        node("Add", "read more", "y"),
    ]
    one_two = {"one": np.asarray([1]), "two": np.asarray([2])}
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 2]}, {"memory": memory, **one_two})
    x = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    e = np.exp(x)
    p = e / e.sum(axis=1, keepdims=True)
    wanted = p * (5 * memory[:, 1] - p @ (5 * memory[:, 1:]))
    found = ox.explain(proto, x, method="gradient", target=1).attributions["x"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_time_major_models_are_there_all_the_same() -> None:
    proto = recurrent_net(("Loop",), time_major=True)
    u = np.random.default_rng(2).normal(size=(3, 2))
    found = ox.vjp(proto, {"x": X.swapaxes(0, 1)}, {"y": u}, providers=REFERENCE)["x"]
    wanted = ox.vjp(recurrent_net(("Loop",)), {"x": X}, {"y": u}, providers=REFERENCE)["x"]
    np.testing.assert_allclose(found.swapaxes(0, 1), wanted, rtol=1e-12, atol=1e-15)


def test_a_loop_over_samples_that_share_no_state_is_served() -> None:
    """Every trip takes its own sample, and nothing of it goes on to the next."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Gather", ["x", "i"], ["e"], axis=0),
            helper.make_node("Tanh", ["e"], ["k"]),
            helper.make_node("Add", ["s", "half"], ["s2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.DOUBLE, []),
        ],
        [helper.make_tensor_value_info(n, t, None) for n, t in [("on", TensorProto.BOOL), ("s2", 11), ("k", 11)]],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["count_"], end=1),
            helper.make_node("Squeeze", ["count_"], ["count"]),
            helper.make_node("Loop", ["count", "", "half"], ["counted", "y"], body=body),
        ],
        "samples",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [onnx.numpy_helper.from_array(np.asarray(0.5), "half")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = X.reshape(-1, 5)[:, :4]
    found = ox.explain(proto, x, method="gradient", target=2, providers=REFERENCE).attributions["x"]
    np.testing.assert_allclose(found[:, 2], 1 - np.tanh(x[:, 2]) ** 2, rtol=1e-12)
    assert not np.delete(found, 2, axis=1).any()
