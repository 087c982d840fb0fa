"""Simple FullGrad against the values derived by hand, and against plain gradients at the biased tensors."""

from __future__ import annotations

import numpy as np
from naive_psi import naive_psi
from tiny_models import fullgrad_net, model, node

import onnxplain as ox


def test_map_derived_by_hand() -> None:
    proto, x = fullgrad_net()
    found = ox.explain(proto, x, method="simple_fullgrad", target=1).map()
    np.testing.assert_allclose(found[0], [1.00000, 1.14167, 0.46765, 0.68758], atol=6e-6)
    np.testing.assert_allclose(found[3], [1.58104, 1.63153, 1.83333, 1.54167], atol=6e-6)


def test_against_gradients_of_inner_tensors() -> None:
    """Two biased layers of the picture's size: what psi gets are the gradients at their outputs."""
    rng = np.random.default_rng(6)
    proto = model(
        [
            node("Conv", "x w b", "z", pads=[1, 1, 1, 1]),
            node("Tanh", "z", "a"),
            node("Conv", "a u", "p", pads=[1, 1, 1, 1]),
            node("Add", "p c", "q"),
            node("Relu", "q", "r"),
            node("Flatten", "r", "f"),
            node("Gemm", "f v d", "y"),
        ],
        {"x": ["N", 2, 5, 5]},
        {"y": ["N", 3]},
        {
            "w": rng.normal(size=(3, 2, 3, 3)), "b": rng.normal(size=3), "u": rng.normal(size=(2, 3, 3, 3)),
            "c": rng.normal(size=(2, 1, 1)), "v": rng.normal(size=(50, 3)), "d": rng.normal(size=3),
        },
    )  # fmt: skip
    x = rng.normal(size=(2, 2, 5, 5)).astype(np.float32)
    cotangent = np.tile(np.array([[0.0, 0.0, 1.0]], np.float32), (2, 1))
    gradients = ox.vjp(proto, {"x": x}, {"y": cotangent}, wrt=["x", "z", "q"])
    for sign in ("abs", "pos", "neg", "signed"):
        e = ox.explain(proto, x, method="simple_fullgrad", target=2, sign=sign)
        parts = [gradients["x"] * x, gradients["z"], gradients["q"]]
        np.testing.assert_allclose(
            e.saliency, sum(naive_psi(u, sign, "minmax", "layer") for u in parts), rtol=2e-4, atol=1e-4
        )
        np.testing.assert_allclose(e.attributions["x"], gradients["x"] * x, rtol=1e-5, atol=1e-6)
        assert e.residual is None and e.terms is None, "nothing adds up here, so nothing is claimed"
