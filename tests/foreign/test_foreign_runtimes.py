"""A compiled file gives the Python call's numbers in other runtimes: Node.js, a browser, OpenVINO.

Each of them is tested where it is installed; where it is not, the test says what to install.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import browser, installed, run_browser, run_node
from tiny_models import assets, fullgrad_net, model, node

import onnxplain as ox

Array = np.ndarray[Any, Any]
FOLDER = assets()

#: Ten methods, as different from each other as they come, with work that is fixed and short.
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "input_x_gradient": {},
    "fullgrad": {},
    "guided_backprop": {},
    "gradcam": {},
    "layercam": {},
    "lrp": {},
    "deeplift": {},
    "integrated_gradients": {"steps": 6, "tolerance": None},
    "smoothgrad": {"draws": 4},
}

#: float32 kernels of other libraries: sums are taken in another order.
CLOSE = 1e-5

#: On the empty background of a picture max-pooling has ties, which the last bit of a sum decides: a path's gradient
#: then goes another way, and does not differ in its last digits alone. So on the trained nets at most this share of
#: the elements may differ by more than `CLOSE`, and none by more than `FAR`.
FLIPPED, FAR = 0.1, 5e-3


def series() -> onnx.ModelProto:
    """Smooth: no kink at all."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", "x k", "c", pads=[2, 2]),
        node("Tanh", "c", "t"),
        node("GlobalAveragePool", "t", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f w b", "y"),
    ]
    weights = {"k": rng.normal(size=(6, 2, 5)), "w": rng.normal(size=(6, 3)), "b": rng.normal(size=3)}
    return model(nodes, {"x": ["N", 2, 20]}, {"y": ["N", 3]}, weights)


def table() -> onnx.ModelProto:
    """Scaled, normalised, through a LayerNormalization and a Gelu spelt with Erf."""
    rng = np.random.default_rng(2)
    nodes = [
        node("Gemm", "x w b", "h"),
        node("LayerNormalization", "h g", "n"),
        node("Mul", "n root", "s"),
        node("Erf", "s", "e"),
        node("Add", "e one", "o"),
        node("Mul", "n o", "a"),
        node("Gemm", "a v", "z"),
        node("Softmax", "z", "y", axis=1),
    ]
    weights = {
        "w": rng.normal(size=(5, 8)), "b": rng.normal(size=8), "g": rng.normal(size=8), "root": np.array(0.7071),
        "one": np.array(1.0), "v": rng.normal(size=(8, 4)),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 5]}, {"y": ["N", 4]}, weights)


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "pictures": (lambda: fullgrad_net()[0], (2, 1, 4, 4)),
    "series": (series, (2, 2, 20)),
    "table": (table, (3, 5)),
}
REAL: tuple[str, ...] = ("fmnist-vgg-small", "gunpoint-fcn") if FOLDER is not None else ()


@cache
def source(name: str) -> tuple[Any, str, Array]:
    """Model, its input's name, and an input."""
    rng = np.random.default_rng(7)
    if name in MODELS:
        make, shape = MODELS[name]
        return make(), "x", rng.normal(size=shape).astype(np.float32)
    assert FOLDER is not None
    loaded = ox.load(FOLDER / f"{name}.onnx", threads=1)
    shape = [2, *(int(d) for d in loaded.inputs[0].shape[1:])]  # type: ignore[index, arg-type]
    return loaded, loaded.inputs[0].name, rng.uniform(size=shape).astype(np.float32)


def jobs(folder: Path) -> dict[str, tuple[Path, dict[str, Array], ox.Explanation]]:
    """Every method on every model that it suits: the file, its feeds, the Python call's answer."""
    made = {}
    for name in (*MODELS, *REAL):
        proto, feed, x = source(name)
        for method, options in METHODS.items():
            try:
                explainer = ox.compile(proto, method=method, threads=1, **options)
            except ox.OnnxplainError:
                continue  # Grad-CAM of a table, Guided Backpropagation without a ReLU
            path = explainer.save(folder / f"{name}.{method}.onnx")
            target = np.arange(len(x)) % 2
            made[f"{name}.{method}"] = (path, {feed: x, "target": target}, explainer({feed: x}, target=target))
    return made


