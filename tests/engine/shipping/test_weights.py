"""Weights inside, beside, and shared with the model: the same numbers, and nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import assets, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError, OutputError

RNG = np.random.default_rng(0)


def wide() -> onnx.ModelProto:
    """200 kB of weights, in raw bytes and as a list of floats."""
    proto = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y")],
        {"x": ["N", 64]},
        {"y": ["N", 10]},
        {"w": RNG.normal(size=(64, 640)), "v": RNG.normal(size=(640, 10))},
    )
    listed = proto.graph.initializer[1]
    values = onnx.numpy_helper.to_array(listed).reshape(-1).tolist()
    listed.ClearField("raw_data")
    listed.float_data.extend(values)
    return proto


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(wide(), path)
    return path


def attribution(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["attribution"], {"x": x, "target": np.array([3, 4])})[0]


@pytest.mark.parametrize(("weights", "below"), [("embedded", 300_000), ("external", 10_000), ("shared", 10_000)])
def test_the_same_numbers_wherever_the_weights_are(source: Path, weights: Any, below: int) -> None:
    explainer = ox.compile(source, method="gradient", threads=1)
    path = explainer.save(source.with_name("e.onnx"), weights=weights)
    assert path.stat().st_size < below
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    np.testing.assert_allclose(attribution(path, x), explainer(x, target=[3, 4]).attributions["x"], rtol=1e-6)
    about = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    assert about["onnxplain.model"] == "net.onnx", "no folder of the machine that wrote it"


def test_weights_of_a_model_with_external_data(tmp_path: Path) -> None:
    onnx.save(wide(), tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    explainer = ox.compile(tmp_path / "net.onnx", method="gradient", threads=1)
    path = explainer.save(tmp_path / "e.onnx", weights="shared")
    places = {e.value for t in onnx.load(path, load_external_data=False).graph.initializer for e in t.external_data}
    assert "w.bin" in places
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    np.testing.assert_allclose(attribution(path, x), explainer(x, target=[3, 4]).attributions["x"], rtol=1e-6)


def test_sharing_needs_the_models_own_folder(source: Path, tmp_path: Path) -> None:
    explainer = ox.compile(source, method="gradient")
    other = tmp_path / "elsewhere"
    other.mkdir()
    with pytest.raises(OptionError, match="has to lie in the same folder"):
        explainer.save(other / "e.onnx", weights="shared")
    with pytest.raises(OptionError, match="would replace the model"):
        explainer.save(source, weights="shared")
    with pytest.raises(OptionError, match="read from a file"):
        ox.compile(wide(), method="gradient").save(tmp_path / "e.onnx", weights="shared")
    with pytest.raises(OptionError, match="choose one of embedded"):
        explainer.save(tmp_path / "e.onnx", weights="inside")  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "net.onnx"]


@pytest.mark.parametrize("weights", ["embedded", "external"])
def test_a_place_that_cannot_be_written(source: Path, weights: Any) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        ox.compile(source, method="gradient").save(source / "e.onnx", weights=weights)


@pytest.mark.skipif(assets() is None, reason="needs the collection of trained models beside the checkout")
@pytest.mark.parametrize("name", ["efficientnet-lite0-op18", "efficientnet-lite0-op17-bn"])
def test_a_deployment_grows_by_kilobytes(name: str, tmp_path: Path) -> None:
    folder = assets()
    assert folder is not None
    model_file = tmp_path / "net.onnx"
    shutil.copyfile(folder / f"{name}.onnx", model_file)
    explainer = ox.compile(model_file, method="fullgrad", threads=1)
    path = explainer.save(tmp_path / "e.onnx", weights="shared")
    assert path.stat().st_size < 200_000 < model_file.stat().st_size / 50
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name_in, shape = (
        session.get_inputs()[0].name,
        [d if isinstance(d, int) else 1 for d in session.get_inputs()[0].shape],
    )
    x = RNG.normal(size=shape).astype(np.float32)
    found = session.run(["attribution"], {name_in: x, "target": np.array([281])})[0]
    (expected,) = explainer(x, target=281).attributions.values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
