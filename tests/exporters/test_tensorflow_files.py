"""Keras files and SavedModels of every age: read, exported, and refused with a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs the tensorflow extra")
pytest.importorskip("tf2onnx", reason="needs the tensorflow extra")
import keras  # noqa: E402
from keras_nets import TOLERANCE, convolutional, operators, relative, session  # noqa: E402

from onnxplain.engine.errors import ExportError  # noqa: E402
from onnxplain.exporters import export  # noqa: E402
from onnxplain.exporters.tensorflow_files import Graphs, is_model, load  # noqa: E402

pytestmark = [
    pytest.mark.tensorflow,
    # TensorFlow and Keras use what numpy deprecates; this package's own warnings are errors as ever.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

X = np.random.default_rng(0).standard_normal((3, 12, 10, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_keras_files(name: str, tmp_path: Path) -> None:
    model = convolutional()
    model.save(tmp_path / name)
    report = export(tmp_path / name, None, tmp_path / "m.onnx")
    assert report.operators["BatchNormalization"] == 3
    assert relative(session(report.path).run(None, {"image": X})[0], model(X)) < TOLERANCE


def test_saved_model_says_that_its_normalisations_are_written_out(tmp_path: Path) -> None:
    model = convolutional()
    model.export(tmp_path / "saved", verbose=False)
    report = export(str(tmp_path / "saved"), None, tmp_path / "m.onnx")
    assert [str(fold) for fold in report.folded] == ["BatchNormalization: 3 -> 0"]
    assert "export the Keras model" in report.notes[0]
    assert relative(session(report.path).run(None, {"image": X})[0], model(X)) < TOLERANCE


def _old(path: Path, resource: bool) -> Any:
    """A SavedModel as TensorFlow 1 wrote them, and the function that it holds.

    Args:
        path: Where to.
        resource: Variables as resources, else by reference, as was the default.
    """
    rng = np.random.default_rng(1)
    kernel, bias = rng.standard_normal((3, 3, 3, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as run:
        x = v1.placeholder(tf.float32, [None, 12, 10, 3], "x")
        w = v1.get_variable("w", initializer=kernel, use_resource=resource)
        one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
        hidden, _, _ = v1.nn.fused_batch_norm(
            tf.nn.conv2d(x, w, 1, "SAME"), 2 * one, bias, zero, 3 * one, epsilon=1e-3, is_training=False
        )
        y = tf.identity(tf.reduce_mean(tf.nn.relu(hidden), [1, 2]), "y")
        run.run(v1.global_variables_initializer())
        info = {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in (("picture", x), ("scores", y))}
        signature = v1.saved_model.build_signature_def(
            {"picture": info["picture"]}, {"scores": info["scores"]}, "predict"
        )
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(run, [tf.saved_model.SERVING], {"serving_default": signature})
        builder.save()

    def function(x: Any) -> Any:
        scaled = tf.nn.conv2d(x, kernel, 1, "SAME") * (2 / np.sqrt(3 + 1e-3)).astype(np.float32) + bias
        return tf.reduce_mean(tf.nn.relu(scaled), [1, 2])

    return function


@pytest.mark.parametrize(
    ("resource", "fails"), [(True, False), (False, False), (True, True)], ids=["loader", "references", "fallback"]
)
def test_saved_model_of_tensorflow_1(
    resource: bool, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = _old(tmp_path / "old", resource)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AttributeError("'_UserObject' object has no attribute 'add_slot'")

    if fails:  # as it does where a newer Keras has lost a class that the file names
        monkeypatch.setattr(tf.saved_model, "load", refuse)
    assert isinstance(load(tmp_path / "old"), Graphs) == (fails or not resource)
    report = export(tmp_path / "old", None, tmp_path / "m.onnx")
    assert ([t.name for t in report.inputs], [t.name for t in report.outputs]) == (["picture"], ["scores"])
    assert operators(report.path)["BatchNormalization"] == 1
    assert relative(session(report.path).run(None, {"picture": X})[0], function(X)) < TOLERANCE


def test_signatures(tmp_path: Path) -> None:
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def double(self, x: Any) -> Any:
            return {"y": 2 * x}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def triple(self, x: Any) -> Any:
            return {"y": 3 * x}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "saved"), {"double": module.double, "triple": module.triple})
    report = export(tmp_path / "saved", None, tmp_path / "m.onnx", signature="triple")
    x = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(session(report.path).run(["y"], {"x": x})[0], 3 * x)
    with pytest.raises(ExportError, match="give signature='double' or 'triple'"):
        export(tmp_path / "saved", None, tmp_path / "m.onnx")


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no model"):
        load(tmp_path / "none.keras")
    (tmp_path / "m.keras").write_bytes(b"damaged")
    with pytest.raises(ExportError, match=r"Keras cannot read .*m\.keras"):
        load(tmp_path / "m.keras")
    (tmp_path / "saved").mkdir()
    assert not is_model(tmp_path / "saved")
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"damaged")
    assert is_model(tmp_path / "saved")
    with pytest.raises(ExportError, match=r"TensorFlow cannot read .* nor as a graph"):
        load(tmp_path / "saved")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    convolutional().save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ExportError, match="a file of weights alone needs its model"):
        load(tmp_path / "m.weights.h5")
    assert keras.backend.backend() == "tensorflow"
