"""FullGrad against values derived by hand for a small net, and against naive definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from naive_psi import naive_psi
from onnx import TensorProto
from tiny_models import fullgrad_net, model, node, simple_model
from tiny_transformers import attention_block, vision_transformer

import onnxplain as ox
from onnxplain.engine.errors import OptionError

#: The maps below are printed with five decimals.
PRINTED = 6e-6


def explain(target: int, **options: Any) -> ox.Explanation:
    proto, x = fullgrad_net()
    return ox.explain(proto, x, method="fullgrad", target=target, **options)


@pytest.mark.parametrize(
    ("target", "score", "input_term", "conv1", "conv2", "last"),
    [
        (0, -4.034375, -3.478125, (-0.8125, -0.59375), (0.75, 0.0), 0.1),
        (1, 7.946875, 6.771875, (1.0625, 0.4375), (-0.25, 0.125), -0.2),
    ],
)
def test_decomposition(
    target: int, score: float, input_term: float, conv1: tuple[float, ...], conv2: tuple[float, ...], last: float
) -> None:
    proto, x = fullgrad_net(TensorProto.DOUBLE)
    e = ox.explain(proto, x, method="fullgrad", target=target, term_maps=True, providers="reference")
    assert e.terms is not None and e.residual is not None
    assert e.score == pytest.approx(score, rel=1e-12)
    assert e.terms.input == pytest.approx(input_term, rel=1e-12)
    explicit = {i.parameter: k for k, i in enumerate(e.terms.info) if i.kind == "explicit"}
    channels = {p: e.terms.maps[k][0].reshape(2, -1).sum(axis=1) for p, k in explicit.items() if p != "b3"}
    np.testing.assert_allclose(channels["b1"], conv1, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(channels["b2"], conv2, rtol=1e-12, atol=1e-12)
    assert e.terms.biases[0, explicit["b3"]] == pytest.approx(last, rel=1e-12)
    assert e.terms.implicit == pytest.approx(0.0, abs=1e-12)
    assert e.terms.unattributed == pytest.approx(last, rel=1e-12)
    assert e.residual.relative.max() < 1e-12


def test_map_of_the_authors_current_code() -> None:
    expected = [
        [1.00000, 1.14166, 0.46765, 0.86405],
        [1.37222, 2.45408, 1.13889, 0.34167],
        [1.66666, 1.52916, 0.85555, 1.72712],
        [2.08104, 2.08251, 2.00000, 1.54166],
    ]
    np.testing.assert_allclose(explain(1).map(), expected, atol=PRINTED)


def test_half_pixel_upsampling() -> None:
    expected = [
        [1.00000, 1.22500, 0.38431, 0.86405],
        [1.28888, 2.47838, 0.98958, 0.30000],
        [1.74999, 1.71319, 0.79652, 1.76879],
        [2.08104, 2.20751, 1.87500, 1.54166],
    ]
    np.testing.assert_allclose(explain(1, align_corners=False).map(), expected, atol=PRINTED)


def test_rescale_per_channel() -> None:
    found = explain(1, scope="channel").map()
    np.testing.assert_allclose(found[3], [2.08104, 2.13293, 2.00000, 1.54166], atol=PRINTED)
    np.testing.assert_allclose([found[1][1], found[0][3], found[2][3]], [2.63055, 0.93968, 1.85317], atol=PRINTED)


def test_positive_terms_only() -> None:
    found = explain(1, sign="pos").map()
    np.testing.assert_allclose(found[3], [0.00000, 0.83299, 0.33333, 1.55172], atol=PRINTED)
    np.testing.assert_allclose(found[0], [1.00000, 1.25632, 0.33333, 0.98742], atol=PRINTED)


def test_published_small_network() -> None:
    """Input and bias terms of the two-layer net at x = (5, 3) and (1, 3), derived by hand."""
    x = np.array([[5.0, 3.0], [1.0, 3.0]], dtype=np.float32)
    for target, products, biases in [
        (0, [[5.5, -3.3], [0.5, -1.5]], [[(1.65, 0.0), 0.0], [(0.0, 0.5), 0.0]]),
        (1, [[7.0, -4.2], [-1.0, 3.0]], [[(2.1, 0.0), 2.0], [(0.0, -1.0), 2.0]]),
    ]:
        e = ox.explain(simple_model(), x, method="fullgrad", target=target, term_maps=True)
        assert e.terms is not None
        np.testing.assert_allclose(e.attributions["x"], products, atol=1e-5)
        first = {i.parameter: k for k, i in enumerate(e.terms.info)}
        for n, (hidden, last) in enumerate(biases):
            np.testing.assert_allclose(e.terms.maps[first["b1"]][n], hidden, atol=1e-5)
            np.testing.assert_allclose(e.terms.maps[first["b2"]][n, target], last, atol=1e-5)


@pytest.mark.parametrize("sign", ["abs", "pos", "neg", "signed"])
@pytest.mark.parametrize("rescale", ["minmax", "max", "none"])
@pytest.mark.parametrize("scope", ["layer", "channel", "batch"])
def test_psi_against_a_naive_one(sign: str, rescale: str, scope: str) -> None:
    """Every combination, on a batch, from the raw term maps with plain NumPy; equal resolution, so no upsampling."""
    rng = np.random.default_rng(3)
    w = rng.normal(size=(4, 2, 3, 3))
    proto = model(
        [
            node("Conv", "x w b", "z", pads=[1, 1, 1, 1]),
            node("Relu", "z", "a"),
            node("Flatten", "a", "f"),
            node("Gemm", "f v", "y"),
        ],
        {"x": ["N", 2, 5, 5]},
        {"y": ["N", 3]},
        {"w": w, "b": rng.normal(size=4), "v": rng.normal(size=(100, 3))},
    )  # fmt: skip
    x = rng.normal(size=(3, 2, 5, 5)).astype(np.float32)
    e = ox.explain(proto, x, method="fullgrad", target=1, sign=sign, rescale=rescale, scope=scope, term_maps=True)
    assert e.terms is not None
    expected = naive_psi(e.attributions["x"], sign, rescale, scope) + naive_psi(e.terms.maps[0], sign, rescale, scope)
    np.testing.assert_allclose(e.saliency, expected, rtol=2e-4, atol=1e-4)


def test_layers_choose_what_is_drawn() -> None:
    proto, x = fullgrad_net()
    only = ox.explain(proto, x, method="fullgrad", target=1, layers=("z1_node",), include_input=False)
    rest = ox.explain(proto, x, method="fullgrad", target=1, layers=("z2_node",), include_input=True)
    assert only.saliency is not None and rest.saliency is not None
    np.testing.assert_allclose(only.saliency + rest.saliency, explain(1).saliency, atol=1e-6)
    assert only.terms is not None and [i.node for i in only.terms.info if i.mapped] == ["z1_node"]
    assert only.residual is not None and only.residual.ok, "the decomposition stays whole whatever is drawn"


def test_layers_that_match_nothing_are_refused() -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError, match="matches no node"):
        ox.explain(proto, x, method="fullgrad", layers=("nothing*",))


def conv_bn(bias: bool) -> Any:
    rng = np.random.default_rng(5)
    weights = {
        "w": rng.normal(size=(3, 2, 3, 3)), "scale": rng.uniform(0.5, 2, 3), "beta": rng.normal(size=3),
        "mean": rng.normal(size=3), "var": rng.uniform(0.5, 2, 3), "v": rng.normal(size=(48, 2)),
    }  # fmt: skip
    if bias:
        weights["b"] = rng.normal(size=3)
    return model(
        [
            node("Conv", "x w b" if bias else "x w", "z", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "z scale beta mean var", "n"),
            node("Relu", "n", "a"),
            node("Flatten", "a", "f"),
            node("Gemm", "f v", "y"),
        ],
        {"x": ["N", 2, 4, 4]},
        {"y": ["N", 2]},
        weights,
    )


@pytest.mark.parametrize("bias", [False, True])
def test_bias_granularity(bias: bool) -> None:
    """Folding changes no total; the map only where the convolution has a bias of its own."""
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    by_op = ox.explain(conv_bn(bias), x, method="fullgrad", target=0)
    by_block = ox.explain(conv_bn(bias), x, method="fullgrad", target=0, bias_granularity="block")
    assert by_op.terms is not None and by_block.terms is not None
    np.testing.assert_allclose(by_op.terms.total, by_block.terms.total, rtol=1e-5)
    np.testing.assert_allclose(by_op.terms.explicit, by_block.terms.explicit, rtol=1e-4)
    same = np.allclose(by_op.saliency, by_block.saliency, atol=1e-4)
    assert same != bias
    assert [i.operator for i in by_block.terms.info if i.kind == "explicit"] == ["Conv"]


@pytest.mark.parametrize("activation", ["Sigmoid", "Tanh", "Softplus", "Elu", "HardSwish"])
def test_smooth_networks_are_complete_only_with_implicit_terms(activation: str) -> None:
    rng = np.random.default_rng(1)
    proto = model(
        [node("Gemm", "x w b", "z"), node(activation, "z", "a"), node("Gemm", "a v c", "y")],
        {"x": ["N", 4]},
        {"y": ["N", 3]},
        {"w": rng.normal(size=(4, 5)), "b": rng.normal(size=5), "v": rng.normal(size=(5, 3)), "c": rng.normal(size=3)},
    )
    e = ox.explain(proto, rng.normal(size=(6, 4)).astype(np.float32), method="fullgrad")
    assert e.terms is not None and e.residual is not None
    assert e.residual.relative.max() < 1e-5
    assert np.abs(e.terms.implicit).min() > 1e-3, "the implicit part must be visible, or this test shows nothing"
    assert any("implicit" in note for note in e.notes)


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_time_major_networks_keep_samples_apart(samples: int) -> None:
    """The bias is added behind a Transpose to [T, N, D], with N equal to T among others."""
    rng = np.random.default_rng(2)
    proto = model(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("MatMul", "t w", "m"),
            node("Add", "m b", "z"),
            node("Tanh", "z", "a"),
            node("Transpose", "a", "back", perm=[1, 0, 2]),
            node("Flatten", "back", "f"),
            node("Gemm", "f v", "y"),
        ],
        {"x": ["N", 4, 3]},
        {"y": ["N", 2]},
        {"w": rng.normal(size=(3, 5)), "b": rng.normal(size=5), "v": rng.normal(size=(20, 2))},
    )
    x = rng.normal(size=(samples, 4, 3)).astype(np.float32)
    e = ox.explain(proto, x, method="fullgrad", target=0)
    assert e.residual is not None and e.residual.relative.max() < 1e-5
    for n in range(samples):
        alone = ox.explain(proto, x[n : n + 1], method="fullgrad", target=0)
        assert e.terms is not None and alone.terms is not None
        np.testing.assert_allclose(alone.terms.biases[0], e.terms.biases[n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_heads_joined_with_the_batch(samples: int) -> None:
    """Attention written on [N heads, T, D]: the product's implicit bias is summed per sample."""
    rng = np.random.default_rng(4)
    proto = model(
        [
            node("MatMul", "x w", "p"),
            node("Reshape", "p split", "s"),
            node("Transpose", "s", "h", perm=[0, 2, 1, 3]),
            node("Reshape", "h join", "j"),
            node("Transpose", "j", "k", perm=[0, 2, 1]),
            node("MatMul", "j k", "scores"),
            node("Softmax", "scores", "q", axis=-1),
            node("MatMul", "q j", "o"),
            node("Reshape", "o flat", "f"),
            node("Gemm", "f v", "y"),
        ],
        {"x": ["N", 3, 4]},
        {"y": ["N", 2]},
        {
            "w": rng.normal(size=(4, 4)),
            "v": rng.normal(size=(12, 2)),
            "split": np.array([-1, 3, 2, 2]),
            "join": np.array([-1, 3, 2]),
            "flat": np.array([-1, 12]),
        },
    )
    x = rng.normal(size=(samples, 3, 4)).astype(np.float32)
    e = ox.explain(proto, x, method="fullgrad", target=1)
    assert e.residual is not None and e.residual.relative.max() < 1e-5


