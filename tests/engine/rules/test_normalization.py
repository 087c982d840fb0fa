"""Rules of normalisations."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from rule_cases import Case, case, check, parametrize, uniform
from run_time import gradient, model, terms_of

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS

SHIFT = np.asarray([0.3, -1.2, 0.7])
SPREAD = np.asarray([0.9, 1.7, 0.4])
POSITIVE = uniform(0.3, 2.0)


def batch_norm(x: tuple[int, ...], c: int = 3, **options: object) -> Case:
    """Parameters are constants unless ``wrt`` names them: all are drawn positive, as variances must be."""
    return case("BatchNormalization", x=x, scale=(c,), b=(c,), mean=(c,), var=(c,), draw=POSITIVE, **options)


CASES = [
    *(batch_norm(x, wrt=("x",)) for x in ((2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 2))),
    *(batch_norm((2, 3, 4, 2), wrt=("x",), opset=opset) for opset in (7, 9, 14, 15)),
    batch_norm((2, 3, 2, 3), name="BatchNormalization(all operands)"),
    batch_norm((2, 3), name="BatchNormalization(all operands of a matrix)"),
    *(batch_norm((2, 3, 4), wrt=("x", p), name=f"BatchNormalization(x, {p})") for p in ("scale", "b", "mean", "var")),
    batch_norm((2, 3, 4), wrt=("b", "mean"), name="BatchNormalization(b, mean)"),
    batch_norm((2, 3, 4), wrt=("scale", "b", "var"), epsilon=0.1, name="BatchNormalization(scale, b, var)"),
    case("LayerNormalization", x=(2, 3, 6), scale=(6,)),
    case("LayerNormalization", x=(2, 3, 6), scale=(6,), b=(6,)),
    case("LayerNormalization", x=(2, 3, 6), scale=(6,), b=(6,), epsilon=0.3),
    case("LayerNormalization", x=(2, 3, 4), scale=(3, 4), b=(3, 4), axis=1),
    case("LayerNormalization", x=(2, 3, 4), scale=(3, 4), b=(3, 4), axis=-2, epsilon=0.2, outputs=3),
    case("LayerNormalization", x=(2, 3, 6), scale=(6,), outputs=3),
    case("LayerNormalization", x=(2, 3, 6), scale=(6,), b=(6,), outputs=2),
    case("LayerNormalization", x=(4, 3), scale=(4, 3), axis=0, batch=False),
    *(case("InstanceNormalization", x=x, scale=(3,), b=(3,)) for x in ((2, 3, 5), (2, 3, 4, 2), (2, 3, 2, 3, 2))),
    case("InstanceNormalization", x=(2, 3, 5), scale=SPREAD, b=SHIFT, epsilon=0.5),
    *(
        case("GroupNormalization", x=(2, 6, 3, 2), scale=(6,), b=(6,), num_groups=g, opset=21, epsilon=0.1)
        for g in (1, 2, 3, 6)
    ),
    case("GroupNormalization", x=(2, 6, 4), scale=(6,), b=(6,), num_groups=3, opset=21),
    *(case("GroupNormalization", x=(2, 6, 3, 2), scale=(g,), b=(g,), num_groups=g, epsilon=0.1) for g in (1, 2, 6)),
    case("MeanVarianceNormalization", x=(2, 3, 4, 2), batch=False),
    case("MeanVarianceNormalization", x=(2, 3, 4, 2), axes=[0, 1, 2, 3], batch=False),
    case("MeanVarianceNormalization", x=(2, 3, 4), axes=[-1, 1], runtime=False),
    case("RMSNormalization", x=(2, 3, 6), scale=(6,), opset=23),
    case("RMSNormalization", x=(2, 3, 4), scale=(3, 4), axis=1, epsilon=0.3, opset=23),
    case("LRN", x=(2, 5, 3, 2), size=3),
    case("LRN", x=(2, 5, 3, 2), size=4, alpha=0.7, beta=0.6, bias=1.3, runtime=False),  # onnxruntime: odd sizes only
    case("LRN", x=(2, 5, 3, 2), size=3, alpha=0.7, beta=0.6, bias=1.3),
    case("LRN", x=(2, 3, 2, 2), size=7, alpha=0.5, beta=1.5, bias=0.8),
    case("LRN", x=(2, 5, 3), size=2, alpha=0.7, runtime=False),
    *(case("LpNormalization", x=(2, 3, 4), axis=a, p=p, batch=a != 0) for p in (1, 2) for a in (-1, 0, 1)),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_a_vector_of_zeros_has_a_finite_gradient() -> None:
    """Its norm is 0: the quotient has no derivative there, and nothing infinite comes out."""
    feeds = {"x": np.zeros((1, 2, 2), np.float32)}
    for p in (1, 2):
        proto = model([helper.make_node("LpNormalization", ["x"], ["y"], p=p)], feeds)
        np.testing.assert_array_equal(gradient(proto, feeds, np.ones((1, 2, 2), np.float32)), feeds["x"])


@pytest.mark.parametrize("op_type", ["GroupNormalization", "MeanVarianceNormalization"])
def test_what_the_standard_does_not_type_is_typed(op_type: str) -> None:
    """Inference stops at these two; the gradient must not."""
    operands = ["x", "scale", "b"] if op_type == "GroupNormalization" else ["x"]
    attributes = {"num_groups": 1} if op_type == "GroupNormalization" else {}
    nodes = [
        helper.make_node(op_type, operands, ["h"], **attributes),
        helper.make_node("Add", ["h", "h"], ["i"]),
        helper.make_node("Identity", ["i"], ["y"]),
    ]
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype(np.float32)
    feeds = {"x": x, "scale": np.ones(3, np.float32), "b": np.zeros(3, np.float32)}
    feeds = {k: feeds[k] for k in operands}
    found = gradient(model(nodes, feeds, 21), feeds, x)
    assert np.abs(found).max() > 0


def test_the_bias_of_batch_normalization_is_one_number_a_channel() -> None:
    """beta - gamma mean / sqrt(var + epsilon), under the name of beta."""
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(2, 3, 4, 4)).astype(np.float32)}
    proto = model([helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["y"])], feeds)
    weights = {k: rng.uniform(0.5, 2, size=3).astype(np.float32) for k in ("gamma", "beta", "mean", "var")}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    ((kind, name, value),) = terms_of(proto, feeds, feeds["x"])
    assert (kind, name) == ("explicit", "beta")
    expected = weights["beta"] - weights["gamma"] * weights["mean"] / np.sqrt(weights["var"] + 1e-5)
    np.testing.assert_allclose(value, expected.reshape(3, 1, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("op_type", "operands", "opset", "attributes"),
    [
        ("BatchNormalization", "scale b mean var", 18, {}),
        ("InstanceNormalization", "scale b", 18, {}),
        ("GroupNormalization", "scale b", 18, {"num_groups": 4}),
        ("GroupNormalization", "scale b", 18, {"num_groups": 2}),
        ("GroupNormalization", "scale b", 21, {"num_groups": 2}),
    ],
)
def test_an_added_parameter_is_known_to_be_constant_over_space(
    op_type: str, operands: str, opset: int, attributes: dict[str, int]
) -> None:
    """Its static sizes [C, 1, 1] are what spares the bias terms a product of the adjoint's size."""
    names = operands.split()
    size = 2 if (opset, attributes) == (18, {"num_groups": 2}) else 4
    weights = [onnx.numpy_helper.from_array(np.ones(size, np.float32), n) for n in names]
    sizes: list[str | int] = ["N", 4, 5, 5]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, sizes) for n in "xy")
    node = helper.make_node(op_type, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph([node], "g", [x], [y], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    rewriter = Rewriter(canonicalise(read_model(proto)))
    result = rewriter.output_value()
    assert result.dtype is not None
    seed = rewriter.add_input("seed", result.dtype, None)
    found = rewriter.backward_from({result: seed}, [rewriter.value("x")]).nodes[0]
    entry = BIAS.find("", op_type, rewriter.op.opset)
    assert entry is not None
    (term,) = [t for t in entry.rule(rewriter.op, found) if t.kind == "explicit"]
    assert (term.name, dims(term.value)) == ("b", (4, 1, 1))


def test_the_bias_of_layer_normalization_has_an_explicit_and_an_implicit_part() -> None:
    """B, and gamma times the normalised value times var / (var + epsilon)."""
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(2, 5)).astype(np.float32)}
    proto = model([helper.make_node("LayerNormalization", ["x", "gamma", "b"], ["y"], epsilon=0.2)], feeds)
    weights = {k: rng.normal(size=5).astype(np.float32) for k in ("gamma", "b")}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    terms = terms_of(proto, feeds, feeds["x"])
    assert [(kind, name) for kind, name, _ in terms] == [("explicit", "b"), ("implicit", "")]
    np.testing.assert_array_equal(terms[0][2], weights["b"])
    x = feeds["x"].astype(np.float64)
    var = x.var(-1, keepdims=True)
    normalised = (x - x.mean(-1, keepdims=True)) / np.sqrt(var + 0.2)
    np.testing.assert_allclose(terms[1][2], weights["gamma"] * normalised * var / (var + 0.2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("op_type", ["LayerNormalization", "BatchNormalization", "InstanceNormalization"])
def test_half_precision(op_type: str) -> None:
    """Adjoints of a half-precision model are float32, so that nothing underflows, and near the float32 model's."""
    rng = np.random.default_rng(0)
    size = 6 if op_type == "LayerNormalization" else 3
    feeds = {"x": rng.normal(size=(2, 3, 6)), "scale": rng.uniform(1, 2, size), "b": rng.normal(size=size)}
    if op_type == "BatchNormalization":
        feeds |= {"mean": rng.normal(size=3), "var": rng.uniform(0.5, 1, size=3)}
    seed = rng.normal(size=(2, 3, 6))
    node = helper.make_node(op_type, list(feeds), ["y"])
    results = []
    for kind in (np.float16, np.float32):
        typed = {k: v.astype(kind) for k, v in feeds.items()}
        results.append(gradient(model([node], typed), typed, seed.astype(kind)))
    assert results[0].dtype == np.float32
    np.testing.assert_allclose(results[0].astype(np.float32), results[1], atol=2e-2)  # float16: 11 bits


def test_training_mode_is_refused() -> None:
    feeds = {"x": np.ones((2, 3), np.float32)} | {k: np.ones(3, np.float32) for k in ("s", "b", "m", "v")}
    node = helper.make_node("BatchNormalization", list(feeds), ["y", "mean", "var"], training_mode=1)
    with pytest.raises(UnsupportedNodeError, match="training mode"):
        gradient(model([node], feeds), feeds, np.ones((2, 3), np.float32))
