"""Layer conductance, neuron conductance and internal influence against plain NumPy on a net of two hidden layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(8)
W1, B1 = RNG.normal(size=(3, 4)), RNG.normal(size=4)
W2, B2 = RNG.normal(size=(4, 5)), RNG.normal(size=5)
W3 = RNG.normal(size=(5, 2))
X = RNG.normal(size=(2, 3)).astype(np.float32)
BASE = RNG.normal(size=3).astype(np.float32)
LINE = (np.arange(4000) + 0.5) / 4000


def deep(skip: bool = False) -> onnx.ModelProto:
    """tanh, then sigmoid; with ``skip`` the input also goes past both layers."""
    nodes = [
        node("Gemm", "x w1 b1", "z1"),
        node("Tanh", "z1", "a1"),
        node("Gemm", "a1 w2 b2", "z2"),
        node("Sigmoid", "z2", "a2"),
        node("MatMul", "a2 w3", "inner" if skip else "y"),
    ]
    if skip:
        nodes += [node("MatMul", "x w4", "past"), node("Add", "inner past", "y")]
    weights = {"w1": W1, "b1": B1, "w2": W2, "b2": B2, "w3": W3, "w4": RNG.normal(size=(3, 2)) if skip else W3}
    if not skip:
        del weights["w4"]
    return model(nodes, {"x": ["N", 3]}, {"y": ["N", 2]}, weights)


def along(x: Array, target: int) -> dict[str, Array]:
    """Midpoints of the line: values' derivatives in alpha, and the score's gradients, written out."""
    points = BASE + LINE[:, None] * (x - BASE)
    a1 = np.tanh(points @ W1 + B1)
    a2 = 1 / (1 + np.exp(-(a1 @ W2 + B2)))
    d1 = (1 - a1**2) * ((x - BASE) @ W1)
    g2 = np.broadcast_to(W3[:, target], a2.shape)
    g1 = (g2 * a2 * (1 - a2)) @ W2.T
    d2 = a2 * (1 - a2) * (d1 @ W2)
    through = (1 - a1**2)[:, None, :] * W1 * (x - BASE)[:, None]
    return {"d1": d1, "d2": d2, "g1": g1, "g2": g2, "through": through}


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize(("layer", "number"), [("a1", "1"), ("z1_node", "z"), ("a2", "2"), ("", "2")])
def test_conductance_of_a_layer(layer: str, number: str, target: int) -> None:
    """By name of a tensor, of a node, or chosen: what the last layer reads. z1 and a1 carry the same flow."""
    e = ox.explain(deep(), X, method="layer_conductance", layer=layer, baseline=BASE, target=target, tolerance=1e-4)
    (found,) = e.attributions.values()
    number = "1" if number == "z" else number
    for n in range(2):
        parts = along(X[n].astype(float), target)
        np.testing.assert_allclose(found[n], (parts[f"g{number}"] * parts[f"d{number}"]).mean(axis=0), atol=1e-4)
    assert e.residual is not None and e.residual.ok
    assert e.baseline_score is not None
    np.testing.assert_allclose(found.sum(axis=1), e.score - e.baseline_score, atol=3e-4)


@pytest.mark.parametrize("neuron", [0, 3, -1, [2], None])
def test_conductance_through_a_neuron(neuron: Any) -> None:
    e = ox.explain(deep(), X, method="neuron_conductance", layer="a1", neuron=neuron, baseline=BASE, target=1)
    chosen = range(4) if neuron is None else [neuron[0] if isinstance(neuron, list) else neuron]
    for n in range(2):
        parts = along(X[n].astype(float), 1)
        wanted = sum((parts["through"][:, :, j] * parts["g1"][:, None, j]).mean(axis=0) for j in chosen)
        np.testing.assert_allclose(e.attributions["x"][n], wanted, atol=1e-5)


def test_all_neurons_together_are_integrated_gradients() -> None:
    """A layer through which every way leads; then its neurons' sums are the layer's conductance."""
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    options: dict[str, Any] = {"target": 1, "tolerance": None, "steps": 400}
    straight = ox.explain(proto, batch, method="integrated_gradients", **options)
    whole = ox.explain(proto, batch, method="neuron_conductance", layer="a1", **options)
    np.testing.assert_allclose(whole.attributions["x"], straight.attributions["x"], atol=1e-5)
    parts = [
        ox.explain(proto, batch, method="neuron_conductance", layer="a1", neuron=c, target=1, steps=400).attributions[
            "x"
        ]
        for c in range(2)
    ]
    np.testing.assert_allclose(np.sum(parts, axis=0), straight.attributions["x"], atol=1e-5)
    layer = ox.explain(proto, batch, method="layer_conductance", layer="a1", **options).attributions["a1"]
    sums = [p.reshape(2, -1).sum(axis=1) for p in parts]
    # Kinks: the one integral sees gradients before them, the other values on both sides; 400 steps leave 1e-2.
    np.testing.assert_allclose(layer.reshape(2, 2, -1).sum(axis=2).T, sums, atol=4e-2)


def test_influence_is_the_mean_gradient() -> None:
    e = ox.explain(deep(), X, method="internal_influence", layer="a1", baseline=BASE, target=0)
    for n in range(2):
        np.testing.assert_allclose(e.attributions["a1"][n], along(X[n].astype(float), 0)["g1"].mean(axis=0), atol=1e-5)
    last = ox.explain(deep(), X, method="internal_influence", target=0)
    np.testing.assert_allclose(last.attributions["a2"], np.tile(W3[:, 0], (2, 1)), rtol=1e-5)
    assert e.residual is None


def test_the_line_in_the_layers_own_space_is_another_question() -> None:
    """integrated_gradients(wrt=layer): same ends, same sum, another path between them."""
    curve = ox.explain(deep(), X, method="layer_conductance", layer="a1", baseline=BASE, target=0, tolerance=1e-4)
    start = np.tanh(BASE @ W1 + B1)
    line = ox.explain(deep(), X, method="integrated_gradients", wrt="a1", baseline=start, target=0)
    total = [e.attributions["a1"].sum(axis=1) for e in (curve, line)]
    np.testing.assert_allclose(total[0], total[1], atol=1e-3)
    assert np.abs(curve.attributions["a1"] - line.attributions["a1"]).max() > 1e-3


def test_a_layer_that_the_score_can_avoid_proves_nothing() -> None:
    e = ox.explain(deep(skip=True), X, method="layer_conductance", layer="a1", target=0)
    assert e.residual is None
    n = ox.explain(deep(skip=True), X, method="neuron_conductance", layer="a1", target=0)
    assert n.residual is None


def test_maps_are_drawn_over_the_inputs_places() -> None:
    """2 x 2 onto 4 x 4, corners on corners: thirds between them."""
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="layer_conductance", target=1)
    coarse = e.attributions["a2"].sum(axis=1)[0]
    thirds = np.array([[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]])
    np.testing.assert_allclose(e.saliency, (thirds @ coarse @ thirds.T)[None], rtol=1e-5)
    assert any("last feature map" in note for note in e.notes)
    assert ox.explain(proto, x, method="layer_conductance", layer="flat").saliency is None


@pytest.mark.parametrize("method", ["layer_conductance", "internal_influence"])
def test_blocks_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ox.explain(deep(), X, method=method, layer="a1", baseline=BASE, target=0)
    monkeypatch.setattr("onnxplain.engine.paths.STAGING_BYTES", 3 * 8 * 3 * 2 * 7)  # seven points of two samples
    cut = ox.explain(deep(), X, method=method, layer="a1", baseline=BASE, target=0)
    np.testing.assert_allclose(cut.attributions["a1"], whole.attributions["a1"], atol=1e-6)
    monkeypatch.setattr("onnxplain.engine.paths.STAGING_BYTES", 1)
    cut = ox.explain(deep(), X, method=method, layer="a1", baseline=BASE, target=0)
    np.testing.assert_allclose(cut.attributions["a1"], whole.attributions["a1"], atol=1e-6)


@pytest.mark.parametrize("layer", ["nothing", "w1", "x1"])
def test_unknown_layers_are_refused(layer: str) -> None:
    with pytest.raises(OptionError, match="layer="):
        ox.compile(deep(), method="layer_conductance", layer=layer)


@pytest.mark.parametrize("neuron", ["first", 4, -5, [0, 0], 1.5])
def test_unknown_neurons_are_refused(neuron: Any) -> None:
    with pytest.raises(OptionError, match="neuron="):
        ox.compile(deep(), method="neuron_conductance", layer="a1", neuron=neuron)


def test_nothing_inside() -> None:
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1))})
    with pytest.raises(OptionError, match="no inner tensor"):
        ox.compile(proto, method="layer_conductance")
