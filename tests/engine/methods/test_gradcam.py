"""Grad-CAM and its family against their formulas in NumPy on a net whose gradient is written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import InputError, OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
K, B = RNG.normal(size=(4, 2, 1, 1)), RNG.normal(size=4)
W, C = RNG.normal(size=(4, 3)), RNG.normal(size=3)
DENSE = RNG.normal(size=(4 * 5 * 6, 3))
X = RNG.normal(size=(3, 2, 5, 6)).astype(np.float32)
FAMILY = ("gradcam", "gradcam_plus_plus", "hirescam", "layercam", "xgradcam")


def pooled_net() -> Any:
    """Pointwise Conv, ReLU, global pooling, Gemm."""
    return model(
        [
            node("Conv", "x k b", "z"),
            node("Relu", "z", "a"),
            node("GlobalAveragePool", "a", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f w c", "y"),
        ],
        {"x": ["N", 2, 5, 6]},
        {"y": ["N", 3]},
        {"k": K, "b": B, "w": W, "c": C},
    )


def dense_net() -> Any:
    """The same features under a Gemm that weighs each place by itself."""
    return model(
        [node("Conv", "x k b", "z"), node("Relu", "z", "a"), node("Flatten", "a", "f"), node("MatMul", "f w", "y")],
        {"x": ["N", 2, 5, 6]},
        {"y": ["N", 3]},
        {"k": K, "b": B, "w": DENSE},
    )


def features() -> Array:
    return np.maximum(np.einsum("nchw,oc->nohw", X.astype(np.float64), K[:, :, 0, 0]) + B[:, None, None], 0)


def policy(g: Array, sign: str) -> Array:
    return {"signed": g, "pos": np.maximum(g, 0), "neg": np.minimum(g, 0), "abs": np.abs(g)}[sign]


def plus_plus(a: Array, g: Array, normalize: bool, sign: str = "pos") -> Array:
    """Channel by channel, as the formula reads."""
    result = np.zeros(a.shape[:2])
    for n, k in np.ndindex(*result.shape):
        alpha = np.zeros(a.shape[2:])
        for place in np.ndindex(*alpha.shape):
            v = g[n, k][place]
            below = 2 * v**2 + a[n, k].sum() * v**3
            alpha[place] = v**2 / (below if below != 0 else 1)
        counted = policy(g[n, k], sign)
        if normalize:
            total = alpha[counted != 0].sum()
            alpha /= total if total != 0 else 1
        result[n, k] = (alpha * counted).sum()
    return result[:, :, None, None] * a


def naive(method: str, a: Array, g: Array) -> Array:
    if method == "gradcam":
        return g.mean(axis=(2, 3), keepdims=True) * a
    if method == "gradcam_plus_plus":
        return plus_plus(a, g, True)
    if method == "hirescam":
        return g * a
    if method == "layercam":
        return np.maximum(g, 0) * a
    return (g * a).sum(axis=(2, 3), keepdims=True) / (a.sum(axis=(2, 3), keepdims=True) + 1e-7) * a


def dense_gradient(target: int) -> Array:
    return np.broadcast_to(DENSE[:, target].reshape(4, 5, 6), (3, 4, 5, 6))


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("target", [0, 2])
def test_family_against_its_formulas(method: str, target: int) -> None:
    e = ox.explain(dense_net(), X, method=method, target=target)
    expected = naive(method, features(), dense_gradient(target))
    assert list(e.attributions) == ["a"]
    np.testing.assert_allclose(e.attributions["a"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(e.saliency, np.maximum(expected.sum(axis=1), 0), rtol=1e-3, atol=2e-4)
    signed = ox.explain(dense_net(), X, method=method, target=target, relu=False)
    np.testing.assert_allclose(signed.saliency, expected.sum(axis=1), rtol=1e-3, atol=2e-4)
    assert signed.signed and not e.signed


@pytest.mark.parametrize("sign", ["signed", "pos", "neg", "abs"])
def test_sign_policies(sign: str) -> None:
    a, g = features(), policy(dense_gradient(1), sign)
    e = ox.explain(dense_net(), X, method="gradcam", target=1, sign=sign)
    np.testing.assert_allclose(e.attributions["a"], g.mean(axis=(2, 3), keepdims=True) * a, rtol=1e-4, atol=1e-5)
    e = ox.explain(dense_net(), X, method="hirescam", target=1, sign=sign)
    np.testing.assert_allclose(e.attributions["a"], g * a, rtol=1e-4, atol=1e-5)


def test_plus_plus_without_normalised_alphas() -> None:
    e = ox.explain(dense_net(), X, method="gradcam_plus_plus", target=1, normalize=False)
    expected = plus_plus(features(), dense_gradient(1), False)
    np.testing.assert_allclose(e.attributions["a"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
@pytest.mark.parametrize("target", [0, 1])
def test_sums_to_the_logit_without_its_bias(method: str, target: int) -> None:
    """Global pooling and one linear layer: the map is the class activation map, and sums to logit - bias."""
    e = ox.explain(pooled_net(), X, method=method, target=target, relu=False)
    assert e.saliency is not None
    np.testing.assert_allclose(e.saliency.sum(axis=(1, 2)), e.score - C[target], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(e.saliency, np.einsum("nkhw,k->nhw", features(), W[:, target]) / 30, atol=1e-5)


def test_classes_differ() -> None:
    a, b = (ox.explain(pooled_net(), X, method="gradcam", target=t, relu=False).map() for t in (0, 1))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.9


def test_upsampled_to_the_input() -> None:
    """The feature map in front of the pooling is half the picture: corners stay, and all lies between."""
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="gradcam", target=1, relu=False)
    assert list(e.attributions) == ["a2"] and "before 'flat_node' (Flatten)" in e.notes[0]
    small = e.attributions["a2"].sum(axis=1)
    assert small.shape == (1, 2, 2) and e.saliency is not None and e.saliency.shape == (1, 4, 4)
    np.testing.assert_allclose(e.saliency[:, ::3, ::3], small, atol=1e-6)
    np.testing.assert_allclose(e.saliency[0, 0, 1], small[0, 0] @ [2 / 3, 1 / 3], atol=1e-6)


def test_layer_by_name_of_tensor_or_node() -> None:
    proto, x = fullgrad_net()
    for name in ("a1", "a1_node"):
        e = ox.explain(proto, x, method="gradcam", target=1, layer=name)
        assert e.attributions["a1"].shape == (1, 2, 4, 4) and "as asked for" in e.notes[0]


def test_layers_without_places_are_refused() -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError, match="has not the input's places"):
        ox.explain(proto, x, method="gradcam", layer="flat")
    with pytest.raises(InputError, match="no tensor named"):
        ox.explain(proto, x, method="gradcam", layer="nothing")


def test_rows_are_refused() -> None:
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": W})
    with pytest.raises(OptionError, match="needs feature maps"):
        ox.explain(proto, np.ones((1, 4), np.float32), method="gradcam")


def test_series() -> None:
    kernel, weights = RNG.normal(size=(3, 1, 3)), RNG.normal(size=(3, 2))
    proto = model(
        [
            node("Conv", "x k", "z", pads=[1, 1]),
            node("Relu", "z", "a"),
            node("GlobalAveragePool", "a", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f w", "y"),
        ],
        {"x": ["N", 1, 8]},
        {"y": ["N", 2]},
        {"k": kernel, "w": weights},
    )
    e = ox.explain(proto, RNG.normal(size=(2, 1, 8)).astype(np.float32), method="gradcam", target=1, relu=False)
    assert e.saliency is not None and e.saliency.shape == (2, 8)
    np.testing.assert_allclose(e.saliency.sum(axis=1), e.score, rtol=1e-5, atol=1e-6)
