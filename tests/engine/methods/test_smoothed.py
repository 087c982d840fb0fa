"""Input noise around any method: the special cases that have names, and the same copies added up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import METHODS

Array = np.ndarray[Any, Any]


def batch() -> tuple[Any, Array]:
    proto, x = fullgrad_net()
    return proto, np.concatenate([x, -x, 0.5 * x + 0.2])


def copies(x: Array, draws: int, spread: float, seed: int) -> Array:
    """``[draws, N, ...]``: noise drawn again by its key (seed, sample, draw, input)."""
    found = []
    for k in range(draws):
        rows = [
            row + spread * np.ptp(row) * np.random.default_rng([seed, k, 0]).standard_normal(row.shape)
            for n, row in enumerate(x)
        ]
        found.append(np.stack(rows).astype(np.float32))
    return np.stack(found)


@pytest.mark.parametrize(
    ("kind", "named"), [("mean", "smoothgrad"), ("square", "smoothgrad_squared"), ("variance", "vargrad")]
)
def test_around_the_gradient_it_is_smoothgrad(kind: str, named: str) -> None:
    proto, x = batch()
    one = ox.explain(proto, x, method="smoothed", kind=kind, draws=6, seed=2)
    other = ox.explain(proto, x, method=named, draws=6, seed=2)
    np.testing.assert_array_equal(one.attributions["x"], other.attributions["x"])
    np.testing.assert_array_equal(one.saliency, other.saliency)


@pytest.mark.parametrize(
    ("inner", "options"),
    [
        ("input_x_gradient", {}),
        ("integrated_gradients", {"steps": 10, "tolerance": None}),
        ("guided_backprop", {"reduction": "l2"}),
        ("fullgrad", {}),
        ("gradcam", {}),
        ("occlusion", {"window": 2}),
        ("kernel_shap", {"players": "grid:2"}),
        ("score_cam", {}),
    ],
)
def test_mean_of_the_inner_method(inner: str, options: dict[str, Any]) -> None:
    """The inner method itself at the same noisy copies, with the clean inputs' targets."""
    proto, x = batch()
    plain = ox.compile(proto, method=inner, **options)
    targets = plain(x).target
    found = [plain(points, target=targets) for points in copies(x, 4, 0.1, 3)]
    e = ox.explain(proto, x, method="smoothed", around=inner, inner=options, draws=4, spread=0.1, seed=3)
    for name, array in e.attributions.items():
        expected = np.mean([f.attributions[name] for f in found], axis=0)
        np.testing.assert_allclose(array, expected, atol=1e-4 * np.abs(expected).max())
        spread = np.std([f.attributions[name] for f in found], axis=0, ddof=1) / 2
        np.testing.assert_allclose(e.standard_errors[name], spread, atol=1e-4 * spread.max())
    if inner in ("fullgrad", "gradcam", "score_cam"):
        drawing = np.mean([f.saliency for f in found], axis=0)
        np.testing.assert_allclose(e.saliency, drawing, atol=1e-4 * np.abs(drawing).max())


def test_a_map_that_is_a_reduction_is_made_after_averaging() -> None:
    """|mean g|, not mean |g|; and its own sign where the inner method's map has one."""
    proto, x = batch()
    e = ox.explain(proto, x, method="smoothed", around="gradient", draws=5, spread=0.5)
    np.testing.assert_allclose(e.saliency, np.abs(e.attributions["x"]).sum(axis=1), rtol=1e-6)
    signed = ox.explain(proto, x, method="smoothed", around="input_x_gradient", draws=5)
    assert signed.signed and not e.signed
    squares = ox.explain(proto, x, method="smoothed", around="input_x_gradient", draws=5, kind="square")
    assert not squares.signed and not squares.standard_errors and signed.standard_errors


