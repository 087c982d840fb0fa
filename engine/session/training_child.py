"""Run in a process of its own: one vector-Jacobian product by onnxruntime-training, with onnx and numpy beside it.

``python training_child.py FOLDER``: reads ``model.onnx``, ``job.json`` (``wanted``, ``loss``, ``feeds``: names) and
``feeds.npz`` (arrays ``a0``, ``a1``, ...) there; writes ``answer.npz``, or ``error.txt`` and exit code 3.
``python training_child.py``: says the version. Exit code 4: there is no training build.

It imports nothing of this package, because another runtime than the package's own is loaded here. The builder can
end the process on a graph that it does not expect, so whoever starts it reads the exit code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

#: Exit codes: an error that was caught and is told; no training build.
TOLD, UNFIT = 3, 4


def differentiate(folder: Path) -> None:
    """One job: build the gradient graph, run it, write what was asked for."""
    import onnxruntime
    from onnxruntime.capi._pybind_state import GradientGraphBuilder

    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    builder = GradientGraphBuilder((folder / "model.onnx").read_bytes(), {job["loss"]}, set(job["wanted"]), job["loss"])
    builder.build()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(builder.get_model(), options, providers=["CPUExecutionProvider"])
    made = {output.name for output in session.get_outputs()}
    lost = [name for name in job["wanted"] if f"{name}_grad" not in made]
    if lost:
        raise RuntimeError(f"its graph has no gradient of {', '.join(map(repr, lost))}")
    taken = {given.name for given in session.get_inputs()}
    with np.load(folder / "feeds.npz") as stored:
        feeds = {name: stored[f"a{i}"] for i, name in enumerate(job["feeds"]) if name in taken}
    results = session.run([f"{name}_grad" for name in job["wanted"]], feeds)
    answer: dict[str, Any] = {f"a{i}": np.asarray(array) for i, array in enumerate(results)}
    np.savez(folder / "answer.npz", **answer)


def probe() -> str:
    """The runtime's version.

    Raises:
        ImportError: It is no training build.
    """
    import onnxruntime
    from onnxruntime.capi import _pybind_state

    if not hasattr(_pybind_state, "GradientGraphBuilder"):
        raise ImportError(f"onnxruntime {onnxruntime.__version__} is no training build")
    return str(onnxruntime.__version__)


def main(arguments: list[str]) -> int:
    """Exit code of the process."""
    try:
        found = probe()
    except Exception as error:  # a damaged installation raises anything
        sys.stdout.write(f"{type(error).__name__}: {error}")
        return UNFIT
    if not arguments:
        sys.stdout.write(found)
        return 0
    try:
        differentiate(Path(arguments[0]))
    except Exception as error:  # whatever the runtime raises is told to who started this
        (Path(arguments[0]) / "error.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        return TOLD
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
