"""Runs compiled files in runtimes that are not Python's: where they are, and how they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FOLDER = Path(__file__).resolve().parents[1] / "foreign"

#: Seconds that a run may take, start of a browser included.
LIMIT = 300


def installed(package: str) -> bool:
    """Whether Node.js and the package are there (``npm ci`` in tests/foreign)."""
    return shutil.which("node") is not None and (FOLDER / "node_modules" / package).is_dir()


def browser() -> str | None:
    """A Chromium to run headless: named by ``CHROMIUM``, or on the path."""
    named = os.environ.get("CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def run_node(model: Path, feeds: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    """One run in onnxruntime-node."""
    request, answer = folder / "request.json", folder / "answer.json"
    request.write_text(json.dumps(_encoded(feeds)))
    call_node("node.cjs", model, request, answer)
    return _decoded(answer)


def run_browser(jobs: Mapping[str, tuple[Path, Mapping[str, Array]]], folder: Path) -> dict[str, dict[str, Array]]:
    """Several models in one browser, by name."""
    executable = browser()
    assert executable is not None
    entries = []
    for name, (model, feeds) in jobs.items():
        request, answer = folder / f"{name}.request.json", folder / f"{name}.answer.json"
        request.write_text(json.dumps(_encoded(feeds)))
        entries.append({"model": str(model), "request": str(request), "answer": str(answer)})
    jobs_file = folder / "jobs.json"
    jobs_file.write_text(json.dumps(entries))
    call_node("browser.cjs", executable, jobs_file)
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
