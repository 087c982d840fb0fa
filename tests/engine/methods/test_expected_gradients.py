"""Expected Gradients and GradientSHAP: the same draws by hand, point masses, and errors that say what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

METHODS = ("expected_gradients", "gradient_shap")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
BACKGROUND = RNG.normal(size=(6, 4))


def square() -> onnx.ModelProto:
    """f = sum x^2: gradient 2 x."""
    return model(
        [node("Mul", "x x", "s"), node("MatMul", "s w", "y")], {"x": ["N", 4]}, {"y": ["N", 1]}, {"w": np.ones((4, 1))}
    )


def linear() -> onnx.ModelProto:
    return model(
        [node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 1]}, {"w": np.array([[1.0], [-2.0], [0.5], [0.0]])}
    )


def contributions(sample: int, draws: int, seed: int, background: np.ndarray[Any, Any], spread: float) -> Any:
    """Each draw of sum x^2, by its key (seed, sample, draw): alpha, the row, then the noise."""
    parts = []
    x = X[sample].astype(float)
    for k in range(draws):
        rng = np.random.default_rng([seed, k])
        alpha, row = rng.random(), rng.integers(len(background))
        r = background[row]
        high = x + (rng.standard_normal(4) * spread * np.ptp(x) if spread else 0.0)
        parts.append((high - r) * 2 * (r + alpha * (high - r)))
    return np.array(parts)


@pytest.mark.parametrize(
    ("method", "options"), [(METHODS[0], {}), (METHODS[1], {"spread": 0.0}), (METHODS[1], {"spread": 0.3})]
)
def test_the_draws_themselves(method: str, options: dict[str, float]) -> None:
    e = ox.explain(square(), X, method=method, draws=9, background=BACKGROUND, seed=4, **options)
    for n in range(3):
        parts = contributions(n, 9, 4, BACKGROUND, options.get("spread", 0.0))
        np.testing.assert_allclose(e.attributions["x"][n], parts.mean(axis=0), rtol=1e-4, atol=1e-5)
        error = parts.std(axis=0, ddof=1) / 3
        np.testing.assert_allclose(e.standard_errors["x"][n], error, rtol=1e-4, atol=1e-5)


def test_expectation() -> None:
    """f = sum x^2: the mean over alpha is x^2 - r^2, whose mean over the background is known."""
    e = ox.explain(square(), X, method="expected_gradients", draws=3000, background=BACKGROUND)
    exact = X**2 - (BACKGROUND**2).mean(axis=0)
    assert (np.abs(e.attributions["x"] - exact) < 5 * e.standard_errors["x"] + 1e-5).all()
    assert e.standard_errors["x"].max() < 0.2
    assert e.residual is not None and e.residual.ok


@pytest.mark.parametrize("method", METHODS)
def test_linear_functions_have_no_error_in_the_sum(method: str) -> None:
    e = ox.explain(linear(), X, method=method, draws=5, background=BACKGROUND)
    assert e.residual is not None
    np.testing.assert_allclose(e.residual.absolute, 0.0, atol=1e-5)
    point = ox.explain(linear(), X, method="expected_gradients", draws=5, background=BACKGROUND[0])
    np.testing.assert_allclose(point.standard_errors["x"], 0.0, atol=1e-6)
    np.testing.assert_allclose(point.attributions["x"], [1.0, -2.0, 0.5, 0.0] * (X - BACKGROUND[0]), atol=1e-5)


def test_point_mass_is_integrated_gradients_by_monte_carlo() -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    exact = ox.explain(proto, batch, method="integrated_gradients", target=1, tolerance=1e-3, max_steps=4000)
    for background in ("zero", np.zeros((1, 4, 4)), np.zeros((2, 1, 4, 4))):
        e = ox.explain(proto, batch, method="expected_gradients", background=background, draws=600, target=1)
        error = e.standard_errors["x"]
        gap = np.abs(e.attributions["x"] - exact.attributions["x"])
        assert (gap < 4.5 * error + 2e-3 * np.abs(exact.attributions["x"]).max()).all()
        assert error.max() > 1e-3


def test_error_falls_as_the_root_of_the_draws() -> None:
    few, many = (
        ox.explain(square(), X, method="expected_gradients", draws=d, background=BACKGROUND).standard_errors["x"]
        for d in (50, 5000)
    )
    assert 7 < np.median(few / many) < 14


@pytest.mark.parametrize("background", ["noise", "uniform", "blur", "noise:3", 0.5, ["zero", "mean"]])
def test_backgrounds_without_data(background: Any) -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="expected_gradients", background=background, draws=50, target=1)
    assert e.residual is not None and e.residual.ok and e.baseline_score is not None
    total = e.attributions["x"].sum(dtype=np.float64) + e.residual.absolute[0]
    assert total == pytest.approx(float(e.score[0] - e.baseline_score[0]), abs=1e-4)


def test_background_files(tmp_path: Path) -> None:
    wanted = ox.explain(square(), X, method="gradient_shap", draws=7, background=BACKGROUND).attributions["x"]
    np.save(tmp_path / "b.npy", BACKGROUND)
    np.savez(tmp_path / "b.npz", anything=BACKGROUND)
    np.savez(tmp_path / "named.npz", x=BACKGROUND, y=np.zeros(3))
    for name in ("b.npy", "b.npz", "named.npz"):
        e = ox.explain(square(), X, method="gradient_shap", draws=7, background=str(tmp_path / name))
        np.testing.assert_array_equal(e.attributions["x"], wanted)
    np.savez(tmp_path / "others.npz", a=BACKGROUND, b=BACKGROUND)
    with pytest.raises(OptionError, match="has no array"):
        ox.explain(square(), X, method="gradient_shap", background=str(tmp_path / "others.npz"))
    with pytest.raises(OptionError, match="cannot be read"):
        ox.explain(square(), X, method="gradient_shap", background=str(tmp_path / "none.npy"))


def test_several_inputs_draw_one_row_together() -> None:
    """f = a - b with backgrounds whose rows agree: the change is the same for every row, so nothing is left over."""
    proto = model([node("Sub", "a b", "d"), node("ReduceSum", "d axes", "y")], {"a": ["N", 2], "b": ["N", 2]},
                  {"y": ["N", 1]}, {"axes": np.array([1])})  # fmt: skip
    feeds = {"a": np.full((1, 2), 3.0, np.float32), "b": np.ones((1, 2), np.float32)}
    rows = np.arange(10.0).reshape(5, 2)
    e = ox.explain(proto, feeds, method="expected_gradients", background={"a": rows, "b": rows}, draws=20)
    assert e.baseline_score == pytest.approx(0.0, abs=1e-5)
    total = sum(float(a.sum()) for a in e.attributions.values())
    assert total == pytest.approx(4.0, abs=1e-4)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ox.explain(square(), X, method="gradient_shap", draws=11, background=BACKGROUND, seed=3)
    monkeypatch.setattr("onnxplain.engine.paths.STAGING_BYTES", 200)
    cut = ox.explain(square(), X, method="gradient_shap", draws=11, background=BACKGROUND, seed=3)
    np.testing.assert_allclose(cut.attributions["x"], whole.attributions["x"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cut.standard_errors["x"], whole.standard_errors["x"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"draws": 1},
        {"background": "grey"},
        {"background": np.zeros((3, 5))},
        {"background": np.full((2, 4), np.nan)},
        {"spread": -1.0},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ox.explain(square(), X, method="gradient_shap", **options)
