"""Every method of the registry gives its numbers in a file, or says in one sentence why it is not written as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import token_model
from shipped_methods import CASES, STEPS, TARGETS, network, tolerance_of
from smooth_models import smooth_picture_net, smooth_table_net

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import METHODS
from onnxplain.engine.shipping.opsets import NEWEST_OPSET

Array = np.ndarray[Any, Any]


def cases() -> list[Any]:
    found = []
    for name, cls in METHODS:
        for number, options in enumerate(CASES.get(name, [dict(cls.quick)])):
            found += [] if cls.outside else [pytest.param(name, options, id=f"{name}-{number}")]
    return found


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # a default that may be overridden is worth a warning to the runtime
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    opened = session(path)
    return dict(zip([o.name for o in opened.get_outputs()], opened.run(None, dict(feeds)), strict=True))


def near(found: Array, expected: Array, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0, "nothing would be shown by zeros"
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(("method", "options"), cases())
def test_a_file_gives_the_calls_numbers(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    proto, x = network(method)
    if method == "lime":
        pytest.importorskip("sklearn", reason="the call's ridge regression needs scikit-learn")
    explainer = ox.compile(proto, method=method, threads=1, **options)
    path = explainer.save(tmp_path / "e.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    (opset,) = onnx.load(path).opset_import
    assert opset.domain == "" and opset.version <= NEWEST_OPSET
    targets = np.array(TARGETS)
    found = run(path, {"x": x, "target": targets})
    e = explainer(x, target=TARGETS)
    tolerance = tolerance_of(method)
    (expected,) = e.attributions.values()
    near(found["attribution"], expected, tolerance)
    assert (e.saliency is None) == ("saliency" not in found)
    if e.saliency is not None:
        near(found["saliency"], e.saliency, tolerance)
    if e.residual is not None and method != "smoothed":  # that of the worst copy is the call's alone
        scale = max(1.0, float(np.abs(e.score).max()))
        np.testing.assert_allclose(found["residual"], e.residual.absolute, atol=1e-5 * scale)
    own = next(iter(e.outputs))
    np.testing.assert_allclose(found[own], e.outputs[own], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "options"), cases())
def test_samples_do_not_mix_and_runs_repeat(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    proto, x = network(method)
    explainer = ox.compile(proto, method=method, threads=1, **options)
    path = explainer.save(tmp_path / "e.onnx")
    assert path.read_bytes() == explainer.save(tmp_path / "again.onnx").read_bytes()
    opened, targets = session(path), np.array(TARGETS)
    names = [o.name for o in opened.get_outputs()]
    together = opened.run(None, {"x": x, "target": targets})
    for first, second in zip(together, opened.run(None, {"x": x, "target": targets}), strict=True):
        np.testing.assert_array_equal(first, second)
    for i in range(3):
        alone = opened.run(None, {"x": x[i : i + 1], "target": targets[i : i + 1]})
        for name, one, all_ in zip(names, alone, together, strict=True):
            if name != "residual":  # rounding
                tolerance = tolerance_of(method)
                np.testing.assert_allclose(one[0], all_[i], rtol=0, atol=tolerance * max(np.abs(all_).max(), 1e-9))


@pytest.mark.parametrize("points", ["batched", "loop", 2])
@pytest.mark.parametrize(
    ("method", "number"),
    [
        *((m, 0) for m in ("guided_ig", "internal_influence", "layer_conductance", "neuron_conductance", "occlusion")),
        *((m, 0) for m in ("blur_ig", "rise", "score_cam", "smooth_fullgrad", "expected_gradients", "lime")),
        *(("idgi", k) for k in (1, 2)),
        *(("smoothed", k) for k in (0, 1, 2, 3, 5)),
    ],
)
def test_points_side_by_side_or_in_a_loop(method: str, number: int, points: Any, tmp_path: Path) -> None:
    if method == "lime":
        pytest.importorskip("sklearn", reason="the call's ridge regression needs scikit-learn")
    proto, x = network(method)
    explainer = ox.compile(proto, method=method, threads=1, **CASES[method][number])
    path = explainer.save(tmp_path / "e.onnx", points=points)
    loops = sum(n.op_type == "Loop" for n in onnx.load(path).graph.node)
    assert loops == 0 if points == "batched" and method != "guided_ig" and number != 1 else loops >= (points == "loop")
    e = explainer(x, target=TARGETS)
    (expected,) = e.attributions.values()
    found = run(path, {"x": x, "target": np.array(TARGETS)})
    near(found["attribution"], expected, tolerance_of(method))
    assert e.saliency is not None
    near(found["saliency"], e.saliency, tolerance_of(method))


@pytest.mark.parametrize(
    "method",
    [
        "gradient",
        "deeplift",
        "smoothgrad",
        "guided_ig",
        "blur_ig",
        "smoothed",
        "rise",
        "score_cam",
        "kernel_shap",
        "occlusion",
    ],
)
def test_half_precision(method: str, tmp_path: Path) -> None:
    proto, x = network(method)
    explainer = ox.compile(proto, method=method, threads=1, **CASES.get(method, [{}])[0])
    path = explainer.save(tmp_path / "h.onnx", half=True)
    onnx.checker.check_model(str(path), full_check=True)
    kinds = {t.data_type for t in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    found = run(path, {"x": x, "target": np.array(TARGETS)})["attribution"]
    (expected,) = explainer(x, target=TARGETS).attributions.values()
    assert found.dtype == np.float32 and np.isfinite(found).all()
    # Eleven bits; forward-only methods take differences of scores that are alike, and see little of them.
    cosine = (found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum())
    assert cosine > (0.9 if explainer.method.forward_only else 0.999)


@pytest.mark.parametrize("name", [n for n, _ in METHODS])
def test_fixed_and_largest_classes(name: str, tmp_path: Path) -> None:
    cls = METHODS.get(name)
    proto, x = network(name)
    options = CASES.get(name, [dict(cls.quick)])[0]
    if cls.outside:
        with pytest.raises(OptionError) as refusal:
            ox.compile(proto, method=name).save(tmp_path / "e.onnx")
        assert str(refusal.value) == f"method '{name}' cannot be written as a file: {cls.outside}"
        assert not list(tmp_path.iterdir())
        return
    explainer = ox.compile(proto, method=name, threads=1, **options)
    asked = run(explainer.save(tmp_path / "input.onnx"), {"x": x, "target": np.array([2, 2, 2])})
    fixed = run(explainer.save(tmp_path / "fixed.onnx", target=2), {"x": x})
    np.testing.assert_allclose(fixed["attribution"], asked["attribution"], rtol=1e-4, atol=1e-5)
    largest = run(explainer.save(tmp_path / "largest.onnx", target="argmax"), {"x": x})
    (scores,) = (v for k, v in largest.items() if k not in ("attribution", "saliency", "residual"))
    asked = run(tmp_path / "input.onnx", {"x": x, "target": scores.argmax(axis=1)})
    np.testing.assert_allclose(largest["attribution"], asked["attribution"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("guided_ig", {"steps": 5}),
        ("idgi", {"steps": 5, "path": "guided"}),
        ("smoothed", {"draws": 3, "around": "integrated_gradients", "inner": STEPS}),
        ("smooth_fullgrad", {"draws": 3}),
        ("layer_conductance", STEPS),
        ("neuron_conductance", {**STEPS, "neuron": 1}),
        ("occlusion", {}),
        ("rise", {"draws": 9}),
        ("kernel_shap", {}),
        ("shapley_sampling", {"permutations": 2}),
        ("lime", {"draws": 60}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_several_inputs(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    proto, rows = smooth_table_net()
    feeds = {"a": rows[:, :5].astype(np.float32), "b": rows[:, 5:].astype(np.float32)}
    if method == "lime":
        pytest.importorskip("sklearn", reason="the call's ridge regression needs scikit-learn")
    explainer = ox.compile(proto, method=method, threads=1, **options)
    found = run(explainer.save(tmp_path / "e.onnx"), {**feeds, "target": np.array([1, 0, 2])})
    e = explainer(feeds, target=[1, 0, 2])
    largest = max(np.abs(a).max() for a in e.attributions.values())
    for name, expected in e.attributions.items():
        got = found["attribution"] if len(e.attributions) == 1 else found[f"attribution/{name}"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance_of(method) * largest)
    assert "saliency" not in found


@pytest.mark.parametrize("method", ["rise", "occlusion", "blur_ig", "smooth_fullgrad", "smoothed", "kernel_shap"])
def test_open_sizes_are_refused_where_something_is_stored_for_them(method: str, tmp_path: Path) -> None:
    proto, _ = smooth_picture_net()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(OptionError, match=r"sizes of 'x' are open; give the model's input fixed sizes"):
        ox.compile(proto, method=method).save(tmp_path / "e.onnx")


def test_superpixels_stay_outside(tmp_path: Path) -> None:
    proto, _ = smooth_picture_net()
    for method in ("lime", "kernel_shap"):
        with pytest.raises(OptionError, match="superpixels are found in each picture"):
            ox.compile(proto, method=method, players="slic:9").save(tmp_path / "e.onnx")


@pytest.mark.parametrize("baseline", ["token:0", "token:3", "mean"])
@pytest.mark.parametrize(
    ("method", "options"),
    [("integrated_gradients", STEPS), ("guided_ig", {"steps": 4}), ("kernel_shap", {}), ("rise", {"draws": 20})],
)
def test_embeddings_of_tokens(method: str, options: dict[str, Any], baseline: str, tmp_path: Path) -> None:
    """What is attributed to lies inside of the model; its baseline is what the model makes of other tokens."""
    explainer = ox.compile(token_model(), method=method, threads=1, baseline=baseline, **options)
    feeds = {"ids": np.array([[1, 2, 3, 4, 5], [0, 1, 0, 1, 2]], np.int64)}
    found = run(explainer.save(tmp_path / "e.onnx"), {**feeds, "target": np.array([0, 2])})
    e = explainer(feeds, target=[0, 2])
    (expected,) = e.attributions.values()
    near(found["attribution"], expected, tolerance_of(method))


@pytest.mark.parametrize("baseline", ["input:zero", "input:0.5", "input:noise:2", ["input:mean", "zero"]], ids=str)
def test_inner_tensors_from_baselines_of_the_input(baseline: Any, tmp_path: Path) -> None:
    proto, x = smooth_picture_net()
    explainer = ox.compile(proto, method="integrated_gradients", wrt="p1", threads=1, baseline=baseline, **STEPS)
    found = run(explainer.save(tmp_path / "e.onnx"), {"x": x, "target": np.array(TARGETS)})
    e = explainer(x, target=TARGETS)
    near(found["attribution"], e.attributions["p1"], 1e-5)
    assert e.residual is not None
    np.testing.assert_allclose(found["residual"], e.residual.absolute, atol=1e-5)


def test_baselines_of_the_input_are_for_inner_tensors(tmp_path: Path) -> None:
    proto, _ = smooth_picture_net()
    for wrt, baseline, words in (
        (None, "input:zero", "is for inner tensors"),
        ("p1", "token:0", "the model has no input of that kind"),
        (None, {"z": "zero"}, r"baseline names \['z'\]"),
    ):
        with pytest.raises(OptionError, match=words):
            ox.compile(proto, method="integrated_gradients", wrt=wrt, baseline=baseline).save(tmp_path / "e.onnx")
    with pytest.raises(OptionError, match="write token:0"):
        ox.compile(token_model(), method="integrated_gradients", baseline="token:x").save(tmp_path / "e.onnx")
