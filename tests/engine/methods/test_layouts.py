"""Pictures with their channels last get the maps that the same pictures get with channels first.

One network in two files: as PyTorch writes it, and as converters from TensorFlow do, with feature maps in
``[N, H, W, C]`` and a Transpose on either side of each convolution. Every method of the registry that draws
pictures is asked.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
METHODS = {entry["name"]: entry["quick"] for entry in ox.methods()}
X = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)

#: Noise is drawn element by element in the order of the axes: none of it, and all are comparable.
WITHOUT_NOISE: dict[str, dict[str, Any]] = {
    **{
        name: {"spread": 0.0} for name in ("smoothgrad", "smoothgrad_squared", "vargrad", "smoothed", "smooth_fullgrad")
    },
    "expected_gradients": {"background": "zero"},
    "gradient_shap": {"background": "zero", "spread": 0.0},
    "deepshap": {"background": "blur"},
}


def network(last: bool) -> onnx.ModelProto:
    """Two convolutions with biases, pooling between them, the mean over places, a dense layer."""
    rng = np.random.default_rng(1)
    weights = {
        "k1": rng.normal(size=(4, 3, 3, 3)) / 3, "b1": rng.normal(size=4),
        "k2": rng.normal(size=(5, 4, 3, 3)) / 3, "b2": rng.normal(size=5),
        "w": rng.normal(size=(5, 3)), "c": rng.normal(size=3), "places": np.array([1, 2] if last else [2, 3]),
    }  # fmt: skip
    nodes: list[onnx.NodeProto] = []

    def in_front(op_type: str, inputs: str, output: str, **attributes: Any) -> str:
        """An operator on channels first, whatever the feature maps' own layout."""
        first, *rest = inputs.split()
        if last:
            nodes.append(node("Transpose", first, f"{output}_in", perm=[0, 3, 1, 2]))
            nodes.append(node(op_type, " ".join([f"{output}_in", *rest]), f"{output}_out", **attributes))
            nodes.append(node("Transpose", f"{output}_out", output, perm=[0, 2, 3, 1]))
        else:
            nodes.append(node(op_type, inputs, output, **attributes))
        return output

    in_front("Conv", "x k1 b1", "z1", pads=[1, 1, 1, 1])
    nodes.append(node("Relu", "z1", "a1"))
    in_front("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2])
    in_front("Conv", "p1 k2 b2", "z2", pads=[1, 1, 1, 1])
    nodes += [
        *(node("Relu", "z2", "a2"), node("ReduceMean", "a2 places", "m", keepdims=0), node("Gemm", "m w c", "y")),
    ]
    return model(nodes, {"x": ["N", 16, 16, 3] if last else ["N", 3, 16, 16]}, {"y": ["N", 3]}, weights)


@cache
def drawing() -> tuple[str, ...]:
    """The methods that take a picture without attention in the network."""
    found = []
    for method in METHODS:
        try:
            ox.compile(network(False), method=method, threads=1)
        except OptionError:
            continue
        found.append(method)
    return tuple(found)


def channels_first(array: Array) -> Array:
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


def test_the_list_is_not_empty() -> None:
    assert {"gradcam", "fullgrad", "occlusion", "xrai", "lime", "kernel_shap", "rise", "score_cam"} <= set(drawing())


@pytest.mark.parametrize("method", drawing())
def test_maps_do_not_depend_on_the_layout(method: str) -> None:
    options = {**METHODS[method], **WITHOUT_NOISE.get(method, {})}
    first = ox.explain(network(False), X, method=method, target=1, seed=3, threads=1, **options)
    last = ox.explain(
        network(True), np.moveaxis(X, 1, -1).copy(), method=method, target=1, seed=3, threads=1, **options
    )
    assert first.saliency is not None and last.saliency is not None
    assert first.saliency.shape == last.saliency.shape == (2, 16, 16)
    scale = np.abs(first.saliency).max()
    # Rescaled maps divide by differences of sums, which magnifies rounding.
    np.testing.assert_allclose(last.saliency, first.saliency, atol=1e-4 * scale + 1e-12, rtol=0)
    for one, other in zip(first.attributions.values(), last.attributions.values(), strict=True):
        np.testing.assert_allclose(channels_first(other), one, atol=1e-4 * np.abs(one).max() + 1e-12, rtol=0)
    assert scale > 0 or method in ("vargrad", "rectgrad"), "no noise has no variance; few units have no strongest share"


@pytest.mark.parametrize("players", ["grid:4", "patches:4", "slic:8", "places"])
@pytest.mark.parametrize("method", ["kernel_shap", "shapley_sampling", "lime"])
def test_parts_of_the_picture(method: str, players: str) -> None:
    """All channels of a place belong to one player, in either layout."""
    if players == "places" and method == "kernel_shap":
        players = "patches:2"
    options = {**METHODS[method], "players": players}
    first = ox.explain(network(False), X[:1], method=method, target=1, seed=3, threads=1, **options)
    last = ox.explain(
        network(True), np.moveaxis(X[:1], 1, -1).copy(), method=method, target=1, seed=3, threads=1, **options
    )
    found = first.attributions["x"]
    np.testing.assert_allclose(channels_first(last.attributions["x"]), found, atol=1e-4 * np.abs(found).max())
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1], found.shape), rtol=1e-5, atol=1e-7)


def test_a_layout_that_is_named_wins() -> None:
    """[N, 3, 16, 16] is read as channels first, and as rows of three where the user says so."""
    e = ox.explain(network(False), X, method="occlusion", window=[1, 4], stride=[1, 4], layout="channels_last")
    assert e.saliency is not None and e.saliency.shape == (2, 3, 16)