@pytest.mark.parametrize("inner", ["gradient", "fullgrad", "shapley_sampling", "smoothgrad"])
def test_neither_memory_nor_batch_changes_the_draws(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner methods that draw at random keep their own draws apart from the noise's."""
    proto, x = batch()
    whole = ox.explain(proto, x, method="smoothed", around=inner, draws=3, seed=4)
    first = ox.explain(proto, x[:2], method="smoothed", around=inner, draws=3, seed=4)
    monkeypatch.setattr("onnxplain.engine.method.STAGING_BYTES", 200)
    cut = ox.explain(proto, x, method="smoothed", around=inner, draws=3, seed=4, memory_mib=0.01)
    a = whole.attributions["x"]
    np.testing.assert_allclose(cut.attributions["x"], a, atol=1e-5 * np.abs(a).max())
    np.testing.assert_allclose(first.attributions["x"], a[:2], atol=1e-5 * np.abs(a).max())
    assert (
        np.abs(ox.explain(proto, x, method="smoothed", around=inner, draws=3, seed=5).attributions["x"] - a).max() > 0
    )


def test_the_worst_check_of_the_inner_method_is_kept() -> None:
    proto, x = batch()
    e = ox.explain(proto, x, method="smoothed", around="fullgrad", draws=3, strict=True)
    assert e.residual is not None and "the worst noisy copy's" in e.residual.of and (e.residual.relative > 0).any()
    assert ox.explain(proto, x, method="smoothed", draws=3).residual is None


@pytest.mark.parametrize("inner", ["fullgrad", "layercam", "occlusion"])
def test_no_noise_is_the_inner_method(inner: str) -> None:
    proto, x = batch()
    plain = ox.explain(proto, x, method=inner)
    e = ox.explain(proto, x, method="smoothed", around=inner, draws=2, spread=0.0)
    assert plain.saliency is not None and e.saliency is not None
    np.testing.assert_allclose(e.saliency, plain.saliency, atol=1e-5 * np.abs(plain.saliency).max())
    assert set(plain.notes) <= set(e.notes)


def test_what_the_inner_method_needs_is_passed_on() -> None:
    """BatchNormalization folded first; a batch that mixes samples in one piece; no gradient where none is needed."""
    assert METHODS.get("smoothed")(around="fullgrad", inner={"bias_granularity": "block"}).folds_normalization
    assert METHODS.get("smoothed")(around="fullgrad", inner={"scope": "batch"}).needs_one_chunk
    assert METHODS.get("smoothed")(around="occlusion").forward_only
    assert not METHODS.get("smoothed")().forward_only
    step = model([node("Round", "x", "r"), node("MatMul", "r w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]},
                 {"w": np.array([[2.0], [-1.0]])})  # fmt: skip
    e = ox.explain(step, np.array([[1.4, 3.0]], np.float32), method="smoothed", around="occlusion", draws=40)
    assert 2.0 < e.attributions["x"][0, 0] < 4.0, "rounding smoothed: between 2 round(1) and 2 round(2)"


def test_tokens() -> None:
    """Noise at the embedding, where integers end."""
    rng = np.random.default_rng(0)
    proto = model(
        [node("Gather", "table ids", "e"), node("ReduceMean", "e axes", "m", keepdims=0), node("MatMul", "m w", "y")],
        {"ids": ["N", 4]}, {"y": ["N", 2]},
        {"table": rng.normal(size=(9, 5)), "axes": np.array([1]), "w": rng.normal(size=(5, 2))},
    )  # fmt: skip
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 4]))
    ids = np.array([[1, 2, 3, 4], [5, 5, 0, 8]])
    e = ox.explain(proto, ids, method="smoothed", around="shapley_sampling", draws=3)
    assert e.saliency is not None and e.saliency.shape == (2, 4) and e.saliency.all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"around": "lrpp"}, "unknown method"), ({"inner": {"steps": 3}}, "no option 'steps'"), ({"inner": [1]}, "dictionary"),
        ({"kind": "median"}, "kind="), ({"draws": 0}, "draws=0"), ({"spread": -1.0}, "spread="),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    proto, x = batch()
    with pytest.raises(OptionError, match=words):
        ox.explain(proto, x, method="smoothed", **options)
