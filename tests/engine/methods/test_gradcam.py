"""Grad-CAM and its family against their formulas in NumPy on a net whose gradient is written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_models import fullgrad_net, model, node
from tiny_transformers import attention_block, vision_transformer

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


# ----- tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readout", "layer", "words"),
    [
        ("class", "b1_n1", "1 token without a place left out"),
        ("mean", "norm", "1 token without a place left out"),
        ("patches", "only", "the answer reads the places"),
    ],
)
def test_layer_of_a_vision_transformer(readout: str, layer: str, words: str) -> None:
    """Behind the last attention a class token reads no patch: the layer in front of it is taken."""
    proto, x = vision_transformer(readout=readout)
    for method in FAMILY:
        e = ox.explain(proto, x, method=method, target=1, relu=False)
        assert list(e.attributions) == [layer] and words in e.notes[0]
        assert e.attributions[layer].shape == (2, 3, 4, 8)
        assert e.saliency is not None and e.saliency.shape == (2, 6, 8) and np.abs(e.saliency).max() > 1e-4
    rows = ox.vjp(proto, {"x": x}, {"y": np.tile(np.array([[0, 1, 0]], np.float32), (2, 1))}, wrt=[layer])[layer]
    found = ox.explain(proto, x, method="hirescam", target=1, relu=False).attributions[layer]
    patches = rows if readout == "patches" else rows[:, 1:]
    activations = run(proto, layer, x) if readout == "patches" else run(proto, layer, x)[:, 1:]
    np.testing.assert_allclose(found.reshape(2, 12, 8), patches * activations, rtol=1e-3, atol=1e-5)


def run(proto: onnx.ModelProto, name: str, x: Array) -> Array:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return np.asarray(ReferenceEvaluator(copy).run([name], {"x": x})[0])


def test_mean_of_patches_sums_to_the_logit() -> None:
    """Mean pooling and one linear layer, on tokens: the map is a class activation map."""
    proto, x = vision_transformer(readout="patches")
    offset = next(onnx.numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == "offset")
    for method in ("gradcam", "hirescam", "xgradcam"):
        e = ox.explain(proto, x, method=method, target=2, relu=False)
        np.testing.assert_allclose(e.attributions["only"].sum(axis=(1, 2, 3)), e.score - offset[2], rtol=1e-4)


def test_layers_of_tokens_by_name() -> None:
    proto, x = vision_transformer()
    for name, shape in (("patches", (2, 8, 3, 4)), ("z1", (2, 3, 4, 8)), ("b0_v", (2, 2, 3, 4, 4))):
        e = ox.explain(proto, x, method="gradcam", target=1, layer=name)
        assert e.attributions[name].shape == shape
    with pytest.raises(OptionError, match="has not the input's places"):
        ox.explain(proto, x, method="gradcam", layer="b0_attention")


def test_tokens_of_a_text() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    e = ox.explain(attention_block(), x, method="gradcam", target=1, layout="channels_last", relu=False)
    offset = next(onnx.numpy_helper.to_array(i) for i in attention_block().graph.initializer if i.name == "offset")
    assert list(e.attributions) == ["z"] and e.saliency is not None
    np.testing.assert_allclose(e.saliency.sum(axis=1), e.score - offset[1], rtol=1e-4)
