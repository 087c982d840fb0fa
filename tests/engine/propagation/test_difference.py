"""DeepLIFT's rules, operator by operator: contributions sum to the difference, and are those derived by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError, UnsupportedNodeError

Array = np.ndarray[Any, Any]

#: float32 through a few operators; differences of near values lose some digits.
ROUNDING = 2e-5


def readout(
    nodes: list[onnx.NodeProto],
    shape: list[Any],
    size: int,
    weights: dict[str, Any] | None = None,
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """``sum r * flat(h(x))`` with fixed random r; ``size`` elements per sample in h's result, which is named v."""
    r = np.random.default_rng(7).normal(size=(size, 1))
    tail = [node("Flatten", "v", "flat", axis=1), node("MatMul", "flat r", "y")]
    return model(
        [*nodes, *tail], {"x": ["N", *shape]}, {"y": ["N", 1]}, {**(weights or {}), "r": r}, opset=opset, dtype=dtype
    )


def run(proto: onnx.ModelProto, x: Array, baseline: Array | float = 0.0, **options: Any) -> ox.Explanation:
    return against(proto, baseline, **options)(x.astype(np.float32))


def against(proto: onnx.ModelProto, baseline: Array | float, **options: Any) -> ox.CompiledExplainer:
    return ox.compile(proto, method="deeplift", baseline=baseline, threads=1, **options)


def points(*shape: int, low: float = -2.0, high: float = 2.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    return rng.uniform(low, high, size=shape), rng.uniform(low, high, size=shape)


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Abs", "Exp")),
    *((name, {}) for name in ("Erf", "Sin", "Cos", "Sinh", "Cosh", "Asinh", "Atan", "HardSwish", "Mish", "LeakyRelu")),
    *((name, {}) for name in ("HardSigmoid", "ThresholdedRelu")),
    ("LeakyRelu", {"alpha": 1.5}),
    ("Shrink", {"lambd": 0.5, "bias": 0.2}),
    ("Gelu", {"approximate": "tanh"}),
    ("Gelu", {}),
]


@pytest.mark.parametrize(("name", "attributes"), ACTIVATIONS, ids=str)
@pytest.mark.parametrize("fallback", ["midpoint", "reference"])
def test_functions_of_one_number_get_the_secant(name: str, attributes: dict[str, Any], fallback: str) -> None:
    opset = 20 if name == "Gelu" else 18
    x, x0 = points(3, 6)
    x[0, 0] = x0[0, 0]
    proto = readout([node(name, "x", "v", **attributes)], [6], 6, opset=opset)
    explainer = against(proto, x0, fallback=fallback)
    e = explainer(x.astype(np.float32))
    # What one element makes of the score alone, by the model itself.
    for i in range(6):
        mixed = x0.copy()
        mixed[:, i] = x[:, i]
        moved = explainer(mixed.astype(np.float32)).score - e.baseline_score
        np.testing.assert_allclose(e.attributions["x"][:, i], moved, atol=2e-6, rtol=1e-5)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING


def constants(**values: Any) -> dict[str, Any]:
    return {n: np.asarray(v, dtype=float) for n, v in values.items()}


RNG = np.random.default_rng(11)
SQUARE = RNG.normal(size=(6, 6))
KERNEL = RNG.normal(size=(4, 2, 3))
NORMALISED = {
    "k": KERNEL,
    **constants(c=[1, 0, 2, 3], s=[1, -2, 0.5, 1], b=[0, 1, 2, 3], m=[1, 0, 0, 1], q=[1, 2, 3, 4]),
}

