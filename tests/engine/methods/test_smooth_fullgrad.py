"""Smooth FullGrad: sums over noisy copies before psi, against a loop over single explanations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from naive_psi import naive_psi
from tiny_models import fullgrad_net, model, node
from tiny_transformers import vision_transformer

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]


def net() -> tuple[Any, Array]:
    rng = np.random.default_rng(3)
    proto = model(
        [
            node("Conv", "x w b", "z", pads=[1, 1, 1, 1]),
            node("Relu", "z", "a"),
            node("Flatten", "a", "f"),
            node("Gemm", "f v", "y"),
        ],
        {"x": ["N", 2, 5, 5]},
        {"y": ["N", 3]},
        {"w": rng.normal(size=(4, 2, 3, 3)), "b": rng.normal(size=4), "v": rng.normal(size=(100, 3))},
    )
    return proto, rng.normal(size=(3, 2, 5, 5)).astype(np.float32)


@pytest.mark.parametrize("sign", ["abs", "pos", "neg", "signed"])
def test_against_a_loop(sign: str) -> None:
    """The draws are made again here, keyed by (seed, sample, draw, input); each sample has its own width."""
    proto, x = net()
    e = ox.explain(proto, x, method="smooth_fullgrad", target=1, draws=4, spread=0.2, seed=7, sign=sign)
    for n in range(len(x)):
        width = 0.2 * (x[n].max() - x[n].min())
        copies = np.stack(
            [x[n] + width * np.random.default_rng([7, k, 0]).standard_normal(x[n].shape) for k in range(4)]
        ).astype(np.float32)
        single = ox.explain(proto, copies, method="fullgrad", target=1, term_maps=True)
        assert single.terms is not None
        products = single.attributions["x"].sum(axis=(0, 1))[None, None]
        layer = single.terms.maps[0].sum(axis=0)[None]
        expected = naive_psi(products, sign, "minmax", "layer") + naive_psi(layer, sign, "minmax", "layer")
        np.testing.assert_allclose(e.map(n), expected[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(e.attributions["x"][n], single.attributions["x"].mean(axis=0), rtol=1e-3, atol=1e-4)


def test_without_noise_it_is_fullgrad() -> None:
    """On one input channel, where it does not matter that the input term is summed over channels first."""
    proto, x = fullgrad_net()
    smooth = ox.explain(proto, x, method="smooth_fullgrad", target=1, spread=0.0, draws=2)
    np.testing.assert_allclose(smooth.saliency, ox.explain(proto, x, method="fullgrad", target=1).saliency, atol=1e-5)


def test_the_target_is_the_clean_inputs() -> None:
    """With noise that changes the predicted class, the terms are still those of the clean input's class."""
    proto, x = net()
    clean = ox.explain(proto, x, method="gradient").target
    assert clean is not None
    free = ox.explain(proto, x, method="smooth_fullgrad", spread=3.0, draws=5)
    fixed = ox.explain(proto, x, method="smooth_fullgrad", spread=3.0, draws=5, target=clean.tolist())
    np.testing.assert_array_equal(free.saliency, fixed.saliency)


def test_token_maps() -> None:
    proto, x = vision_transformer()
    e = ox.explain(proto, x, method="smooth_fullgrad", target=1, draws=2)
    assert e.saliency is not None and e.saliency.shape == (2, 6, 8) and e.saliency.std() > 0


@pytest.mark.parametrize(("options", "words"), [({"draws": 0}, "at least 1"), ({"spread": -0.1}, "not possible")])
def test_bad_options(options: dict[str, Any], words: str) -> None:
    proto, x = net()
    with pytest.raises(OptionError, match=words):
        ox.explain(proto, x, method="smooth_fullgrad", **options)
