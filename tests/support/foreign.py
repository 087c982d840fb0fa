"""Runs compiled files in runtimes that are not this process's: where they are, and how they are called.

Each runtime takes all jobs at once, so that a browser or a process starts once. A file is only read: nothing of this
package is known there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]
FOLDER = Path(__file__).resolve().parents[1] / "foreign"

#: Seconds that a run of all jobs may take, start of a browser included.
LIMIT = 1800

#: A file and what it is fed, by the job's name.
Jobs = Mapping[str, tuple[Path, Mapping[str, Array]]]
#: The file's outputs, by the job's name.
Answers = dict[str, dict[str, Array]]


def installed(package: str) -> bool:
    """Whether Node.js and the package are there (``npm ci`` in tests/foreign)."""
    return shutil.which("node") is not None and (FOLDER / "node_modules" / package).is_dir()


def browser() -> str | None:
    """A Chromium to run headless: named by ``CHROMIUM``, or on the path."""
    named = os.environ.get("CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Runtime:
    """Something that runs ONNX files.

    Attributes:
        title: What it is called in the table.
        run: Runs all jobs; the folder is for what it writes.
        lacks: What is missing here; empty where nothing is.
        loops: Whether it loads a ``Loop``.
    """

    title: str
    run: Callable[[Jobs, Path], Answers]
    lacks: Callable[[], str]
    loops: bool = True


# ----- Python --------------------------------------------------------------------------------------


def run_alone(jobs: Jobs, folder: Path) -> Answers:
    """onnxruntime in a process that has NumPy and nothing else."""
    return _in_a_process(jobs, folder, "CPUExecutionProvider", {}, "")


def run_oldest(jobs: Jobs, folder: Path) -> Answers:
    """The oldest onnxruntime that is supported."""
    return _in_a_process(jobs, folder, "CPUExecutionProvider", {}, os.environ["ONNXPLAIN_ORT_OLDEST"])


def run_openvino_provider(jobs: Jobs, folder: Path) -> Answers:
    """onnxruntime's OpenVINO provider, in float32."""
    options = {"device_type": "CPU", "precision": "FP32"}
    place = os.environ["ONNXPLAIN_ORT_OPENVINO"]
    return _in_a_process(jobs, folder, "OpenVINOExecutionProvider", options, place)


def _in_a_process(jobs: Jobs, folder: Path, provider: str, options: dict[str, str], place: str) -> Answers:
    """By the onnxruntime that is installed, or by that in a folder of its own (``pip install --target``)."""
    entries = []
    for name, (path, feeds) in jobs.items():
        np.savez(folder / f"{name}.feeds.npz", **feeds)  # type: ignore[arg-type]
        paths = {"model": path, "feeds": folder / f"{name}.feeds.npz", "answer": folder / f"{name}.answer.npz"}
        entries.append({k: str(v) for k, v in paths.items()})
    request = {"provider": provider, "options": options, "jobs": entries}
    (folder / "jobs.json").write_text(json.dumps(request))
    command = [sys.executable, str(FOLDER / "provider.py"), str(folder / "jobs.json")]
    environment = {**os.environ, "PYTHONPATH": place}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = {}
    for name in jobs:
        with np.load(folder / f"{name}.answer.npz") as answer:
            answers[name] = {k: answer[k] for k in answer.files}
        ran = str(answers[name].pop("provider"))
        assert ran == provider, f"{name} ran on {ran}, and not on what was asked for"
    return answers


def run_openvino(jobs: Jobs, folder: Path) -> Answers:
    """OpenVINO itself, which reads ONNX files; it takes no default of an input, so it is given the baseline.

    By default it computes in bfloat16 where the processor has it.
    """
    import openvino

    core = openvino.Core()
    answers = {}
    for name, (path, feeds) in jobs.items():
        compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        graph = onnx.load(path).graph
        defaults = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        wanted = [port.get_any_name() for port in compiled.inputs]
        results = compiled({n: feeds[n] if n in feeds else defaults[n] for n in wanted})
        answers[name] = {output.name: np.asarray(results[i]) for i, output in enumerate(graph.output)}
    return answers


# ----- JavaScript ----------------------------------------------------------------------------------


def run_node(jobs: Jobs, folder: Path) -> Answers:
    """onnxruntime-node."""
    return _by_node("node.cjs", jobs, folder)


def run_browser(jobs: Jobs, folder: Path) -> Answers:
    """onnxruntime-web, WebAssembly, in a headless browser."""
    return _by_node("browser.cjs", jobs, folder, browser())


def _by_node(script: str, jobs: Jobs, folder: Path, *arguments: Any) -> Answers:
    entries = []
    for name, (model, feeds) in jobs.items():
        request, answer = folder / f"{name}.request.json", folder / f"{name}.answer.json"
        request.write_text(json.dumps(_encoded(feeds)))
        entries.append({"model": str(model), "request": str(request), "answer": str(answer)})
    (folder / "jobs.json").write_text(json.dumps(entries))
    call_node(script, *arguments, folder / "jobs.json")
    return {name: _decoded(folder / f"{name}.answer.json") for name in jobs}


def call_node(script: str, *arguments: Any) -> None:
    """Run one of the scripts in tests/foreign."""
    command = ["node", str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]


def _encoded(feeds: Mapping[str, Array]) -> dict[str, Any]:
    kinds = {"i": "int64", "f": "float32"}
    return {
        n: {"type": kinds[a.dtype.kind], "dims": list(a.shape), "data": a.reshape(-1).tolist()}
        for n, a in feeds.items()
    }


def _decoded(answer: Path) -> dict[str, Array]:
    content = json.loads(answer.read_text())
    return {n: np.asarray(t["data"]).reshape(t["dims"]) for n, t in content.items()}


# ----- all of them ---------------------------------------------------------------------------------


def _variable(name: str, package: str) -> Callable[[], str]:
    words = f"needs {package} (pip install --target FOLDER) and {name}=FOLDER"
    return lambda: "" if name in os.environ else words


def _no_node() -> str:
    return "" if installed("onnxruntime-node") else "needs onnxruntime-node: npm ci in tests/foreign"


def _no_browser() -> str:
    if not installed("onnxruntime-web"):
        return "needs onnxruntime-web: npm ci in tests/foreign"
    return "" if browser() is not None else "needs a Chromium; name it in CHROMIUM"


def _no_openvino() -> str:
    found = importlib.util.find_spec("openvino") is not None
    return "" if found else "needs the package openvino, which reads ONNX files itself"


RUNTIMES: dict[str, Runtime] = {
    "alone": Runtime("onnxruntime alone", run_alone, lambda: ""),
    "oldest": Runtime("oldest onnxruntime", run_oldest, _variable("ONNXPLAIN_ORT_OLDEST", "the oldest runtime")),
    "openvino-provider": Runtime(
        "OpenVINO provider",
        run_openvino_provider,
        _variable("ONNXPLAIN_ORT_OPENVINO", "onnxruntime-openvino"),
        loops=False,
    ),
    "openvino": Runtime("OpenVINO", run_openvino, _no_openvino),
    "node": Runtime("onnxruntime-node", run_node, _no_node),
    "browser": Runtime("onnxruntime-web", run_browser, _no_browser),
}