#: name, nodes from x to v, sizes of x, elements of v, weights, opset.
CASES: list[tuple[str, list[onnx.NodeProto], list[int], int, dict[str, Any], int]] = [
    ("Mul of two", [node("MatMul", "x w", "b"), node("Mul", "x b", "v")], [6], 6, {"w": SQUARE}, 18),
    ("square by Mul", [node("Mul", "x x", "v")], [6], 6, {}, 18),
    ("Div of two", [node("Exp", "x", "b"), node("Div", "x b", "v")], [6], 6, {}, 18),
    ("constant over x", [node("Exp", "x", "b"), node("Div", "c b", "v")], [6], 6, constants(c=np.arange(6)), 18),
    ("Reciprocal", [node("Exp", "x", "b"), node("Reciprocal", "b", "v")], [6], 6, {}, 18),
    ("Sqrt", [node("Exp", "x", "b"), node("Sqrt", "b", "v")], [6], 6, {}, 18),
    ("Log", [node("Exp", "x", "b"), node("Log", "b", "v")], [6], 6, {}, 18),
    *(
        (f"Pow {k}", [node("Exp", "x", "b"), node("Pow", "b k", "v")], [6], 6, constants(k=k), 18)
        for k in (2, 3, 0.5, -0.5, -1, 1, 1.7)
    ),
    ("Pow of two", [node("Softplus", "x", "b"), node("Pow", "b x", "v")], [6], 6, {}, 18),
    ("Clip", [node("Clip", "x low high", "v")], [6], 6, constants(low=-1.0, high=0.5), 18),
    ("PRelu", [node("PRelu", "x s", "v")], [6], 6, constants(s=np.linspace(-0.5, 1.5, 6)), 18),
    ("PRelu by x", [node("Tanh", "x", "s"), node("PRelu", "x s", "v")], [6], 6, {}, 18),
    ("Max of three", [node("MatMul", "x w", "b"), node("Max", "x b c", "v")], [6], 6, {"w": SQUARE, **constants(c=0.3)}, 18),
    ("Min of two", [node("MatMul", "x w", "b"), node("Min", "x b", "v")], [6], 6, {"w": SQUARE}, 18),
    ("ReduceMax", [node("ReduceMax", "x a", "v", keepdims=0)], [2, 5], 2, {"a": np.array([2])}, 18),
    ("ReduceMin", [node("ReduceMin", "x a", "v", keepdims=1)], [2, 5], 2, {"a": np.array([-1])}, 18),
    ("MaxPool", [node("MaxPool", "x", "v", kernel_shape=[2], strides=[2])], [2, 8], 8, {}, 18),
    ("MaxPool overlapping", [node("MaxPool", "x", "v", kernel_shape=[3], strides=[1], pads=[1, 1])], [2, 8], 16, {}, 18),
    ("GlobalMaxPool", [node("GlobalMaxPool", "x", "v")], [2, 8], 2, {}, 18),
    ("AveragePool", [node("AveragePool", "x", "v", kernel_shape=[3], strides=[2])], [2, 7], 6, {}, 18),
    ("LpPool", [node("LpPool", "x", "v", kernel_shape=[2], strides=[2], p=2)], [2, 8], 8, {}, 18),
    ("LpPool of cubes", [node("LpPool", "x", "v", kernel_shape=[3], strides=[2], p=3)], [2, 8], 6, {}, 18),
    ("GlobalLpPool", [node("GlobalLpPool", "x", "v", p=2)], [2, 8], 2, {}, 18),
    ("Softmax", [node("Softmax", "x", "v", axis=-1)], [2, 5], 10, {}, 18),
    ("Softmax axis 1", [node("Softmax", "x", "v", axis=1)], [4, 3], 12, {}, 18),
    ("LogSoftmax", [node("LogSoftmax", "x", "v", axis=-1)], [2, 5], 10, {}, 18),
    ("ReduceLogSumExp", [node("ReduceLogSumExp", "x a", "v")], [2, 5], 2, {"a": np.array([2])}, 18),
    ("ReduceLogSum", [node("Exp", "x", "b"), node("ReduceLogSum", "b a", "v")], [2, 5], 2, {"a": np.array([2])}, 18),
    ("ReduceL1", [node("ReduceL1", "x a", "v", keepdims=0)], [2, 5], 2, {"a": np.array([2])}, 18),
    ("ReduceL2", [node("ReduceL2", "x a", "v")], [2, 5], 2, {"a": np.array([2])}, 18),
    ("ReduceSumSquare", [node("ReduceSumSquare", "x a", "v")], [2, 5], 2, {"a": np.array([2])}, 18),
    ("ReduceProd", [node("ReduceProd", "x a", "v")], [2, 5], 2, {"a": np.array([2])}, 18),
    (
        "LayerNormalization",
        [node("LayerNormalization", "x s b", "v", axis=-1)],
        *([2, 5], 10, constants(s=np.arange(5) - 1.5, b=np.arange(5)), 18),
    ),
    ("LayerNormalization of two axes", [node("LayerNormalization", "x s", "v", axis=1)], [2, 5], 10, {"s": SQUARE[:2, :5]}, 18),
    ("InstanceNormalization", [node("InstanceNormalization", "x s b", "v")], [2, 5], 10, constants(s=[1, -2], b=[0.3, 0]), 18),
    (
        "GroupNormalization",
        [node("GroupNormalization", "x s b", "v", num_groups=2)],
        *([4, 5], 20, constants(s=[1, -2, 3, 0.5], b=[0.3, 0, 1, 2]), 21),
    ),
    (
        "GroupNormalization 18",
        [node("GroupNormalization", "x s b", "v", num_groups=2)],
        *([4, 5], 20, constants(s=[1, -2], b=[0.3, 0]), 18),
    ),
    ("RMSNormalization", [node("RMSNormalization", "x s", "v", axis=-1)], [2, 5], 10, constants(s=np.arange(5) - 1.5), 23),
    ("MeanVarianceNormalization", [node("MeanVarianceNormalization", "x", "v", axes=[2])], [2, 5], 10, {}, 18),
    ("LRN", [node("LRN", "x", "v", size=3, alpha=0.5, beta=0.75, bias=1.0)], [4, 5, 1], 20, {}, 18),
    ("LpNormalization", [node("LpNormalization", "x", "v", axis=-1)], [2, 5], 10, {}, 18),
    ("MatMul of two", [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "v")], [3, 4], 9, {}, 18),
    (
        "Einsum of three",
        [node("Tanh", "x", "t"), node("Einsum", "x t x", "v", equation="nij,nik,nil->njkl")],
        *([3, 2], 8, {}, 18),
    ),
    ("Conv, BatchNormalization", [
        node("Conv", "x k c", "z", pads=[1, 1]),
        node("BatchNormalization", "z s b m q", "u"),
        node("Relu", "u", "v"),
    ], [2, 6], 24, NORMALISED, 18),
    ("Where, fixed condition", [node("Tanh", "x", "t"), node("Where", "k x t", "v")], [6], 6, {"k": np.arange(6) % 2 == 0}, 18),
    ("Where, as a ReLU", [
        node("Greater", "x zero", "k"), node("Where", "k x zero", "v"),
    ], [6], 6, constants(zero=0.0), 18),
    ("Where of two", [
        node("Greater", "x zero", "k"), node("Tanh", "x", "t"), node("MatMul", "x w", "u"), node("Where", "k u t", "v"),
    ], [6], 6, {"w": SQUARE, **constants(zero=0.0)}, 18),
    ("Gather, Concat, Pad, Slice", [
        node("Gather", "x i", "g", axis=1), node("Tanh", "x", "t"), node("Concat", "g t", "c", axis=1),
        node("Pad", "c p one", "v"),
    ], [6], 13, {"i": np.array([0, 0, 5]), "p": np.array([0, 1, 0, 3]), **constants(one=1.5)}, 18),
]  # fmt: skip


