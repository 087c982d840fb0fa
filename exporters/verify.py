"""Compares an ONNX file with the framework it came from; knows arrays and files, and no framework.

The file is run as it will be used, on onnxruntime's CPU provider; where there is no onnxruntime, or it
has no kernel for the model's types, `onnx.reference` runs it and the report says so.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import ExportError

Array = npt.NDArray[Any]

# Largest difference by the output's type, relative to the largest magnitude in the output. Fusions and
# the order of sums cost 1e-6 in float32 on deep networks; half precision rounds to 1/1024, bfloat16 to
# 1/128, in every layer. float64 cannot agree better than to 1e-8: ONNX holds attributes such as the
# normalisations' epsilon in float32, and lets LayerNormalization find its mean in float32.
TOLERANCES: dict[str, float] = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}


@dataclass(frozen=True)
class Case:
    """One comparison: what goes in, by graph input, and what the framework answered, by graph output."""

    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Agreement:
    """The outcome of :func:`check_agreement`.

    Attributes:
        max_difference: By output, relative to its largest magnitude, the worst over all cases.
        tolerance: Bound by output.
        runtime: What ran the file.
        notes: Why it was not onnxruntime, where it was not.
    """

    max_difference: dict[str, float]
    tolerance: dict[str, float]
    runtime: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Runner:
    """A file that is ready to run."""

    runtime: str
    run: Callable[[Mapping[str, Array]], list[Array]]
    notes: tuple[str, ...] = ()


def check_agreement(path: Path, cases: Sequence[Case], tolerance: float | None = None) -> Agreement:
    """Run the file on every case and compare each output.

    Args:
        path: The ONNX file.
        cases: Inputs and the framework's outputs; all with the same outputs.
        tolerance: Bound on the relative difference; None takes :data:`TOLERANCES` by the output's type.
            Integer and boolean outputs have to be equal.

    Returns:
        Differences and what they were measured with.

    Raises:
        ExportError: The file does not run, or an output differs in shape or by more than the bound.
    """
    runner = open_runner(path)
    worst: dict[str, float] = {}
    bounds: dict[str, float] = {}
    for case in cases:
        answers = _run(runner, case)
        for (name, expected), actual in zip(case.expected.items(), answers, strict=True):
            bounds[name] = _bound(expected, tolerance)
            shape = {key: value.shape for key, value in case.inputs.items()}
            difference = relative_difference(name, expected, actual, shape)
            worst[name] = max(worst.get(name, 0.0), difference)
            if not difference <= bounds[name]:
                raise ExportError(
                    f"output '{name}' of the exported file differs from the framework's by {difference:.2e} of its "
                    f"largest value (bound {bounds[name]:.0e}) at inputs of shape {shape}, run on {runner.runtime}; "
                    "look for random numbers, data-dependent branches or Python values computed from the input"
                )
    return Agreement(worst, bounds, runner.runtime, runner.notes)


def relative_difference(name: str, expected: Array, actual: Array, shapes: object = "") -> float:
    """Largest difference relative to the largest finite magnitude of ``expected`` (absolute where that is 0).

    Equal infinities and NaN in the same places count as equal; NaN or infinity on one side only is an
    infinite difference.

    Raises:
        ExportError: Shape or type differs, or the framework's output holds no finite number to compare.
    """
    if expected.shape != actual.shape:
        raise ExportError(
            f"output '{name}' has shape {actual.shape} in the exported file and {expected.shape} in the framework at "
            f"inputs of shape {shapes}; the export fixed a size that depends on the input: "
            "set dynamic_batch=False if one size is enough"
        )
    if expected.dtype != actual.dtype:
        raise ExportError(
            f"output '{name}' is {actual.dtype} in the exported file and {expected.dtype} in the framework; "
            "cast the output inside the model"
        )
    if not _is_float(expected.dtype):
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    wanted, got = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(wanted)
    if wanted.size and not finite.any():
        raise ExportError(f"output '{name}' of the framework is NaN or infinite throughout; give another sample")
    same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.abs(wanted - got))
    gaps[np.isnan(gaps)] = np.inf
    scale = float(np.abs(wanted[finite]).max(initial=0.0)) or 1.0
    return float(gaps.max(initial=0.0)) / scale


def vary(sample: Sequence[Array], batched: Sequence[bool], size: int | None, seed: int = 0) -> list[Array]:
    """Another sample like the given one, with ``size`` rows where an array is batched.

    Rows are repeated or dropped. Floats get noise of a tenth of their spread and stay within the range of
    the sample, so that a model that expects 0 to 1 still gets it; integers and booleans are shuffled, so
    that ids stay valid. Arrays without a batch axis keep their values.

    Args:
        sample: The arrays, batch first.
        batched: Which of them have a batch axis.
        size: Rows of the new sample; None keeps each array's own number.
        seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    result = []
    for array, rows in zip(sample, batched, strict=True):
        if not rows:
            result.append(array)
            continue
        taken = array[np.arange(array.shape[0] if size is None else size) % array.shape[0]]
        result.append(_noisy(taken, rng) if _is_float(array.dtype) else rng.permuted(taken))
    return result


