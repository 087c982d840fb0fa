"""Real networks: complete, unchanged, agreeing with each other, and one by one as in a batch.

The files are no part of the project; where they are not at hand, everything here is skipped and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_models import assets

import onnxplain as ox

FOLDER = assets()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FOLDER is None, reason="the development models are not here; name their folder in ONNXPLAIN_ASSETS"
    ),
]

Array = np.ndarray[Any, Any]
NAMES = sorted(p.stem for p in FOLDER.glob("*.onnx")) if FOLDER is not None else []

#: float32, relative to the sum of all terms' magnitudes (the authors' own tolerance).
COMPLETE = 1e-4
#: Of the largest output.
UNCHANGED = 1e-5


def path(name: str) -> Path:
    assert FOLDER is not None
    return FOLDER / f"{name}.onnx"


@cache
def loaded(name: str) -> ox.Model:
    return ox.load(path(name), threads=1)


def data(name: str) -> Array:
    """Two samples: real ones where they are at hand, smooth random pictures for ImageNet."""
    assert FOLDER is not None
    folder = FOLDER / "data"
    if name.startswith("fmnist"):
        pictures = np.load(folder / "fmnist_test.npz")
        images = next(pictures[k] for k in pictures.files if pictures[k].ndim > 1)
        return (images[:2].reshape(2, 1, 28, 28) / 255.0).astype(np.float32)
    if name.startswith("gunpoint"):
        series = np.load(folder / "gunpoint_test.npz")
        rows = next(series[k] for k in series.files if series[k].ndim > 1)
        return rows[:2].reshape(2, 1, 150).astype(np.float32)
    if name.startswith("sentiment"):
        return np.random.default_rng(0).integers(1, 500, size=(2, 50))
    shape = [2, *(int(d) for d in loaded(name).inputs[0].shape[1:])]  # type: ignore[index, arg-type]
    rng = np.random.default_rng(0)
    if shape[-1] < 32:
        return rng.uniform(size=shape).astype(np.float32)
    coarse = rng.normal(size=(2, 3, 14, 14)).repeat(16, axis=2).repeat(16, axis=3)
    return (0.6 * coarse + 0.1 * rng.normal(size=coarse.shape)).astype(np.float32)


@cache
def fullgrad(name: str) -> ox.Explanation:
    return ox.explain(loaded(name), data(name), method="fullgrad")


@pytest.mark.parametrize("name", NAMES)
def test_full_gradient_is_complete_and_outputs_unchanged(name: str) -> None:
    e = fullgrad(name)
    assert e.residual is not None
    assert e.residual.relative.max() <= COMPLETE
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path(name)), options, providers=["CPUExecutionProvider"])
    plain = session.run(None, {session.get_inputs()[0].name: data(name)})
    for found, expected in zip(e.outputs.values(), plain, strict=True):
        assert np.abs(found - expected).max() <= UNCHANGED * np.abs(expected).max()
    assert e.blocked == ()
    assert np.isfinite(e.saliency).all()  # type: ignore[arg-type]


def ended(proto: onnx.ModelProto, nodes: Callable[[str, str], list[onnx.NodeProto]]) -> onnx.ModelProto:
    """The model with something appended to its first output."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    old = copy.graph.output[0]
    new = helper.make_tensor_value_info("ended", TensorProto.FLOAT, None)
    new.type.CopyFrom(old.type)
    copy.graph.node.extend(nodes(old.name, "ended"))
    del copy.graph.output[:]
    copy.graph.output.append(new)
    return copy


