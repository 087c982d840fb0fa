"""`onnxplain export`: what a script's factory gives, and every way in which it does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from command_line import array, call, listing, refused

from onnxplain.cli.export import load_network, read_sample
from onnxplain.engine.errors import ExportError, InputError

SCRIPT = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

def pair():
    return make(), torch.ones(1, 3)
"""


def script(folder: Path, text: str, name: str = "net.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ----- samples ------------------------------------------------------------------------------------


def test_samples(tmp_path: Path) -> None:
    drawn = read_sample("2x3x4", 1)
    assert (drawn.shape, drawn.dtype) == ((2, 3, 4), np.float32)
    np.testing.assert_array_equal(drawn, read_sample("2X3X4", 1))
    assert not np.array_equal(drawn, read_sample("2x3x4", 2))
    ids = read_sample("1x5:int64", 0)
    assert (ids.shape, ids.dtype, int(ids.sum())) == ((1, 5), np.int64, 0)
    np.testing.assert_array_equal(read_sample(str(array(tmp_path / "x.npy", np.eye(2))), 0), np.eye(2))


@pytest.mark.parametrize("text", ["", "axb", "1x0", "1x-3", "1x3:float31", "1.5x2", "x"])
def test_bad_samples(text: str) -> None:
    with pytest.raises(InputError, match="is no shape"):
        read_sample(text, 0)


# ----- scripts: no framework needed -----------------------------------------------------------------


def test_a_factory_is_called_and_its_folder_is_on_the_path_meanwhile(tmp_path: Path) -> None:
    script(tmp_path, "VALUE = 7", "onnxplain_test_neighbour.py")
    path = script(tmp_path, "import onnxplain_test_neighbour as n\ndef make(): return n.VALUE\ndef pair(): return 1, 2")
    before = list(sys.path)
    assert load_network(f"{path}:make") == (7, None)
    assert load_network(f"{path}:pair") == (1, 2)
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def make():\n    return 1 / 0", "line 2: ZeroDivisionError"),
        ("def make(:", "SyntaxError"),
        ("import no_such_framework", "needs no_such_framework"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
        ("make = 3", "has no function 'make'"),
        ("def other(): return 1", "has no function 'make'"),
        ("def make(): return object()", "no exporter knows it"),
    ],
)
def test_scripts_that_give_nothing(text: str, words: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    before = listing(tmp_path)
    assert words in refused("export", f"{path}:make", "--sample", "1x3", "-o", tmp_path / "m.onnx")
    assert {name: data for name, data in listing(tmp_path).items() if "__pycache__" not in name} == before


def test_sources_that_are_no_script(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    assert "there is no script" in refused("export", tmp_path / "none.py:make", "-o", out)
    assert "does not name a function" in refused("export", script(tmp_path, SCRIPT), "-o", out)
    assert "there is no file" in refused("export", tmp_path / "net.pt", "-o", out)
    weights = tmp_path / "net.pt"
    weights.write_bytes(b"weights")
    assert "holds weights and no network" in refused("export", weights, "-o", out)
    assert "--out" in refused("export", weights)


def test_where_to_write_is_looked_at_before_the_script_runs(tmp_path: Path) -> None:
    path = script(tmp_path, "raise RuntimeError('ran')")
    assert "there is no folder" in refused("export", f"{path}:make", "-o", tmp_path / "none" / "m.onnx")


def test_no_sample(tmp_path: Path) -> None:
    path = script(tmp_path, "def make(): return 1")
    assert "give --sample" in refused("export", f"{path}:make", "-o", tmp_path / "m.onnx")


# ----- with PyTorch ---------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_network_and_its_file_agree(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    path, out = script(tmp_path, SCRIPT), tmp_path / "m.onnx"
    result = call("export", f"{path}:make", "--sample", "1x3", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert f"wrote {out}: opset 18" in " ".join(result.stdout.split())
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    (got,) = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"input": x})
    network, _ = load_network(f"{path}:make")
    with torch.no_grad():
        np.testing.assert_allclose(got, network(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.torch
def test_the_factorys_own_sample_and_json(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    path, out = script(tmp_path, SCRIPT), tmp_path / "m.onnx"
    report = json.loads(call("export", f"{path}:pair", "-o", out, "--opset", "20", "--external-data", "--json").stdout)
    assert report["opset"] == 20
    assert set(report["files"]) == {"m.onnx", "m.onnx.data"}


@pytest.mark.torch
def test_what_the_exporter_refuses(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    path, out = script(tmp_path, SCRIPT), tmp_path / "m.onnx"
    assert "opset 5" in refused("export", f"{path}:make", "--sample", "1x3", "-o", out, "--opset", "5")
    assert "(1, 9)" in refused("export", f"{path}:make", "--sample", "1x9", "-o", out)
    assert not out.exists()


@pytest.mark.torch
def test_a_damaged_program(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    (tmp_path / "net.pt2").write_bytes(b"damaged")
    with pytest.raises(ExportError, match="is no exported program"):
        load_network(str(tmp_path / "net.pt2"))


# ----- with TensorFlow ------------------------------------------------------------------------------

NETWORK = """
import keras

def make():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6, 5, 3), name="x"), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
"""
TENSORFLOW = (
    pytest.mark.tensorflow,
    # TensorFlow and Keras use what numpy deprecates; this package's own warnings are errors as ever.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
)


def tensorflow(test: Any) -> Any:
    for mark in TENSORFLOW:
        test = mark(test)
    return test


@tensorflow
def test_a_keras_script_and_its_file_need_no_sample(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="needs the tensorflow extra")
    path, out = script(tmp_path, NETWORK), tmp_path / "m.onnx"
    model, _ = load_network(f"{path}:make")
    model.save(tmp_path / "net.keras")
    x = np.random.default_rng(0).standard_normal((4, 6, 5, 3)).astype(np.float32)
    for source in (f"{path}:make", tmp_path / "net.keras"):
        result = call("export", source, "-o", out)
        assert result.exit_code == 0, result.stderr
        (got,) = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-5, atol=1e-6)  # float32


@tensorflow
def test_layout_and_options_of_the_exporter(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="needs the tensorflow extra")
    path, out = script(tmp_path, NETWORK), tmp_path / "m.onnx"
    report = json.loads(call("export", f"{path}:make", "-o", out, "--layout", "nchw", "--json").stdout)
    assert report["inputs"][0]["shape"] == ["batch", 3, 6, 5]
    assert "has no option 'speed'" in refused("export", f"{path}:make", "-o", out, "-O", "speed=3")
    assert "use NCHW or NHWC" in refused("export", f"{path}:make", "-o", out, "--layout", "HWC")


@pytest.mark.parametrize(
    ("text", "words"), [("open_axes", "is not KEY=VALUE"), ("opset=9", "there is --opset for it"), ("=3", "is not KEY")]
)
def test_bad_options_of_the_exporter(text: str, words: str, tmp_path: Path) -> None:
    path = script(tmp_path, "def make(): return object()")
    assert words in refused("export", f"{path}:make", "-o", tmp_path / "m.onnx", "-O", text)


def test_folders_and_files_without_a_network(tmp_path: Path) -> None:
    assert "holds neither a saved_model.pb nor" in refused("export", tmp_path, "-o", tmp_path / "m.onnx")
    assert "there is no file" in refused("export", tmp_path / "none.keras", "-o", tmp_path / "m.onnx")


def test_a_keras_file_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.keras").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    refusal = refused("export", tmp_path / "net.keras", "-o", tmp_path / "m.onnx")
    assert "pip install 'onnxplain[tensorflow]'" in refusal


# ----- with scikit-learn ------------------------------------------------------------------------------

PIPELINE = """
import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)).astype(np.float32)

def make():
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, np.array(["no", "yes"])[(X[:, 1] > 0).astype(int)])

def pair():
    return make(), X[:5]
"""


def test_a_scikit_learn_script_and_its_file_need_no_sample(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib", reason="needs the sklearn extra")
    pytest.importorskip("skl2onnx", reason="needs the sklearn extra")
    path, out = script(tmp_path, PIPELINE), tmp_path / "m.onnx"
    model, _ = load_network(f"{path}:make")
    joblib.dump(model, tmp_path / "model.joblib")
    x = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    for source in (f"{path}:make", f"{path}:pair", tmp_path / "model.joblib"):
        result = call("export", source, "-o", out)
        assert result.exit_code == 0, result.stderr
        label, got = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"X": x})
        np.testing.assert_allclose(got, model.predict_proba(x), rtol=1e-5, atol=1e-6)  # float32
        assert label.tolist() == model.predict(x).tolist()
    report = json.loads(call("export", tmp_path / "model.joblib", "-o", out, "-O", "scores=decision", "--json").stdout)
    assert [t["name"] for t in report["outputs"]] == ["label", "scores"]


def test_a_scikit_learn_file_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.joblib").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    refusal = refused("export", tmp_path / "model.joblib", "-o", tmp_path / "m.onnx")
    assert "pip install 'onnxplain[sklearn]'" in refusal
