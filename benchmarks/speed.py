"""Side by side in one run: gradient and FullGrad against the model's own forward pass and against torch eager.

    python benchmarks/speed.py --models FOLDER [--rounds 15] [--batch 1]

Every figure is the median of per-round ratios: all candidates take turns within a round, in one process,
on one thread, so that what else the machine does hits all of them alike. The spread is the range between
the quartiles. Networks have random weights (benchmarks/networks.py), so the timing is the only result.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_lite0", "vit_s16")


def forward_session(path: Path) -> Callable[[np.ndarray[Any, Any]], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def rewritten(path: Path, method: str, **options: Any) -> tuple[Callable[[np.ndarray[Any, Any]], object], float, float]:
    """A bare run of the rewritten session; rewrite and session-creation seconds."""
    from onnxplain.engine.explainer import CompiledExplainer
    from onnxplain.engine.loading import load
    from onnxplain.engine.method import create
    from onnxplain.engine.session import session as module

    spent = [0.0]
    create_session = module._create

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        result = create_session(*args)
        spent[0] += time.perf_counter() - start
        return result

    start = time.perf_counter()
    module._create = timed
    try:
        explainer = CompiledExplainer(load(path, threads=1), create(method, options))
    finally:
        module._create = create_session
    total = time.perf_counter() - start
    program = explainer.program()
    name = explainer.source.inputs[0].name

    def run(x: np.ndarray[Any, Any]) -> object:
        return program.session.run({name: x, "target": np.full(len(x), 3, dtype=np.int64)})

    return run, total - spent[0], spent[0]


def torch_candidates(name: str) -> dict[str, Callable[[np.ndarray[Any, Any]], object]]:
    """Eager torch: forward, and gradient of the input with frozen weights."""
    try:
        import torch
    except ImportError:
        return {}
    sys.path.insert(0, str(Path(__file__).parent))
    from networks import build

    torch.set_num_threads(1)
    net = build(name).eval().requires_grad_(False)

    def forward(x: np.ndarray[Any, Any]) -> object:
        with torch.no_grad():
            return net(torch.from_numpy(x))

    def gradient(x: np.ndarray[Any, Any]) -> object:
        inputs = torch.from_numpy(x).requires_grad_(True)
        net(inputs)[:, 3].sum().backward()
        return inputs.grad

    return {"torch forward": forward, "torch gradient": gradient}


def measure(
    candidates: dict[str, Callable[[Any], object]], x: np.ndarray[Any, Any], rounds: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds per candidate and round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run(x)
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run(x)
            times[name].append(time.perf_counter() - start)
    return {name: np.array(t) for name, t in times.items()}


def ratio(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    low, middle, high = np.percentile(a / b, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def memory_growth(target: str | Path, method: str, batch: int) -> float:
    """MiB that two runs of a method add to a process of their own."""
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import speed; speed.grow({str(target)!r}, {method!r}, {batch})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(result.stdout.strip().splitlines()[-1])


def grow(target: str, method: str, batch: int) -> None:
    """Child process: print how far two runs push the resident size above what it was before, in MiB.

    ``target`` is a model file, or a network's name for ``method="torch gradient"``.
    """
    if method == "forward":
        run: Callable[[Any], object] = forward_session(Path(target))
    elif method == "torch gradient":
        run = torch_candidates(target)[method]
    else:
        run = rewritten(Path(target), method)[0]
    x = np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype(np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size (Linux)
    before = resident("VmRSS")
    run(x)
    run(x)
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """A size from the kernel's account of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def row(name: str, path: Path, batch: int, rounds: int) -> list[str]:
    gradient, rewrite, opening = rewritten(path, "gradient")
    fullgrad = rewritten(path, "fullgrad")[0]
    candidates: dict[str, Callable[[Any], object]] = {
        "forward": forward_session(path), "gradient": gradient, "fullgrad": fullgrad, **torch_candidates(name),
    }  # fmt: skip
    x = np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype(np.float32)
    t = measure(candidates, x, rounds)
    memory = [f"{memory_growth(path, m, batch):.0f}" for m in ("forward", "gradient", "fullgrad")]
    memory.append(f"{memory_growth(name, 'torch gradient', batch):.0f}" if "torch gradient" in t else "-")
    torch_ratio = ratio(t["gradient"], t["torch gradient"]) if "torch gradient" in t else "-"
    return [
        name,
        f"{1e3 * np.median(t['forward']):.1f}",
        ratio(t["gradient"], t["forward"]),
        ratio(t["fullgrad"], t["gradient"]),
        torch_ratio,
        " / ".join(memory),
        f"{rewrite:.2f}",
        f"{opening:.2f}",
    ]


HEADER = ["network", "forward ms", "gradient / forward", "FullGrad map / gradient", "gradient / torch eager",
          "memory growth MiB: forward / gradient / FullGrad / torch gradient", "rewrite s", "session s"]  # fmt: skip


def table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, required=True, help="folder of the exported networks (written if missing)"
    )
    parser.add_argument("--only", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    if any(not (arguments.models / f"{n}.onnx").exists() for n in arguments.only):
        sys.path.insert(0, str(Path(__file__).parent))
        from networks import export_all

        export_all(arguments.models)
    rows = []
    for name in arguments.only:
        rows.append(row(name, arguments.models / f"{name}.onnx", arguments.batch, arguments.rounds))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(f"{platform.machine()}, one thread, batch {arguments.batch}, {arguments.rounds} rounds, median (quartiles)\n")
    print(table(rows))


if __name__ == "__main__":
    main()
