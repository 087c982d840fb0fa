"""Paths: what all methods along one share, whatever the inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)

#: Methods whose attributions are those of the inputs and sum to the change of the score.
COMPLETE = ("integrated_gradients", "guided_ig", "idgi", "expected_gradients", "gradient_shap", "neuron_conductance")
OTHERS = ("layer_conductance", "internal_influence", "nonlinear_saliency")


def two_inputs() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A picture and a row, joined behind a convolution and a linear layer."""
    proto = model(
        [
            node("Conv", "picture k", "c", pads=[1, 1, 1, 1]),
            node("Tanh", "c", "t"),
            node("GlobalAveragePool", "t", "g"),
            node("Flatten", "g", "f"),
            node("Gemm", "row w b", "z"),
            node("Tanh", "z", "h"),
            node("Concat", "f h", "both", axis=1),
            node("MatMul", "both v", "y"),
        ],
        {"picture": ["N", 1, 5, 5], "row": ["N", 3]},
        {"y": ["N", 2]},
        {"k": RNG.normal(size=(4, 1, 3, 3)), "w": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4),
         "v": RNG.normal(size=(8, 2))},
    )  # fmt: skip
    feeds = {"picture": RNG.normal(size=(2, 1, 5, 5)), "row": RNG.normal(size=(2, 3))}
    return proto, {n: a.astype(np.float32) for n, a in feeds.items()}


@pytest.mark.parametrize("method", COMPLETE)
def test_several_inputs_share_the_change(method: str) -> None:
    proto, feeds = two_inputs()
    e = ox.explain(proto, feeds, method=method, target=1)
    assert {n: a.shape for n, a in e.attributions.items()} == {n: a.shape for n, a in feeds.items()}
    assert e.saliency is None and e.baseline_score is not None
    assert e.residual is not None and e.residual.ok
    if method != "gradient_shap":  # there the noise moves the upper end as well
        total = sum(a.astype(np.float64).reshape(2, -1).sum(axis=1) for a in e.attributions.values())
        np.testing.assert_allclose(total + e.residual.absolute, e.score - e.baseline_score, atol=1e-4)


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_take_several_inputs(method: str) -> None:
    proto, feeds = two_inputs()
    e = ox.explain(proto, feeds, method=method, target=1)
    assert all(np.abs(a).max() > 0 for a in e.attributions.values())


@pytest.mark.parametrize("method", ["blur_ig", "xrai"])
def test_methods_for_places_refuse_rows_beside_pictures(method: str) -> None:
    proto, feeds = two_inputs()
    with pytest.raises(OptionError):
        ox.explain(proto, feeds, method=method)
    e = ox.explain(proto, feeds, method=method, wrt="picture", target=1)
    assert list(e.attributions) == ["picture"] and e.saliency is not None


@pytest.mark.parametrize("method", [*COMPLETE, *OTHERS])
def test_one_of_two_inputs(method: str) -> None:
    """The other one stays as each sample has it."""
    proto, feeds = two_inputs()
    e = ox.explain(proto, feeds, method=method, wrt="row", target=0, seed=1)
    first = ox.explain(proto, {n: a[:1] for n, a in feeds.items()}, method=method, wrt="row", target=0, seed=1)
    for name, array in first.attributions.items():
        np.testing.assert_allclose(e.attributions[name][:1], array, atol=1e-5)


def test_baselines_by_name() -> None:
    proto, feeds = two_inputs()
    e = ox.explain(proto, feeds, method="guided_ig", baseline={"picture": "mean"}, target=0)
    start = {"picture": np.broadcast_to(feeds["picture"].mean(axis=(2, 3), keepdims=True), (2, 1, 5, 5)),
             "row": np.zeros((2, 3))}  # fmt: skip
    wanted = ox.explain(proto, {n: a.astype(np.float32) for n, a in start.items()}, method="gradient", target=0).score
    np.testing.assert_allclose(e.baseline_score, wanted, rtol=1e-5)
    with pytest.raises(OptionError, match="not attributed to"):
        ox.explain(proto, feeds, method="guided_ig", baseline={"sound": "zero"})
    with pytest.raises(OptionError, match="different numbers"):
        ox.explain(proto, feeds, method="idgi", baseline={"picture": "noise:2", "row": "noise:3"})


@pytest.mark.parametrize("method", [*COMPLETE, *OTHERS, "blur_ig"])
def test_blocks_of_any_size(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One point at a time, of one sample."""
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    options: dict[str, Any] = {"draws": 20} if method in ("expected_gradients", "gradient_shap") else {"steps": 20}
    whole = ox.explain(proto, batch, method=method, target=1, **options)
    monkeypatch.setattr("onnxplain.engine.paths.STAGING_BYTES", 1)
    cut = ox.explain(proto, batch, method=method, target=1, **options)
    for name, array in whole.attributions.items():
        np.testing.assert_allclose(cut.attributions[name], array, atol=1e-5)


@pytest.mark.parametrize("method", [*COMPLETE, *OTHERS, "blur_ig"])
def test_half_precision_models(method: str) -> None:
    """Points between baseline and input are made in float32 or better, and the sums stay good."""
    rng = np.random.default_rng(1)
    proto = model(
        [node("Conv", "x k", "c"), node("Tanh", "c", "r"), node("GlobalAveragePool", "r", "g"),
         node("Flatten", "g", "f"), node("MatMul", "f v", "y")],
        {"x": ["N", 1, 6, 6]}, {"y": ["N", 2]},
        {"k": rng.normal(size=(3, 1, 3, 3)), "v": rng.normal(size=(3, 2))}, dtype=TensorProto.FLOAT16,
    )  # fmt: skip
    x = rng.normal(size=(1, 1, 6, 6)).astype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT16))
    options = {"sigma": 4.0} if method == "blur_ig" else {}
    e = ox.explain(proto, x, method=method, target=0, **options)
    assert e.residual is None or e.residual.ok
    assert all(np.abs(a).max() > 0 for a in e.attributions.values())
