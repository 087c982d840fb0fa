"""Memory of an explanation, measured in a process of its own.

Inside the process that evaluates, memory that earlier work left in the runtime's arenas hides what a method
takes. So a child loads the model, explains, and reports by how much its resident memory grew; nothing is estimated.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import OptionError, SessionError
from onnxplain.engine.evaluation.case import Case, Origin
from onnxplain.engine.explanation import Array

_MIB = 2.0**20
#: The kernel's accounts of a process; writing 5 to the first resets the peak.
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Footprint:
    """Growth of a process's resident memory, in MiB.

    Attributes:
        total: From before the model was loaded to the peak while explaining.
        loading: What model, rewritten graph and sessions hold before the first explanation.
        explaining: From there to the peak while explaining.
    """

    total: float
    loading: float
    explaining: float


def footprint(case: Case, batch: int = 1) -> Footprint:
    """What a case's method takes to explain some samples at once.

    Args:
        case: Made by a method.
        batch: How many samples, from the first.

    Raises:
        OptionError: An option of the method, or the model's, cannot be handed to another process.
        SessionError: The other process failed.
    """
    model, origin = case.scorer.model, case.origin
    assert origin is not None
    task = {
        "model": str(model.source.path) if model.source.path is not None else model.source.proto.SerializeToString(),
        "load": {"providers": model.providers, "threads": model.threads, "custom_ops": model.custom_ops},
        "origin": origin,
        "name": case.scorer.name,
        "x": case.x[:batch],
        "target": case.target[:batch],
        "seed": case.seed,
    }
    try:
        content = pickle.dumps(task)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise OptionError(
            f"the memory of '{origin.method}' is measured in another process, which its options cannot be "
            f"handed to ({error}); leave the metric out"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task").write_bytes(content)
        command = [sys.executable, "-m", __name__, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SessionError(f"the process that measures the memory of '{origin.method}' failed: {last}")
        return Footprint(**json.loads((Path(folder) / "result").read_text()))


def _child(folder: Path) -> None:
    """Explain in this process and write down how it grew."""
    from onnxplain.engine.api import compile as compile_explainer
    from onnxplain.engine.loading import load

    task: dict[str, Any] = pickle.loads((folder / "task").read_bytes())
    origin: Origin = task["origin"]
    x: Array = task["x"]
    empty = _resident()
    explainer = compile_explainer(
        load(task["model"], **task["load"]), method=origin.method, output=origin.output, head=origin.head,
        layout=origin.layout, **origin.options,
    )  # fmt: skip
    loaded = _resident()
    _reset_peak()
    explainer({task["name"]: x}, target=task["target"], seed=task["seed"])
    peak = _peak()
    parts = {"total": peak - empty, "loading": loaded - empty, "explaining": peak - loaded}
    (folder / "result").write_text(json.dumps({name: max(0.0, size) / _MIB for name, size in parts.items()}))


def _reset_peak() -> None:
    if _RESET.exists():
        _RESET.write_text("5")


def _status(field: str) -> float:
    lines = _STATUS.read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _resident() -> float:
    """Resident bytes; the peak so far where the system tells no more."""
    return _status("VmRSS") if _STATUS.exists() else _peak()


def _peak() -> float:
    if _STATUS.exists():
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # no such account on this system
        return float("nan")
    size = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return size if sys.platform == "darwin" else 1024.0 * size


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