@pytest.mark.parametrize(("name", "nodes", "shape", "size", "weights", "opset"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
def test_contributions_sum_to_the_difference(
    name: str, nodes: list[onnx.NodeProto], shape: list[int], size: int, weights: dict[str, Any], opset: int, rule: str
) -> None:
    proto = readout(nodes, shape, size, weights, opset)
    x, x0 = points(3, *shape)
    explainer = against(proto, x0, rule=rule)
    e = explainer(x.astype(np.float32))
    assert e.baseline_score is not None
    change = e.score - e.baseline_score
    parts = e.attributions["x"].reshape(3, -1).astype(np.float64)
    assert np.abs(change).min() > 1e-3
    np.testing.assert_array_less(np.abs(parts.sum(axis=1) - change), ROUNDING * np.abs(parts).sum(axis=1))
    # The other way round, everything changes its sign.
    if rule == "rescale":
        back = run(proto, x0, x, rule=rule).attributions["x"].reshape(3, -1)
        np.testing.assert_allclose(back, -parts, atol=1e-4 * np.abs(parts).max())
    # And nothing moves where nothing changes.
    assert not explainer(x0.astype(np.float32)).attributions["x"].any()


def test_a_masked_softmax_keeps_the_sum() -> None:
    """Attention masks of -inf: probability 0 in both passes, credited with nothing."""
    mask = np.array([0.0, -np.inf, 0.0, 0.0, -np.inf])
    proto = readout([node("Add", "x m", "z"), node("Softmax", "z", "v", axis=-1)], [5], 5, {"m": mask})
    x, x0 = points(2, 5)
    e = run(proto, x, x0)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING
    assert not e.attributions["x"][:, [1, 4]].any()


def test_softmax_far_apart_keeps_the_sum() -> None:
    """Probabilities that underflow in one pass: logits a hundred apart, winners exchanged."""
    proto = readout([node("Softmax", "x", "v", axis=-1)], [4], 4)
    x, x0 = np.array([[100.0, 0, 1, -50]]), np.array([[-100.0, 30, 1, 80]])
    e = run(proto, x, x0)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING
    assert np.abs(e.attributions["x"]).max() > 0.1


def test_softmax_of_two_is_the_sigmoid() -> None:
    """softmax(a, b) = sigmoid(a - b): each logit gets the secant of the sigmoid times its own difference."""
    proto = model(
        [node("Softmax", "x", "p", axis=-1), node("MatMul", "p r", "y")], {"x": ["N", 2]}, {"y": ["N", 1]},
        {"r": np.array([[1.0], [0.0]])},
    )  # fmt: skip
    x, x0 = points(4, 2)
    found = run(proto, x, x0, threshold=0.0).attributions["x"]
    z, z0 = x[:, 0] - x[:, 1], x0[:, 0] - x0[:, 1]
    slope = (1 / (1 + np.exp(-z)) - 1 / (1 + np.exp(-z0))) / (z - z0)
    np.testing.assert_allclose(found, slope[:, None] * (x - x0) * [1, -1], rtol=1e-4, atol=1e-6)


def test_a_product_gets_the_mean_of_the_other_operand() -> None:
    proto = model(
        [node("Split", "x", "a b", axis=1, num_outputs=2), node("Mul", "a b", "y")],
        {"x": ["N", 2]},
        {"y": ["N", 1]},
        {},
    )
    x, x0 = points(4, 2)
    expected = (x - x0) * (x + x0)[:, ::-1] / 2
    np.testing.assert_allclose(run(proto, x, x0).attributions["x"], expected, rtol=1e-5, atol=1e-6)


def test_layer_normalisation_is_that_of_its_single_steps() -> None:
    """The operator, and the same formula as older exporters write it."""
    steps = [
        node("ReduceMean", "x a", "m"), node("Sub", "x m", "c"), node("Pow", "c two", "q"), node("ReduceMean", "q a", "s"),
        node("Add", "s eps", "t"), node("Sqrt", "t", "u"), node("Div", "c u", "n"), node("Mul", "n g", "h"),
        node("Add", "h b", "v"),
    ]  # fmt: skip
    scale, shift = np.linspace(-1, 2, 5), np.arange(5.0)
    whole = readout([node("LayerNormalization", "x g b", "v", axis=-1)], [2, 5], 10, constants(g=scale, b=shift))
    weights = {"a": np.array([2]), **constants(two=2.0, eps=1e-5, g=scale, b=shift)}
    x, x0 = points(3, 2, 5)
    found = [run(p, x, x0).attributions["x"] for p in (whole, readout(steps, [2, 5], 10, weights))]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_max_pooling_credits_the_winners() -> None:
    """captum's case: identity, windows of four, ones against two references; the references' maxima lose."""
    proto = model(
        [node("MaxPool", "x", "v", kernel_shape=[4]), node("ReduceSum", "v", "y", keepdims=1)],
        {"x": ["N", 1, 4]},
        {"y": ["N", 1, 1]},
        {},
    )
    proto.graph.node[1].input.append("axes")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    references = np.array([[[1.0, 2, 3, 9]], [[4.0, 8, 6, 7]]])
    e = run(proto, np.ones((2, 1, 4)), references)
    np.testing.assert_array_equal(e.attributions["x"][:, 0], [[0, 0, 0, -8], [0, -7, 0, 0]])


# ----- where it ends ----------------------------------------------------------------------------------


def test_what_differs_in_steps_is_refused() -> None:
    """x times (x > 0): the gate is no function that a multiplier could go through."""
    proto = model(
        [node("Greater", "x zero", "k"), node("Cast", "k", "g", to=1), node("Mul", "x g", "v")],
        *({"x": ["N", 3]}, {"v": ["N", 3]}, constants(zero=0.0)),
    )
    with pytest.raises(UnsupportedNodeError, match=r"'v_node' .Mul.: its operand 1 .'g'. differs .* no multiplier"):
        run(proto, np.ones((1, 3)))


@pytest.mark.parametrize("by", ["x", "other"])
def test_a_branch(by: str) -> None:
    """On a condition of another input the branch is averaged as one operator; on one of x itself it is refused."""

    def branch(op_type: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 3])
        return helper.make_graph([helper.make_node(op_type, ["x"], ["r"])], op_type, [], [out])

    choice = helper.make_node("If", ["c"], ["v"], then_branch=branch("Sigmoid"), else_branch=branch("Tanh"))
    nodes = [node("ReduceMax", by, "s", keepdims=0), node("Greater", "s zero", "c"), choice]
    weights = {"zero": np.array(0.0), "r": np.eye(3)}
    proto = model([*nodes, node("MatMul", "v r", "y")], {"x": ["N", 3], "other": ["N", 1]}, {"y": ["N", 3]}, weights)
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    feeds = {"x": x, "other": np.ones((1, 1), np.float32)}
    explainer = ox.compile(proto, method="deeplift", wrt="x", threads=1) if by == "other" else None
    if explainer is None:
        with pytest.raises(UnsupportedNodeError, match="differs between input and baseline"):
            ox.compile(proto, method="deeplift", wrt="x")
        return
    e = explainer(feeds, target=1)
    np.testing.assert_allclose(e.attributions["x"], [[0, 1 / (1 + np.exp(-2)) - 0.5, 0]], atol=1e-6)
    assert "If: no rule of its own" in e.notes[0]


def recurrent(kind: str, steps: int | str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    gates, hidden, size = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 5, 3
    return model(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node(kind, "t w r b", "ys h", hidden_size=hidden),
            node("Squeeze", "h a", "hh"),
            node("Gemm", "hh v", "y"),
        ],
        {"x": ["N", steps, size]},
        {"y": ["N", 2]},
        {
            "w": rng.normal(size=(1, gates * hidden, size)) / 2, "r": rng.normal(size=(1, gates * hidden, hidden)) / 2,
            "b": rng.normal(size=(1, 2 * gates * hidden)), "v": rng.normal(size=(hidden, 2)), "a": np.array([0]),
        },
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(kind: str) -> None:
    """Of fixed length gate by gate; of open length as a whole, by averaging, which the result tells."""
    x = np.random.default_rng(1).normal(size=(2, 6, 3))
    fixed, opened = run(recurrent(kind, 6), x), run(recurrent(kind, "T"), x)
    assert fixed.residual is not None
    assert fixed.residual.relative.max() < ROUNDING
    assert opened.residual is not None
    assert opened.residual.ok
    assert not fixed.notes
    assert "Scan: no rule of its own; its gradient is averaged at 16 points" in opened.notes[0]
    path = ox.explain(recurrent(kind, "T"), x.astype(np.float32), method="integrated_gradients", steps=100, threads=1)
    np.testing.assert_allclose(opened.attributions["x"], path.attributions["x"], atol=1e-3)


def test_an_open_length_with_few_points_owns_up() -> None:
    x = np.random.default_rng(1).normal(size=(2, 6, 3)) * 4
    e = run(recurrent("RNN", "T"), x, points=1)
    assert e.residual is not None
    assert not e.residual.ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "sideways"}, "rule='sideways' is not possible"),
        ({"fallback": "left"}, "fallback='left' is not possible; choose one of midpoint, reference"),
        ({"threshold": -1.0}, "threshold=-1.0 must be a number from 0 on, or None"),
        ({"points": 0}, "points=0 must be at least 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        run(readout([node("Relu", "x", "v")], [3], 3), np.ones((1, 3)), **options)