def _noisy(array: Array, rng: np.random.Generator) -> Array:
    wide = array.astype(np.float64)
    low, high, spread = wide.min(initial=np.inf), wide.max(initial=-np.inf), wide.std() if wide.size else 0.0
    noisy = wide + rng.standard_normal(wide.shape) * 0.1 * (spread or 1.0)
    return (np.clip(noisy, low, high) if spread else noisy).astype(array.dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    """True for numpy's floats and for bfloat16 and its kin, which numpy knows as extension types."""
    return np.issubdtype(dtype, np.floating) or "float" in dtype.name


def _bound(expected: Array, tolerance: float | None) -> float:
    if not _is_float(expected.dtype):
        return 0.0
    return TOLERANCES.get(expected.dtype.name, TOLERANCES["float32"]) if tolerance is None else tolerance


def _run(runner: Runner, case: Case) -> list[Array]:
    try:
        answers = runner.run(case.inputs)
    except Exception as error:  # runtimes raise classes of their own without a common base
        shapes = {name: array.shape for name, array in case.inputs.items()}
        raise ExportError(
            f"the exported file does not run on {runner.runtime} at inputs of shape {shapes}: {_first_line(error)}; "
            "set dynamic_batch=False if the model fixes its batch size, else try another opset"
        ) from error
    if len(answers) != len(case.expected):
        raise ExportError(
            f"the exported file has {len(answers)} outputs and the framework gives {len(case.expected)}; "
            "return a tensor, a tuple or a dict of tensors from the model"
        )
    return answers


def open_runner(path: Path) -> Runner:
    """Open the file in onnxruntime, else in `onnx.reference`.

    Raises:
        ExportError: The file is no valid model for the runtime that there is.
    """
    _check_valid(path, full=False)
    if importlib.util.find_spec("onnxruntime") is None:
        return _reference(path, "no onnxruntime is installed")
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # whatever is fatal comes as an exception
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except NoKernel as error:
        return _reference(path, f"onnxruntime has no CPU kernel for it ({_first_line(error, path)})")
    except Exception as error:  # onnxruntime's exceptions derive from Exception directly
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} refuses the exported file: {_first_line(error, path)}; "
            "try fold=False or another opset (18 is served most widely, bfloat16 convolution needs 22)"
        ) from error
    names = [output.name for output in session.get_outputs()]
    wide = any("bfloat16" in tensor.type for tensor in [*session.get_inputs(), *session.get_outputs()])
    if wide:  # onnxruntime's Python interface takes and gives no bfloat16 arrays
        return _reference(path, "onnxruntime takes no bfloat16 arrays from Python")

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(value) for value in session.run(names, dict(inputs))]

    return Runner(f"onnxruntime {onnxruntime.__version__}", run)


def _reference(path: Path, reason: str) -> Runner:
    import onnx
    from onnx.reference import ReferenceEvaluator

    _check_valid(path, full=True)  # onnxruntime would have checked the types
    try:
        evaluator = ReferenceEvaluator(str(path))
    except Exception as error:  # the evaluator raises whatever its operators raise
        raise ExportError(
            f"{reason}, and onnx.reference cannot run it either: {_first_line(error)}; export the model in float32"
        ) from error

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return [np.asarray(value) for value in evaluator.run(None, dict(inputs))]

    return Runner(f"onnx.reference {onnx.__version__}", run, (f"compared on onnx.reference: {reason}",))


def _check_valid(path: Path, *, full: bool) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=full)
    except Exception as error:  # the checker and shape inference raise different classes
        raise ExportError(
            f"the exported file is not valid ONNX: {_first_line(error, path)}; "
            "try a newer opset, which has more operators and types (bfloat16 convolution: 22)"
        ) from error


def _first_line(error: BaseException, path: Path | None = None) -> str:
    """The message's first line; ``path`` is a temporary name that would only puzzle the reader."""
    text = str(error) if path is None else str(error).replace(str(path), path.name)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
