"""A shipped file gives the Python call's numbers in a process that has a runtime and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError, TargetError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)

#: Methods that are shipped, with options that fix their work.
SHIPPED: dict[str, dict[str, Any]] = {
    "gradient": {},
    "absolute_gradient": {},
    "input_x_gradient": {},
    "fullgrad": {},
    "guided_backprop": {},
    "deconvnet": {},
    "rectgrad": {"percentile": 20.0},
    "integrated_gradients": {"steps": 8, "tolerance": None},
    "idgi": {"steps": 6},
    "expected_gradients": {"draws": 6, "background": RNG.normal(size=(4, 1, 4, 4)).astype(np.float32)},
    "gradient_shap": {"draws": 6, "background": RNG.normal(size=(4, 1, 4, 4)).astype(np.float32), "spread": 0.2},
    "smoothgrad": {"draws": 6},
    "smoothgrad_squared": {"draws": 6},
    "vargrad": {"draws": 6, "unbiased": True},
    "lrp": {},
    "deeplift": {},
    "simple_fullgrad": {},
    "fullgrad_plus": {},
}

#: Class activation maps: their attribution is the layer's.
MAPS = ("gradcam", "gradcam_plus_plus", "hirescam", "xgradcam", "layercam")


def run(path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # a default that may be overridden is worth a warning to the runtime
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def batch() -> tuple[onnx.ModelProto, Array]:
    proto, x = fullgrad_net()
    return proto, np.concatenate([x, x[..., ::-1] * 0.7, x + 0.3]).astype(np.float32)


@pytest.mark.parametrize("method", [*SHIPPED, *MAPS])
def test_the_file_gives_the_calls_numbers(method: str, tmp_path: Path) -> None:
    proto, x = batch()
    explainer = ox.compile(proto, method=method, threads=1, **SHIPPED.get(method, {}))
    path = explainer.save(tmp_path / "e.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    assert {o.domain for o in onnx.load(path).opset_import} == {""}
    targets = np.array([1, 0, -1])
    found = run(path, {"x": x, "target": targets})
    best = found["logits"][2].argmax()
    e = explainer(x, target=[1, 0, int(best)])
    (expected,) = e.attributions.values()
    np.testing.assert_allclose(found["attribution"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert e.saliency is not None
    np.testing.assert_allclose(found["saliency"], e.saliency, rtol=1e-5, atol=1e-5 * np.abs(e.saliency).max())
    if e.residual is not None:
        np.testing.assert_allclose(found["residual"], e.residual.absolute, atol=1e-5)
    np.testing.assert_allclose(found["logits"], e.outputs["logits"], rtol=1e-6)


def test_the_interface_is_the_one_that_is_promised(tmp_path: Path) -> None:
    proto, _ = batch()
    saved = onnx.load(ox.compile(proto, method="integrated_gradients").save(tmp_path / "e.onnx"))
    assert [v.name for v in saved.graph.input] == ["x", "target", "baseline"]
    assert [v.name for v in saved.graph.output] == ["logits", "attribution", "saliency", "residual"]
    about = {p.key: p.value for p in saved.metadata_props}
    assert about["onnxplain.method"] == "integrated_gradients"
    assert json.loads(about["onnxplain.options"])["steps"] == 50
    assert len(about["onnxplain.model_sha256"]) == 64


def test_a_fixed_target_needs_no_input(tmp_path: Path) -> None:
    proto, x = batch()
    explainer = ox.compile(proto, method="gradient")
    for target in (0, 1, "argmax"):
        path = explainer.save(tmp_path / "e.onnx", target=target)  # type: ignore[arg-type]
        found = run(path, {"x": x})
        np.testing.assert_allclose(found["attribution"], explainer(x, target=target).attributions["x"], rtol=1e-5)
    for bad in (2, -1):
        with pytest.raises(TargetError, match="out of range"):
            explainer.save(tmp_path / "bad.onnx", target=bad)
    assert not (tmp_path / "bad.onnx").exists()


def test_the_baseline_can_be_given(tmp_path: Path) -> None:
    proto, x = batch()
    options: dict[str, Any] = {"steps": 16, "tolerance": None}
    path = ox.compile(proto, method="integrated_gradients", **options).save(tmp_path / "e.onnx")
    other = RNG.normal(size=x.shape).astype(np.float32)
    target = np.array([1, 1, 1])
    found = run(path, {"x": x, "target": target, "baseline": other})
    e = ox.explain(proto, x, method="integrated_gradients", target=1, baseline=other, **options)
    np.testing.assert_allclose(found["attribution"], e.attributions["x"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("baseline", [0.5, "mean", "minimum", "maximum", ["zero", 0.5]], ids=str)
def test_stored_baselines(baseline: Any, tmp_path: Path) -> None:
    proto, x = batch()
    explainer = ox.compile(proto, method="integrated_gradients", steps=16, tolerance=None, baseline=baseline)
    found = run(explainer.save(tmp_path / "e.onnx"), {"x": x, "target": np.array([1, 1, 1])})
    np.testing.assert_allclose(found["attribution"], explainer(x, target=1).attributions["x"], rtol=1e-5, atol=1e-6)


def test_several_inputs_have_an_attribution_each(tmp_path: Path) -> None:
    proto = model([node("Mul", "a b", "y")], {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]})
    explainer = ox.compile(proto, method="integrated_gradients", steps=4, tolerance=None)
    feeds = {"a": RNG.normal(size=(2, 3)).astype(np.float32), "b": RNG.normal(size=(2, 3)).astype(np.float32)}
    found = run(explainer.save(tmp_path / "e.onnx"), {**feeds, "target": np.array([0, 2])})
    e = explainer(feeds, target=[0, 2])
    for name in ("a", "b"):
        np.testing.assert_allclose(found[f"attribution/{name}"], e.attributions[name], rtol=1e-5, atol=1e-6)
    assert "saliency" not in found


def test_what_cannot_be_shipped_is_refused(tmp_path: Path) -> None:
    proto, _ = batch()
    with pytest.raises(OptionError, match="cannot be written as a file: its regions are found"):
        ox.compile(proto, method="xrai").save(tmp_path / "e.onnx")
    with pytest.raises(OptionError, match="unknown baseline 'grey'"):
        ox.compile(proto, method="integrated_gradients", baseline="grey").save(tmp_path / "e.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_process_with_the_runtime_alone(tmp_path: Path) -> None:
    """This package, and what it needs beside the runtime, cannot be imported there."""
    proto, x = batch()
    explainer = ox.compile(proto, method="fullgrad")
    explainer.save(tmp_path / "e.onnx", target=1)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
for name in ("onnxplain", "onnx", "onnx_ir", "cv2", "matplotlib"):
    sys.modules[name] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession("e.onnx", providers=["CPUExecutionProvider"])
numpy.save("out.npy", session.run(["saliency"], {"x": numpy.load("x.npy")})[0])
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = explainer(x, target=1).saliency
    assert expected is not None
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5)


def test_adjoints_of_every_bias(tmp_path: Path) -> None:
    """Summed over places, the adjoint times the bias is the term that FullGrad reports."""
    proto, x = batch()
    explainer = ox.compile(proto, method="fullgrad", term_maps=True)
    path = explainer.save(tmp_path / "a.onnx", adjoints=True, target=1)
    found = run(path, {"x": x})
    e = explainer(x, target=1)
    assert e.terms is not None
    about = {p.key: p.value for p in onnx.load(path).metadata_props}
    entries = json.loads(about["onnxplain.biases"])
    assert [b["parameter"] for b in entries] == [i.parameter for i in e.terms.info if i.kind == "explicit"]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for k, entry in enumerate(entries):
        adjoint, bias = found[entry["output"]], weights[entry["parameter"]]
        shaped = bias.reshape(-1, 1, 1) if adjoint.ndim == 4 else bias
        total = (adjoint * shaped).reshape(len(x), -1).sum(axis=1)
        np.testing.assert_allclose(total, e.terms.biases[:, k], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["gradient"] * x, e.attributions["x"], rtol=1e-5)


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "integrated_gradients"])
def test_half_precision_is_near(method: str, tmp_path: Path) -> None:
    proto, x = batch()
    explainer = ox.compile(proto, method=method, **SHIPPED[method])
    found = run(explainer.save(tmp_path / "h.onnx", half=True), {"x": x, "target": np.array([1, 1, 1])})
    (expected,) = explainer(x, target=1).attributions.values()
    assert found["attribution"].dtype == np.float32
    # float16 has eleven bits; a path goes through a few hundred operations.
    assert np.abs(found["attribution"] - expected).max() < 2e-2 * np.abs(expected).max()
    kinds = {t.data_type for t in onnx.load(tmp_path / "h.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
