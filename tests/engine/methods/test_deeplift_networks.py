"""DeepLIFT on real networks, and as a file: every result proves itself, the file gives the call's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny_models import assets, fullgrad_net

import onnxplain as ox

Array = np.ndarray[Any, Any]

#: float32 through many layers, relative to the sum of all magnitudes.
ROUNDING = 1e-5

# ----- as a file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize("baseline", ["zero", "mean", 0.3])
def test_the_file_gives_the_numbers_of_the_call(tmp_path: Any, rule: str, baseline: Any) -> None:
    proto, x = fullgrad_net()
    x = np.concatenate([x, -x])
    explainer = ox.compile(proto, method="deeplift", rule=rule, baseline=baseline, threads=1)
    e = explainer(x, target=1)
    path = explainer.save(tmp_path / "deeplift.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the default baseline is told to be no constant, which is what it is for
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"x": x, "target": np.array([1, 1])}), strict=True))
    np.testing.assert_allclose(found["attribution"], e.attributions["x"], atol=1e-6)
    np.testing.assert_allclose(found["saliency"], e.saliency, atol=1e-6)
    np.testing.assert_allclose(found["residual"], 0, atol=1e-5)
    if baseline == "zero":
        feeds = {"x": x, "target": np.array([1, 1]), "baseline": np.full((1, 1, 4, 4), 0.2, np.float32)}
        other = dict(zip(names, session.run(None, feeds), strict=True))
        expected = ox.explain(proto, x, method="deeplift", target=1, rule=rule, baseline=0.2, threads=1).attributions[
            "x"
        ]
        np.testing.assert_allclose(other["attribution"], expected, atol=1e-6)


# ----- real networks ----------------------------------------------------------------------------------

FOLDER = assets()
needs_assets = pytest.mark.skipif(FOLDER is None, reason="the development models are not here")


def feeds_of(loaded: ox.Model, count: int) -> Array:
    rng = np.random.default_rng(3)
    given = loaded.inputs[0]
    shape = [count, *(d if isinstance(d, int) else 30 for d in (given.shape or ())[1:])]
    if "int" in str(given.dtype).lower():
        return rng.integers(1, 300, size=shape)
    return rng.normal(size=shape).astype(np.float32)


@needs_assets
@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel", "genomics_default"])
@pytest.mark.parametrize(
    "name",
    [
        "digits-cnn",
        "fmnist-lenet",
        "fmnist-mlp",
        "fmnist-resnet-bn",
        "fmnist-vgg-small",
        "gunpoint-fcn",
        "sentiment-textcnn",
    ],
)
def test_small_networks_prove_themselves(name: str, rule: str) -> None:
    assert FOLDER is not None
    loaded = ox.load(FOLDER / f"{name}.onnx")
    e = ox.explain(loaded, feeds_of(loaded, 3), method="deeplift", rule=rule, threads=1)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING
    assert np.abs(e.score - e.baseline_score).max() > 0.1


@needs_assets
@pytest.mark.parametrize("name", ["efficientnet-lite0-op18", "efficientnet-lite0-op17-bn"])
def test_efficientnet_proves_itself(name: str) -> None:
    assert FOLDER is not None
    loaded = ox.load(FOLDER / f"{name}.onnx")
    e = ox.explain(loaded, feeds_of(loaded, 1), method="deeplift", threads=1)
    assert e.residual is not None
    assert e.residual.relative.max() < ROUNDING


@needs_assets
def test_a_quantised_model_counts_rounding_as_nothing() -> None:
    """Straight-through leaves rounding over, which the note tells; the float shadow has none."""
    assert FOLDER is not None
    loaded = ox.load(FOLDER / "efficientnet-lite0-int8-qdq.onnx")
    x = feeds_of(loaded, 1)
    rounded = ox.explain(loaded, x, method="deeplift", threads=1)
    assert any("rounding is credited to nothing" in n for n in rounded.notes)
    exact = ox.explain(loaded, x, method="deeplift", quantisation="float_shadow", threads=1)
    assert rounded.residual is not None
    assert exact.residual is not None
    assert exact.residual.relative.max() < ROUNDING < rounded.residual.relative.max() < 1e-2


@needs_assets
def test_tokens_against_an_array_of_their_own() -> None:
    """The embedding is what is attributed; a reference may be any embedding."""
    assert FOLDER is not None
    loaded = ox.load(FOLDER / "sentiment-textcnn.onnx")
    x = feeds_of(loaded, 2)
    zero = ox.explain(loaded, x, method="deeplift", threads=1)
    (name,) = zero.attributions
    pad = ox.explain(loaded, x, method="deeplift", baseline="token:0", threads=1)
    both = ox.explain(loaded, x, method="deeplift", baseline=["zero", "token:0"], threads=1)
    expected = (zero.attributions[name] + pad.attributions[name]) / 2
    np.testing.assert_allclose(both.attributions[name], expected, atol=1e-5)
    assert zero.saliency is not None
    assert zero.saliency.shape == x.shape