def agrees(found: dict[str, Array], e: ox.Explanation, *, kinks: bool) -> None:
    (expected,) = e.attributions.values()
    for name, wanted in (("attribution", expected), ("saliency", e.saliency)):
        assert wanted is not None
        gap = np.abs(found[name] - wanted) / max(np.abs(wanted).max(), 1e-12)
        assert (gap > CLOSE).mean() <= (FLIPPED if kinks else 0.0), f"{name}: {gap.max():.1e}"
        assert gap.max() < FAR
    for name, own in e.outputs.items():
        np.testing.assert_allclose(found[name], own, rtol=1e-5, atol=1e-6 * np.abs(own).max())


@pytest.mark.slow
@pytest.mark.skipif(not installed("onnxruntime-node"), reason="needs onnxruntime-node: npm install in tests/foreign")
def test_node(tmp_path: Path) -> None:
    made = jobs(tmp_path)
    assert len(made) >= 25
    for name, (path, feeds, e) in made.items():
        agrees(run_node(path, feeds, tmp_path), e, kinks=name.startswith(REAL))


@pytest.mark.slow
@pytest.mark.skipif(not installed("onnxruntime-web"), reason="needs onnxruntime-web: npm install in tests/foreign")
@pytest.mark.skipif(browser() is None, reason="needs a Chromium; name it in CHROMIUM")
def test_browser(tmp_path: Path) -> None:
    made = jobs(tmp_path)
    found = run_browser({name: (path, feeds) for name, (path, feeds, _) in made.items()}, tmp_path)
    for name, (_, _, e) in made.items():
        agrees(found[name], e, kinks=name.startswith(REAL))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs the package openvino, which reads ONNX files itself"
)
def test_openvino(tmp_path: Path) -> None:
    import openvino

    core = openvino.Core()
    for name, (path, feeds, e) in jobs(tmp_path).items():
        compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        given = {port.get_any_name() for port in compiled.inputs}
        baseline = {"baseline": np.zeros_like(next(iter(feeds.values())))} if "baseline" in given else {}
        results = compiled({**feeds, **baseline})
        names = [output.name for output in onnx.load(path).graph.output]
        found = {n: np.asarray(results[i]) for i, n in enumerate(names)}
        agrees(found, e, kinks=name.startswith(REAL))


def run_elsewhere(folder: str, provider: str, where: Path, without: tuple[str, ...] = ()) -> None:
    """All jobs by another build of onnxruntime, installed into a folder of its own (``pip install --target``)."""
    made = {name: job for name, job in jobs(where).items() if not name.endswith(without)}
    entries = []
    for name, (path, feeds, _) in made.items():
        np.savez(where / f"{name}.feeds.npz", **feeds)  # type: ignore[arg-type]
        paths = {"model": path, "feeds": where / f"{name}.feeds.npz", "answer": where / f"{name}.answer.npz"}
        entries.append({k: str(v) for k, v in paths.items()})
    (where / "jobs.json").write_text(json.dumps(entries))
    script = Path(__file__).with_name("provider.py")
    command = [sys.executable, str(script), provider, str(where / "jobs.json")]
    environment = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, (_, _, e) in made.items():
        with np.load(where / f"{name}.answer.npz") as answer:
            found = {k: answer[k] for k in answer.files}
        assert str(found.pop("provider")) == provider, "it ran, and not on another provider in silence"
        agrees(found, e, kinks=name.startswith(REAL))


@pytest.mark.slow
@pytest.mark.skipif(
    "ONNXPLAIN_ORT_OPENVINO" not in os.environ,
    reason="needs onnxruntime-openvino (pip install --target FOLDER) and ONNXPLAIN_ORT_OPENVINO=FOLDER",
)
def test_openvino_provider(tmp_path: Path) -> None:
    # Version 1.24 cuts the body of a Loop into pieces and then does not find them; OpenVINO itself runs it (above).
    loops = (".integrated_gradients", ".smoothgrad")
    run_elsewhere(os.environ["ONNXPLAIN_ORT_OPENVINO"], "OpenVINOExecutionProvider", tmp_path, loops)


@pytest.mark.slow
@pytest.mark.skipif(
    "ONNXPLAIN_ORT_OLDEST" not in os.environ,
    reason="needs the oldest runtime (pip install --target FOLDER onnxruntime==1.19.2) and ONNXPLAIN_ORT_OLDEST=FOLDER",
)
def test_the_oldest_runtime(tmp_path: Path) -> None:
    run_elsewhere(os.environ["ONNXPLAIN_ORT_OLDEST"], "CPUExecutionProvider", tmp_path)
