"""Gradients by onnxruntime-training, in a child process: an opinion that shares no rule with the engine.

Never the default: the last release is 1.19.2, it serves fewer operators, and its builder can end the process that it
runs in. What it gets wrong is refused beforehand by :mod:`onnxplain.engine.session.training_graph`. It is either
installed in this environment, or lies in a folder of its own beside another runtime.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import BlockedGradientError, InputError, RuntimeMissingError, SessionError
from onnxplain.engine.graph.model import to_proto
from onnxplain.engine.session import runtime
from onnxplain.engine.session.training_child import TOLD, UNFIT
from onnxplain.engine.session.training_forms import STEM
from onnxplain.engine.session.training_graph import TrainingGraph, training_graph

#: Environment variable that names the folder.
VARIABLE = "ONNXPLAIN_ORT_TRAINING"

#: How to get it beside another runtime.
HOW = f"pip install --no-deps --target FOLDER onnxruntime-training-cpu==1.19.2, and set {VARIABLE}=FOLDER"

#: Seconds after which a child is given up.
PATIENCE = 600

#: Largest message that can be handed over.
_LIMIT = (1 << 31) - (1 << 20)

Arrays = dict[str, np.ndarray[Any, Any]]


def place() -> str | None:
    """The folder, ``""`` for this environment, or None: it is nowhere."""
    folder = os.environ.get(VARIABLE)
    if folder:
        return str(Path(folder).resolve())
    return "" if any("training" in name for name in runtime.owners()) else None


def available() -> tuple[bool, str]:
    """Whether it can be used, and its version and place, or else what is wrong and how to get it."""
    where = place()
    missing = _missing(where)
    if where is None or missing is not None:
        return False, str(missing)
    done = _child([], where)
    if done.returncode != 0:
        return False, _unfit(where, done)
    return True, f"{done.stdout.strip()} {_there(where)}"


def _missing(where: str | None) -> str | None:
    """What a look at the place says against it, without starting anything."""
    if where is None:
        return f"not installed, optional: {HOW}"
    if where and not Path(where, "onnxruntime").is_dir():
        return f"{VARIABLE} names {where}, which has no onnxruntime: {HOW}"
    return None


def _unfit(where: str, done: subprocess.CompletedProcess[str]) -> str:
    said = " ".join(done.stdout.split())[:300] or f"exit code {done.returncode}"
    return f"what lies {_there(where)} does not load ({said}): {HOW}"


def _there(where: str) -> str:
    return f"in {where}" if where else "in this environment"


def training_gradients(
    canonical: ir.Model, feeds: Mapping[str, np.ndarray[Any, Any]], cotangents: Mapping[str, Any], wanted: Sequence[str]
) -> tuple[Arrays, list[str]]:
    """Vector-Jacobian products by onnxruntime-training.

    Args:
        canonical: The canonical model.
        feeds: Array per model input.
        cotangents: Array per seeded float tensor, in its shape.
        wanted: Names of float inputs, initializers or inner tensors.

    Returns:
        Array per wanted name (zeros where nothing leads to a seeded tensor), and where part of the gradient ends.

    Raises:
        RuntimeMissingError: It is not installed.
        UnsupportedNodeError: It would fail on a node, or get it wrong.
        BlockedGradientError: Nothing that is seeded depends on any of them by floats.
        InputError: A shape does not fit.
        SessionError: It failed.
    """
    missing = _missing(place())
    if missing is not None:
        raise RuntimeMissingError(f"backend='ort-training' cannot run; {missing}")
    model = to_proto(canonical)
    if model.ByteSize() > _LIMIT:
        raise InputError("the model is larger than the 2 GB that onnxruntime-training takes; leave backend= out")
    seeds = {name: np.asarray(array).astype(np.float32, casting="same_kind") for name, array in cotangents.items()}
    made = training_graph(model, feeds, seeds, wanted)
    if not made.reached:
        raise BlockedGradientError(
            f"no gradient reaches {', '.join(wanted)}: no seeded tensor depends on it by floats; name others in wrt="
        )
    arrays = _answer(made, {**feeds, **{made.seeds[n]: a for n, a in seeds.items() if n in made.seeds}})
    found = {n: arrays[n] if n in arrays else np.zeros(made.shapes[n], np.float32) for n in wanted}
    for name, array in found.items():
        if array.shape != made.shapes[name]:
            raise SessionError(
                f"onnxruntime-training gave the gradient of '{name}' in shape {array.shape}, and the tensor has "
                f"{made.shapes[name]}; leave backend= out"
            )
    return found, made.blocked


def _answer(made: TrainingGraph, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    with tempfile.TemporaryDirectory(prefix="onnxplain-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(made.model.SerializeToString())
        job = {"wanted": made.reached, "loss": made.loss, "feeds": list(feeds)}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        stored: dict[str, Any] = {f"a{i}": np.asarray(array) for i, array in enumerate(feeds.values())}
        np.savez(folder / "feeds.npz", **stored)
        where = place() or ""
        done = _child([name], where)
        if done.returncode == UNFIT:
            raise RuntimeMissingError(f"backend='ort-training' cannot run; {_unfit(where, done)}")
        if done.returncode == TOLD:
            raise SessionError(f"onnxruntime-training failed: {_told(folder)}; leave backend= out")
        if done.returncode != 0:
            raise SessionError(
                f"onnxruntime-training ended its process (exit code {done.returncode}); leave backend= out"
            )
        with np.load(folder / "answer.npz") as answer:
            return {wanted: answer[f"a{i}"] for i, wanted in enumerate(made.reached)}


def _told(folder: Path) -> str:
    text = (folder / "error.txt").read_text(encoding="utf-8").replace(STEM, "added").strip()
    return " ".join(text.split())[:300]


def _child(arguments: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    """Run the script; ``-P``: the script's own folder holds modules of other names' likeness."""
    before = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(p for p in (folder, before) if p)
    command = [sys.executable, "-P", str(Path(__file__).with_name("training_child.py")), *arguments]
    try:
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SessionError(f"onnxruntime-training took longer than {PATIENCE} s; leave backend= out") from None
    except OSError as error:
        raise SessionError(f"no process for onnxruntime-training could be started ({error})") from None