def softmax(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Softmax", [x], [y], axis=-1)]


def silu(x: str, y: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Sigmoid", [x], ["gate"]), helper.make_node("Mul", [x, "gate"], [y])]


SMALL = [n for n in NAMES if not n.startswith("efficientnet")]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("end", [softmax, silu], ids=["softmax", "silu"])
def test_complete_behind_a_softmax_and_a_silu(name: str, end: Any) -> None:
    """The probability itself is explained, or a product of the logit with its own sigmoid."""
    proto = ended(onnx.load(path(name)), end)
    e = ox.explain(proto, data(name), method="fullgrad", head="probability" if end is softmax else "logit")
    assert e.residual is not None
    assert e.terms is not None
    assert e.residual.relative.max() <= COMPLETE
    assert np.abs(e.terms.implicit).max() > 0
    if end is softmax:
        logit = ox.explain(proto, data(name), method="fullgrad")
        np.testing.assert_allclose(logit.score, fullgrad(name).score, rtol=1e-4)


def activations_replaced(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same net with every Relu or Clip turned into a SiLU."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    nodes = []
    for node in copy.graph.node:
        if node.op_type not in ("Relu", "Clip"):
            nodes.append(node)
            continue
        gate = f"{node.output[0]}/gate"
        nodes.append(helper.make_node("Sigmoid", [node.input[0]], [gate]))
        nodes.append(helper.make_node("Mul", [node.input[0], gate], [node.output[0]]))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.startswith(("digits", "fmnist-lenet", "fmnist-resnet", "gunpoint"))]
)
def test_complete_with_silu_everywhere_and_only_with_implicit_terms(name: str) -> None:
    e = ox.explain(activations_replaced(onnx.load(path(name))), data(name), method="fullgrad")
    assert e.residual is not None
    assert e.terms is not None
    assert e.residual.relative.max() <= COMPLETE
    assert (np.abs(e.terms.implicit) / e.terms.magnitude).max() > 1e-2


@pytest.mark.skipif("efficientnet-lite0-op18" not in NAMES, reason="EfficientNet-Lite0 is not here")
def test_two_exports_of_one_network_agree() -> None:
    """BatchNormalization folded by the exporter, or kept: the same totals, though other nodes carry them."""
    folded, kept = fullgrad("efficientnet-lite0-op18"), fullgrad("efficientnet-lite0-op17-bn")
    np.testing.assert_array_equal(folded.target, kept.target)
    assert folded.terms is not None
    assert kept.terms is not None
    scale = np.maximum(folded.terms.magnitude, kept.terms.magnitude)
    assert (np.abs(folded.terms.total - kept.terms.total) <= 1e-3 * scale).all()
    assert (np.abs(folded.terms.input - kept.terms.input) <= 1e-3 * scale).all()
    assert (np.abs(folded.terms.explicit - kept.terms.explicit) <= 1e-3 * scale).all()
    gradients = [
        ox.explain(loaded(n), data(n)[:1], method="gradient").attributions[loaded(n).inputs[0].name]
        for n in ("efficientnet-lite0-op18", "efficientnet-lite0-op17-bn")
    ]
    assert np.linalg.norm(gradients[0] - gradients[1]) <= 1e-3 * np.linalg.norm(gradients[0])


def as_double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float64: weights, inputs, casts and results."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
            )
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                array = onnx.numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array, attribute.t.name))
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


EXACT = ["digits-cnn", "fmnist-lenet", "fmnist-mlp", "fmnist-resnet-bn", "gunpoint-fcn", "efficientnet-lite0-op18"]


@pytest.mark.parametrize("name", [n for n in EXACT if n in NAMES])
def test_float32_gradient_against_float64(name: str) -> None:
    """Norm-relative 1e-5 at one of three inputs, and within 1e-2 at those tried before it.

    Two clusters are what units near a kink give: rounded to its other side they change the gradient by some
    1e-3, and where none is, it agrees to 1e-6. A wrong rule would be far off at every input.
    """
    model = onnx.load(path(name))
    double = as_double(model)
    source, output = loaded(name).inputs[0].name, loaded(name).outputs[0].name
    gaps: list[float] = []
    for scale in (0.5, -1.0, 1.0):
        x, u = np.float32(scale) * data(name)[:1], seed(name)
        found = ox.vjp(model, {source: x}, {output: u})[source]
        exact = ox.vjp(double, {source: x.astype(float)}, {output: u.astype(float)}, providers="reference")[source]
        assert exact.dtype == np.float64
        gaps.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
        if gaps[-1] <= 1e-5:
            break
    assert min(gaps) <= 1e-5, gaps
    assert max(gaps) <= 1e-2, gaps


def seed(name: str) -> Array:
    width = loaded(name).outputs[0].shape[1]  # type: ignore[index]
    return np.eye(int(width), dtype=np.float32)[:1]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    """Rows of a batch of two against each row alone, relative to the largest."""
    whole = fullgrad(name)
    x = data(name)
    for n in range(len(x)):
        alone = ox.explain(loaded(name), x[n : n + 1], method="fullgrad")
        for key, array in alone.attributions.items():
            gap = np.linalg.norm(array[0] - whole.attributions[key][n])
            assert gap <= 1e-4 * np.linalg.norm(whole.attributions[key][n])
        assert alone.score[0] == pytest.approx(whole.score[n], rel=1e-5, abs=1e-5)


@pytest.mark.skipif("efficientnet-lite0-int8-qdq" not in NAMES, reason="the int8 network is not here")
def test_int8_is_labelled_and_not_zero() -> None:
    e = fullgrad("efficientnet-lite0-int8-qdq")
    assert e.quantisation == "straight_through"
    gradient = next(iter(e.attributions.values()))
    assert (np.abs(gradient).reshape(len(e), -1).max(axis=1) > 0).all()
    assert fullgrad("efficientnet-lite0-op18").quantisation == "none"


@pytest.mark.skipif("sentiment-textcnn" not in NAMES, reason="the text network is not here")
def test_words_are_explained_one_by_one() -> None:
    """A word that speaks for the class gets more than the padding around it."""
    assert FOLDER is not None
    vocabulary: Mapping[str, int] = json.loads((FOLDER / "sentiment-vocab.json").read_text(encoding="utf-8"))
    words = [w for w in ("wonderful", "awful", "brilliant", "boring", "terrible") if w in vocabulary]
    assert words
    ids = np.zeros((1, 50), np.int64)
    ids[0, 10] = vocabulary[words[0]]
    e = ox.explain(loaded("sentiment-textcnn"), ids, method="integrated_gradients")
    assert e.saliency is not None
    assert e.saliency.shape == (1, 50)
    assert int(np.abs(e.saliency[0]).argmax()) == 10
