"""Eigen-CAM against NumPy's singular value decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_models import model, node
from tiny_transformers import vision_transformer

import onnxplain as ox

Array = np.ndarray[Any, Any]


def activations(proto: onnx.ModelProto, name: str, x: Array) -> Array:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return np.asarray(ReferenceEvaluator(copy).run([name], {"x": x})[0], dtype=np.float64)


def projected(rows: Array, center: bool) -> Array:
    """``[P, C]`` onto its first right singular vector, the largest magnitude positive."""
    rows = rows - rows.mean(axis=0) if center else rows
    line = rows @ np.linalg.svd(rows, full_matrices=False)[2][0]
    return line if line[np.abs(line).argmax()] > 0 else -line


def convolutional(channels: int, activation: str, size: int = 6) -> tuple[onnx.ModelProto, Array]:
    rng = np.random.default_rng(channels)
    proto = model(
        [
            node("Conv", "x w b", "z", pads=[1, 1, 1, 1]),
            node(activation, "z", "a"),
            node("GlobalAveragePool", "a", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f v", "y"),
        ],
        {"x": ["N", 2, size, size]},
        {"y": ["N", 3]},
        {"w": rng.normal(size=(channels, 2, 3, 3)), "b": rng.normal(size=channels), "v": rng.normal(size=(channels, 3))},
    )  # fmt: skip
    return proto, rng.normal(size=(3, 2, size, size)).astype(np.float32)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("channels", [1, 5, 80])
def test_against_numpy(channels: int, activation: str, center: bool) -> None:
    """More places than channels, and fewer; signs of one kind, and of both."""
    proto, x = convolutional(channels, activation)
    a = activations(proto, "a", x)
    e = ox.explain(proto, x, method="eigencam", center=center, relu=False)
    assert e.saliency is not None and e.saliency.shape == (3, 6, 6)
    for n in range(3):
        expected = projected(a[n].reshape(channels, -1).T, center).reshape(6, 6)
        np.testing.assert_allclose(e.map(n), expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(e.attributions["a"][n].sum(axis=0), expected, atol=1e-4 * np.abs(expected).max())
    cut = ox.explain(proto, x, method="eigencam", center=center)
    np.testing.assert_allclose(cut.saliency, np.maximum(e.saliency, 0), atol=1e-6)


def test_close_singular_values() -> None:
    """The second is 99.9 % of the first: the fixed number of steps is enough."""
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(16, 3)))[0], np.linalg.qr(rng.normal(size=(4, 3)))[0]
    rows = (left * [1.0, 0.999, 0.3]) @ right.T
    proto = model(
        [node("Add", "x c", "a"), node("GlobalAveragePool", "a", "p"), node("Flatten", "p", "y")],
        {"x": ["N", 4, 4, 4]},
        {"y": ["N", 4]},
        {"c": np.zeros(1)},
    )
    x = rows.T.reshape(1, 4, 4, 4).astype(np.float32)
    e = ox.explain(proto, x, method="eigencam", relu=False, layer="a", target=0)
    np.testing.assert_allclose(e.map().ravel(), projected(x.reshape(4, 16).T.astype(np.float64), False), atol=1e-3)


def test_no_class_is_looked_at() -> None:
    proto, x = convolutional(5, "Relu")
    found = [ox.explain(proto, x, method="eigencam", target=t) for t in (0, 2)]
    np.testing.assert_array_equal(found[0].saliency, found[1].saliency)
    assert any("does not depend on the target" in note for note in found[0].notes)


def test_dead_layers_give_an_empty_map() -> None:
    proto, x = convolutional(5, "Relu")
    for i in proto.graph.initializer:
        if i.name == "b":
            i.CopyFrom(onnx.numpy_helper.from_array(np.full(5, -100, np.float32), "b"))
    e = ox.explain(proto, x, method="eigencam")
    assert e.saliency is not None and not e.saliency.any()


def test_channels_last_and_series() -> None:
    rng = np.random.default_rng(2)
    proto = model(
        [node("Conv", "x w b", "z"), node("Relu", "z", "a"), node("GlobalAveragePool", "a", "p"), node("Flatten", "p", "y")],
        {"x": ["N", 1, 20]},
        {"y": ["N", 4]},
        {"w": rng.normal(size=(4, 1, 3)), "b": rng.normal(size=4)},
    )  # fmt: skip
    x = rng.normal(size=(2, 1, 20)).astype(np.float32)
    e = ox.explain(proto, x, method="eigencam", relu=False)
    a = activations(proto, "a", x)
    np.testing.assert_allclose(e.attributions["a"][1].sum(axis=0), projected(a[1].T, False), rtol=1e-3, atol=1e-4)


def test_tokens() -> None:
    """Patches on their grid, the class token left out; the singular vector is of the patches alone."""
    proto, x = vision_transformer()
    e = ox.explain(proto, x, method="eigencam", relu=False)
    (name, found), *_ = e.attributions.items()
    rows = activations(proto, name, x)[:, 1:]
    assert found.shape == (2, 3, 4, 8)
    for n in range(2):
        np.testing.assert_allclose(found[n].sum(axis=-1).ravel(), projected(rows[n], False), rtol=1e-3, atol=1e-4)
