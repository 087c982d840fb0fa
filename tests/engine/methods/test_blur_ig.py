"""Blur IG: the authors' golden values and a plain form with scipy's filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from scipy.ndimage import gaussian_filter
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError


def sum_of_sines(rank: int = 4) -> onnx.ModelProto:
    sizes = {4: [1, 5, 5], 3: [2, 9]}[rank]
    return model(
        [node("Sin", "x", "s"), node("ReduceSum", "s axes", "y", keepdims=0)],
        {"x": ["N", *sizes]},
        {"y": ["N"]},
        {"axes": np.arange(1, rank)},
    )


def picture() -> np.ndarray[Any, Any]:
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 1, 1], x[0, 0, 2, 2] = 0.7, 1.0
    return x


def test_golden() -> None:
    """A separable function: sin(x) - sin(blurred x) element by element, to two decimals."""
    x = picture()
    e = ox.explain(sum_of_sines(), x, method="blur_ig", sigma=10.0)
    wanted = np.sin(x[0, 0]) - np.sin(gaussian_filter(x[0, 0].astype(float), 10, mode="constant"))
    np.testing.assert_allclose(e.attributions["x"][0, 0], wanted, atol=5e-3)
    assert e.attributions["x"][0, 0, 1, 1] == pytest.approx(0.641, abs=5e-3)
    assert e.attributions["x"][0, 0, 2, 2] == pytest.approx(0.838, abs=5e-3)
    assert e.residual is not None and e.residual.relative.max() < 0.01


@pytest.mark.parametrize("square_root", [False, True])
def test_against_the_formula(square_root: bool) -> None:
    x, steps, sigma = picture(), 12, 3.0
    shares = np.arange(steps + 1) / steps
    sigmas = sigma * (np.sqrt(shares) if square_root else shares)

    def blur(s: float) -> Any:
        image = x[0, 0].astype(float)
        return gaussian_filter(image, s, mode="constant") if s else image

    wanted = np.zeros((5, 5))
    for i in range(steps):
        slope = (blur(sigmas[i] + 0.01) - blur(sigmas[i])) / 0.01
        wanted -= (sigmas[i + 1] - sigmas[i]) * slope * np.cos(blur(sigmas[i]))
    e = ox.explain(sum_of_sines(), x, method="blur_ig", sigma=sigma, steps=steps, square_root=square_root)
    np.testing.assert_allclose(e.attributions["x"][0, 0], wanted, atol=1e-5)


def test_series_blur_along_time_alone() -> None:
    """Two channels that must not mix: the one that is zero stays zero and gets nothing."""
    x = np.zeros((1, 2, 9), np.float32)
    x[0, 0, 4] = 1.0
    e = ox.explain(sum_of_sines(3), x, method="blur_ig", sigma=2.0)
    assert not e.attributions["x"][0, 1].any()
    assert e.attributions["x"][0, 0, 4] > 0.5


def test_baseline_score_is_that_of_the_blurred_input() -> None:
    proto, x = fullgrad_net()
    blurred = gaussian_filter(x, (0, 0, 2.0, 2.0), mode="constant")
    e = ox.explain(proto, x, method="blur_ig", sigma=2.0, target=1)
    assert e.baseline_score is not None
    np.testing.assert_allclose(
        e.baseline_score, ox.explain(proto, blurred, method="gradient", target=1).score, rtol=1e-5
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, 2 * x])
    whole = ox.explain(proto, batch, method="blur_ig", sigma=2.0, steps=9, target=0)
    monkeypatch.setattr("onnxplain.engine.paths.STAGING_BYTES", 1000)  # two points at a time, of one sample group
    cut = ox.explain(proto, batch, method="blur_ig", sigma=2.0, steps=9, target=0)
    np.testing.assert_allclose(cut.attributions["x"], whole.attributions["x"], atol=1e-5)


def test_rows_have_no_places() -> None:
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1))})
    with pytest.raises(OptionError, match="no places"):
        ox.compile(proto, method="blur_ig")


@pytest.mark.parametrize("options", [{"steps": 0}, {"sigma": 0.0}, {"sigma": float("nan")}, {"reduction": "mean"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ox.compile(sum_of_sines(), method="blur_ig", **options)
