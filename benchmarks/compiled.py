"""What a compiled file adds to a deployment: its size beside the model, and its run against the gradient session.

    python benchmarks/compiled.py --models FOLDER [--rounds 15]

FullGrad as one file, weights shared with the model: for any runtime, with onnxruntime's own fast forms
(``profile="cpu"``), and with the map alone (``results=["saliency"]``). Turns are taken as in benchmarks/speed.py:
within a round, in one process, on one thread; every figure is the median of the per-round ratios, quartiles behind it.
What is measured is the thread's processor time, so that it hardly matters what else the machine does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from speed import NETWORKS, forward_session, ratio, rewritten

import onnxplain as ox

HEADER = ("network", "model MB", "file adds kB", "gradient session ms", "file / gradient session: any runtime",
          'file / gradient session: profile "cpu"', "map alone / gradient session", "file / own forward")  # fmt: skip


def file_session(path: Path) -> Callable[[np.ndarray[Any, Any]], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # as the gradient session has it
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    results = [o.name for o in session.get_outputs() if o.name in ("attribution", "saliency", "residual")]
    return lambda x: session.run(results, {name: x, "target": np.array([3])})


def measure(
    candidates: dict[str, Callable[[Any], object]], x: np.ndarray[Any, Any], rounds: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Processor seconds per candidate and round; sessions of one thread run in the calling one."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run(x)
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.thread_time()
            run(x)
            times[name].append(time.thread_time() - start)
    return {name: np.array(t) for name, t in times.items()}


def row(name: str, path: Path, rounds: int) -> list[str]:
    gradient = rewritten(path, "gradient")[0]
    explainer = ox.compile(path, method="fullgrad", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        # Shared weights are references into the model's own file, which has to lie beside.
        model = Path(folder) / path.name
        model.write_bytes(path.read_bytes())
        beside = ox.compile(model, method="fullgrad", threads=1)
        size = beside.save(Path(folder) / "shared.onnx", weights="shared").stat().st_size
        candidates = {
            "gradient": gradient,
            "forward": forward_session(path),
            "any": file_session(Path(folder) / "shared.onnx"),
            "cpu": file_session(explainer.save(Path(folder) / "cpu.onnx", profile="cpu")),
            "map": file_session(explainer.save(Path(folder) / "map.onnx", results=["saliency"])),
        }
        x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
        t = measure(candidates, x, rounds)
    return [
        name, f"{path.stat().st_size / 1e6:.1f}", f"{size / 1e3:.0f}", f"{1e3 * np.median(t['gradient']):.1f}",
        ratio(t["any"], t["gradient"]), ratio(t["cpu"], t["gradient"]), ratio(t["map"], t["gradient"]),
        ratio(t["any"], t["forward"]),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of the exported networks")
    parser.add_argument("--only", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if any(not (arguments.models / f"{n}.onnx").exists() for n in arguments.only):
        from networks import export_all

        export_all(arguments.models)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name in arguments.only:
        print("| " + " | ".join(row(name, arguments.models / f"{name}.onnx", arguments.rounds)) + " |", flush=True)


if __name__ == "__main__":
    main()
