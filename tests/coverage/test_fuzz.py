"""Ten thousand models that were damaged or mean nothing: each works, or is refused in one sentence, and soon.

What counts is that nothing else happens: no other exception, no crash of the process, no hang, no traceback
from the command line. Mutants are drawn from seeds, so a failure can be repeated: its message names the draw.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import call
from mutants import damaged, deranged, originals

import onnxplain as ox
from onnxplain.engine.errors import OnnxplainError

pytestmark = pytest.mark.slow

MODELS = originals()
#: Per model and kind of mutation: 8 x 2 x 650 = 10,400 mutants.
COUNT = 650
#: No mutant may take longer, in seconds of the processor; a kilobyte of model normally takes milliseconds.
PATIENCE = 10.0
#: Seconds of the clock after which one hangs, on a machine that is busy with other things as well.
HANGS = 120.0

KINDS = ("damaged", "deranged")
each = pytest.mark.parametrize(("name", "kind"), [(n, k) for n in MODELS for k in KINDS])


def mutants(name: str, kind: str, count: int, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    rng = np.random.default_rng([seed, list(MODELS).index(name), KINDS.index(kind)])
    data = MODELS[name].SerializeToString()
    for i in range(count):
        yield i, damaged(data, rng) if kind == "damaged" else deranged(MODELS[name], rng)


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Fail instead of hanging, where the platform can interrupt; where it cannot, once it is over."""

    def give_up(*_: Any) -> None:
        raise AssertionError(f"{what} hangs")

    start = time.process_time()
    alarm = hasattr(signal, "setitimer")
    if alarm:
        before = signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert time.process_time() - start < PATIENCE, f"{what} took too long"


@each
def test_reading_and_rewriting(name: str, kind: str) -> None:
    seen: Counter[str] = Counter()
    for i, data in mutants(name, kind, COUNT):
        with patience(f"mutant {i} of {name}, {kind}"):
            try:
                report = ox.check(data)
                seen["served" if report.ok else "reported"] += 1
            except OnnxplainError as error:
                seen[type(error).__name__] += 1
            except Exception as error:
                raise AssertionError(f"mutant {i} of {name}, {kind}: {type(error).__name__}: {error}") from error
    assert sum(seen.values()) == COUNT
    assert seen["served"] + seen["reported"] >= COUNT // 100, seen  # not everything is refused at the door,
    assert seen["ModelFileError"] >= COUNT // 20, seen  # and not everything is harmless


@each
def test_sessions_with_full_gradients(name: str, kind: str) -> None:
    """The same up to a session of the rewritten graph with its bias terms."""
    for i, data in mutants(name, kind, 40, seed=1):
        with patience(f"mutant {i} of {name}, {kind}"):
            try:
                ox.compile(data, method="fullgrad", threads=1)
            except OnnxplainError:
                continue
            except Exception as error:
                raise AssertionError(f"mutant {i} of {name}, {kind}: {type(error).__name__}: {error}") from error


@each
def test_the_command_line_checks(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mutant.onnx"
    for i, data in mutants(name, kind, 20, seed=2):
        path.write_bytes(data)
        with patience(f"mutant {i} of {name}, {kind}"):
            result = call("check", path)
        assert result.exit_code in (0, 1, 2), f"mutant {i}"
        assert "Traceback" not in result.output
        if result.exit_code == 2:
            assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, (
                f"mutant {i}: {result.stderr}"
            )


CHILD = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # a mutant may ask for terabytes
from onnxplain.cli import app
from typer.testing import CliRunner
folder, codes = Path(sys.argv[1]), []
for path in sorted(folder.glob("*.onnx")):
    result = CliRunner().invoke(app, ["explain", str(path), str(path.with_suffix(".npz")), "--threads", "1"])
    bad = result.exit_code not in (0, 2) or "Traceback" in result.output or (
        result.exception is not None and not isinstance(result.exception, SystemExit))
    if bad:
        print("BAD", path.name, result.exit_code, repr(result.exception), result.output[-300:])
    codes.append(result.exit_code)
print("done", len(codes), codes.count(0), codes.count(2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the memory of a process, which Windows does not do")
def test_the_command_line_explains(tmp_path: Path) -> None:
    """In a process of its own with limited memory, because a mutated size may ask for any amount of it."""
    count = 0
    for name in MODELS:
        feeds = {v.name: inputs(v) for v in MODELS[name].graph.input}
        for kind in KINDS:
            for i, data in mutants(name, kind, 12, seed=3):
                (tmp_path / f"{name}-{kind}-{i:02}.onnx").write_bytes(data)
                np.savez(tmp_path / f"{name}-{kind}-{i:02}.npz", **feeds)
                count += 1
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    last = run.stdout.splitlines()[-1].split()
    assert last[:2] == ["done", str(count)], run.stdout
    assert "BAD" not in run.stdout, run.stdout
    assert int(last[2]) > 5  # some are harmless
    assert int(last[3]) > 50  # most are not


def inputs(value: onnx.ValueInfoProto) -> Any:
    """Something to feed."""
    tensor = value.type.tensor_type
    sizes = [d.dim_value or 2 for d in tensor.shape.dim]
    return np.ones(sizes, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def test_the_same_seed_draws_the_same_mutants() -> None:
    for kind in KINDS:
        first, second = ([data for _, data in mutants("convolution", kind, 20)] for _ in range(2))
        assert first == second
        assert len(set(first)) > 10


def test_a_sequence_that_never_ends() -> None:
    """Found by this fuzzing: a pass that went on for ever over an empty sequence in the place of a condition."""
    model = onnx.ModelProto()
    model.CopyFrom(MODELS["control"])
    constant = next(n for n in model.graph.node if n.output[0] == "t")
    constant.op_type = "SequenceConstruct"
    with patience("an empty sequence as a condition"), warnings.catch_warnings():
        try:
            ox.check(model)
        except OnnxplainError as error:
            assert str(error)  # noqa: PT017 - either answer will do, as long as there is one
