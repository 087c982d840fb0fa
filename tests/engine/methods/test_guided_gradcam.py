"""Guided Grad-CAM: a net small enough to write both factors out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError


def test_against_numpy() -> None:
    """One-pixel kernels, so that each place is a two-layer perceptron of its own."""
    rng = np.random.default_rng(1)
    w, v, b = rng.normal(size=(5, 2)), rng.normal(size=(5, 3)), rng.normal(size=5)
    proto = model(
        [
            node("Conv", "x w b", "z"),
            node("Relu", "z", "a"),
            node("GlobalAveragePool", "a", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f v", "y"),
        ],
        {"x": ["N", 2, 4, 4]},
        {"y": ["N", 3]},
        {"w": w[:, :, None, None], "b": b, "v": v},
    )
    x = rng.normal(size=(2, 2, 4, 4)).astype(np.float32)
    z = np.einsum("oc,nchw->nohw", w, x) + b[None, :, None, None]
    arriving = np.broadcast_to(v[:, 1][None, :, None, None] / 16, z.shape)
    guided = np.einsum("oc,nohw->nchw", w, np.maximum(arriving, 0) * (z > 0))
    cam = np.maximum((arriving * np.maximum(z, 0)).sum(axis=1), 0)
    e = ox.explain(proto, x, method="guided_gradcam", target=1)
    expected = guided * cam[:, None]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(e.saliency, np.abs(expected).sum(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("align_corners", [True, False])
def test_it_is_the_product_of_the_two(align_corners: bool) -> None:
    proto, x = fullgrad_net()
    options = {"layer": "a1", "align_corners": align_corners}
    cam = ox.explain(proto, x, method="gradcam", target=1, **options)
    signal = ox.explain(proto, x, method="guided_backprop", target=1)
    e = ox.explain(proto, x, method="guided_gradcam", target=1, **options)
    assert cam.saliency is not None and "as asked for" in e.notes[0]
    np.testing.assert_allclose(e.attributions["x"], signal.attributions["x"] * cam.saliency[:, None], rtol=1e-5)


def test_nets_without_rectifiers_are_refused() -> None:
    proto = model(
        [node("Conv", "x w", "z"), node("Tanh", "z", "a"), node("Flatten", "a", "y")],
        {"x": ["N", 1, 4, 4]},
        {"y": ["N", 16]},
        {"w": np.ones((1, 1, 1, 1))},
    )
    with pytest.raises(OptionError, match="there is none between the input and the target"):
        ox.explain(proto, np.ones((1, 1, 4, 4), np.float32), method="guided_gradcam", target=0)
