"""FullGrad+: FullGrad's map and, on top, every layer's input times its gradient."""

from __future__ import annotations

import numpy as np
import pytest
from naive_psi import naive_psi
from tiny_models import fullgrad_net, model, node
from tiny_transformers import vision_transformer

import onnxplain as ox


@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_against_gradients_of_inner_tensors(sign: str) -> None:
    rng = np.random.default_rng(6)
    proto = model(
        [
            node("Conv", "x w b", "z", pads=[1, 1, 1, 1]),
            node("Relu", "z", "a"),
            node("Conv", "a u", "p", pads=[1, 1, 1, 1]),
            node("Relu", "p", "r"),
            node("Flatten", "r", "f"),
            node("Gemm", "f v d", "y"),
        ],
        {"x": ["N", 2, 5, 5]},
        {"y": ["N", 3]},
        {
            "w": rng.normal(size=(3, 2, 3, 3)), "b": rng.normal(size=3), "u": rng.normal(size=(2, 3, 3, 3)),
            "v": rng.normal(size=(50, 3)), "d": rng.normal(size=3),
        },
    )  # fmt: skip
    x = rng.normal(size=(2, 2, 5, 5)).astype(np.float32)
    e = ox.explain(proto, x, method="fullgrad_plus", target=1, sign=sign)
    plain = ox.explain(proto, x, method="fullgrad", target=1, sign=sign)
    cotangent = np.tile(np.array([[0.0, 1.0, 0.0]], np.float32), (2, 1))
    at = ox.vjp(proto, {"x": x}, {"y": cotangent}, wrt=["a", "r"])
    z = np.maximum(convolved(x, proto), 0)
    assert plain.saliency is not None and e.residual is not None and e.residual.ok
    # Of the two layers behind the first, the second reads the flattened map: its places are known all the same.
    r = np.maximum(convolved(z, proto, "u"), 0)
    extra = naive_psi(at["a"] * z, sign, "minmax", "layer") + naive_psi(
        (at["r"] * r).sum(axis=1, keepdims=True), sign, "minmax", "layer"
    )
    np.testing.assert_allclose(e.saliency, plain.saliency + extra, rtol=1e-3, atol=1e-3)


def convolved(x: np.ndarray, proto: object, name: str = "w") -> np.ndarray:
    from onnx import numpy_helper

    weights = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}  # type: ignore[attr-defined]
    kernel, padded = weights[name], np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    bias = weights["b"][None, :, None, None] if name == "w" else 0.0
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, kernel) + bias)


def test_a_layer_that_reads_the_input_counts_once() -> None:
    """One convolution alone: FullGrad+ is FullGrad where the rest reads no map."""
    rng = np.random.default_rng(0)
    proto = model(
        [node("Conv", "x w b", "z"), node("GlobalAveragePool", "z", "p"), node("Flatten", "p", "y")],
        {"x": ["N", 1, 4, 4]},
        {"y": ["N", 2]},
        {"w": rng.normal(size=(2, 1, 3, 3)), "b": rng.normal(size=2)},
    )
    x = rng.normal(size=(1, 1, 4, 4)).astype(np.float32)
    found = [ox.explain(proto, x, method=m, target=0).saliency for m in ("fullgrad", "fullgrad_plus")]
    np.testing.assert_array_equal(found[0], found[1])


def test_a_dense_layer_that_reads_the_flattened_picture() -> None:
    """Its input term is the picture's own, twice: once as the input's, once as the layer's."""
    rng = np.random.default_rng(0)
    proto = model(
        [node("Flatten", "x", "f"), node("Gemm", "f w b", "z"), node("Tanh", "z", "a"), node("Gemm", "a v", "y")],
        {"x": ["N", 1, 4, 3]},
        {"y": ["N", 2]},
        {"w": rng.normal(size=(12, 5)), "b": rng.normal(size=5), "v": rng.normal(size=(5, 2))},
    )
    x = rng.normal(size=(2, 1, 4, 3)).astype(np.float32)
    plain, plus = (ox.explain(proto, x, method=m, target=0) for m in ("fullgrad", "fullgrad_plus"))
    assert plain.saliency is not None
    # 1e-6: sums of 12 products in float32.
    np.testing.assert_allclose(plus.saliency, 2 * plain.saliency, rtol=1e-6, atol=1e-6)
    assert plus.residual is not None and plus.residual.ok


def test_transformers() -> None:
    proto, x = vision_transformer()
    e = ox.explain(proto, x, method="fullgrad_plus", target=1, balanced=True)
    assert e.saliency is not None and e.saliency.shape == (2, 6, 8)
    assert e.residual is not None and e.residual.ok
    small = ox.explain(*fullgrad_net(), method="fullgrad_plus", target=1)
    assert small.residual is not None and small.residual.ok