# ----- token maps and sums that are kept ----------------------------------------------------------------


@pytest.mark.parametrize("readout", ["class", "mean", "patches"])
@pytest.mark.parametrize("balanced", [False, True])
def test_vision_transformers(readout: str, balanced: bool) -> None:
    """Complete; what has a place and what has none add up to the score."""
    proto, x = vision_transformer(readout=readout)
    e = ox.explain(proto, x, method="fullgrad", target=1, balanced=balanced, implicit=True, term_maps=True)
    assert e.residual is not None and e.residual.relative.max() < 1e-5
    assert e.saliency is not None and e.saliency.shape == (2, 6, 8)
    assert e.terms is not None and e.terms.unplaced is not None
    lost = np.zeros(2)
    for k, info in enumerate(e.terms.info):
        terms = e.terms.maps[k]
        if not info.placed:
            lost += terms.reshape(2, -1).sum(axis=1)
        elif 13 in terms.shape:  # twelve patches and the class token, wherever that axis is
            lost += np.take(terms, 0, axis=terms.shape.index(13)).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(e.terms.unattributed, lost, rtol=1e-4, atol=1e-4)
    share = e.terms.unattributed_share
    assert ((share > 0) & (share < 1)).all()
    assert e.summary(0)["terms"]["unattributed_share"] == pytest.approx(share[0])


def test_a_class_token_alone_has_no_place() -> None:
    """The constant that Concat puts in front of the patches is the class token, and nothing else of it is left."""
    proto, x = vision_transformer()
    e = ox.explain(proto, x, method="fullgrad", target=1, term_maps=True)
    assert e.terms is not None and e.terms.unplaced is not None
    k = next(k for k, i in enumerate(e.terms.info) if i.operator == "Concat")
    np.testing.assert_allclose(e.terms.unplaced[:, k], e.terms.biases[:, k], rtol=1e-5, atol=1e-6)
    positions = next(k for k, i in enumerate(e.terms.info) if i.parameter == "positions")
    np.testing.assert_allclose(
        e.terms.unplaced[:, positions], e.terms.maps[positions][:, 0].sum(axis=-1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("align_corners", [False, True])
def test_signed_maps_that_keep_their_sums(align_corners: bool) -> None:
    """The map sums to the score without what has no place; on convolutions, series, patches and tokens."""
    options: dict[str, Any] = {"sign": "signed", "rescale": "none", "conserve": True, "implicit": True}
    nets = [fullgrad_net(), vision_transformer(), vision_transformer(readout="mean"), series_net()]
    for proto, x in nets:
        e = ox.explain(proto, x, method="fullgrad", target=1, align_corners=align_corners, **options)
        assert e.terms is not None and e.saliency is not None
        total = e.saliency.reshape(len(x), -1).sum(axis=1)
        gap = np.abs(total - (e.score - e.terms.unattributed))
        assert (gap <= 1e-5 * e.terms.magnitude).all()
    plain = ox.explain(*fullgrad_net(), method="fullgrad", target=1, sign="signed", rescale="none")
    assert plain.saliency is not None and plain.terms is not None
    assert abs(plain.saliency.sum() - (plain.score - plain.terms.unattributed)[0]) > 0.1, "interpolated, it has no sum"


def series_net() -> tuple[Any, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(9)
    proto = model(
        [
            node("Conv", "x k b", "z", pads=[1, 1], strides=[2]),
            node("Relu", "z", "a"),
            node("Conv", "a k2 b2", "z2", pads=[1, 1]),
            node("Sigmoid", "z2", "a2"),
            node("GlobalAveragePool", "a2", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f w c", "y"),
        ],
        {"x": ["N", 2, 12]},
        {"y": ["N", 2]},
        {
            "k": rng.normal(size=(3, 2, 3)), "b": rng.normal(size=3), "k2": rng.normal(size=(4, 3, 3)),
            "b2": rng.normal(size=4), "w": rng.normal(size=(4, 2)), "c": rng.normal(size=2),
        },
    )  # fmt: skip
    return proto, rng.normal(size=(3, 2, 12)).astype(np.float32)


def test_tokens_of_a_text() -> None:
    """Positions of a sequence: the signed sum over features of each term, per token, before psi."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    e = ox.explain(
        attention_block(), x, method="fullgrad", target=1, layout="channels_last", term_maps=True,
        sign="signed", rescale="none", implicit=True,
    )  # fmt: skip
    assert e.terms is not None and e.saliency is not None and e.saliency.shape == (2, 3)
    expected = e.attributions["x"].sum(axis=-1)
    for k, info in enumerate(e.terms.info):
        terms = e.terms.maps[k]
        assert info.placed == (info.operator not in ("Softmax", "Gemm") and info.tensor != "b0_scores")
        if info.placed:
            axis = terms.shape.index(3)
            expected = expected + np.moveaxis(terms, axis, 1).reshape(2, 3, -1).sum(axis=-1)
    np.testing.assert_allclose(e.saliency, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(e.saliency.sum(axis=1), e.score - e.terms.unattributed, rtol=1e-4, atol=1e-4)


def test_weak_dependence() -> None:
    """Inside one linear region gradient and explicit terms do not move with the input."""
    proto, x = fullgrad_net()
    a = ox.explain(proto, x, method="fullgrad", target=1)
    b = ox.explain(proto, x * (1 + 1e-4), method="fullgrad", target=1)
    assert a.terms is not None and b.terms is not None
    np.testing.assert_allclose(a.terms.biases, b.terms.biases, rtol=1e-6, atol=1e-7)


def test_batch_equals_one_by_one() -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, x * 0.5 + 0.3])
    together = ox.explain(proto, batch, method="fullgrad")
    for n in range(3):
        alone = ox.explain(proto, batch[n : n + 1], method="fullgrad")
        np.testing.assert_allclose(alone.map(), together.map(n), atol=1e-5)
    chunked = ox.explain(proto, batch, method="fullgrad", memory_mib=0.001)
    np.testing.assert_allclose(chunked.saliency, together.saliency, atol=1e-5)
