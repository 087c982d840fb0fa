"""Which execution providers are asked for, and what a session really got."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import OptionError

#: Short names for the command line; full names are accepted as well.
SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}

#: Runs the same graph on ``onnx.reference``: slow, exact, and in float64 for every operator.
REFERENCE = "reference"

#: What ``providers=`` accepts: names, or (name, options) pairs.
ProviderSpec = str | tuple[str, dict[str, Any]]


def resolve(providers: str | Sequence[ProviderSpec] | None) -> list[ProviderSpec]:
    """Full provider names, in order of preference; the CPU by default.

    Args:
        providers: ``"cuda"``, ``"cuda,cpu"``, ``["CUDAExecutionProvider"]``, ``[("cuda", {"device_id": 1})]``, and
            the same in one word: ``"cuda:device_id=1,cpu"``.

    Raises:
        OptionError: ``reference`` mixed with others, an empty list, or options that are no pairs.
    """
    if providers is None:
        return [SHORT["cpu"]]
    given = [p.strip() for p in providers.split(",")] if isinstance(providers, str) else list(providers)
    full: list[ProviderSpec] = []
    for spec in given:
        if isinstance(spec, str):
            full.append(_in_one_word(spec))
        elif not (
            isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], str) and isinstance(spec[1], dict)
        ):
            raise OptionError(f"{spec!r} is no provider; give names, or pairs of a name and a dict of options")
        else:
            full.append((SHORT.get(spec[0].lower(), spec[0]), spec[1]))
    if not full:
        raise OptionError("the list of providers is empty; name one, for example 'cpu'")
    if REFERENCE in full and len(full) > 1:
        raise OptionError("'reference' is no onnxruntime provider and cannot be mixed with others; give it alone")
    return full


def _in_one_word(text: str) -> ProviderSpec:
    """``tensorrt:trt_fp16_enable=1`` as a name and its options."""
    name, *pairs = text.split(":")
    full = SHORT.get(name.lower(), name)
    if not pairs:
        return full
    options = dict(pair.partition("=")[::2] for pair in pairs)
    if not all(options) or not all("=" in pair for pair in pairs):
        raise OptionError(f"'{text}' is not understood; write a provider's options as NAME:KEY=VALUE:KEY=VALUE")
    return full, options


def check_available(providers: Sequence[ProviderSpec], available: Sequence[str]) -> None:
    """Refuse names that the installed runtime was not built with.

    Raises:
        OptionError: Unknown provider.
    """
    for spec in providers:
        name = spec if isinstance(spec, str) else spec[0]
        if name not in available:
            short = {full: s for s, full in SHORT.items()}
            offered = ", ".join(short.get(a, a) for a in available)
            raise OptionError(
                f"provider '{short.get(name, name)}' is not part of the installed onnxruntime, which has: {offered}; "
                "install the runtime package that brings it"
            )


def name_of(spec: ProviderSpec) -> str:
    """The provider's name, without its options."""
    return spec if isinstance(spec, str) else spec[0]


#: What the runtime calls the memory of a provider, where that is not the processor's.
_MEMORY = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}


def device_of(loaded: Sequence[str], asked: Sequence[ProviderSpec]) -> tuple[str, int]:
    """Kind and number of the device where arrays between two runs are best kept.

    Args:
        loaded: Names of the providers that a session has, in order.
        asked: What it was asked for: its options tell which device.
    """
    first = loaded[0] if loaded else ""
    if first not in _MEMORY:
        return "cpu", 0
    options = next((spec[1] for spec in asked if isinstance(spec, tuple) and spec[0] == first), {})
    return _MEMORY[first], int(options.get("device_id", 0))


#: Providers that stand in a library of their own beside the runtime, and what its name ends in.
_LIBRARIES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "tensorrt",
    "ROCMExecutionProvider": "rocm",
    "MIGraphXExecutionProvider": "migraphx",
}


def missing_libraries(runtime: Any, providers: Sequence[ProviderSpec]) -> dict[str, str]:
    """Providers that cannot load, and why, asked of the system's loader before the runtime is.

    The runtime itself prints pages of log when a library is missing, and goes on with the CPU. CUDA libraries
    that were installed as Python packages (the extra ``gpu-cuda``) are loaded first.
    """
    wanted = [n for n in map(name_of, providers) if n in _LIBRARIES]
    if not wanted:
        return {}
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            preload()
    folder = Path(getattr(runtime, "__file__", "") or "").parent / "capi"
    found = {n: _missing(folder / f"libonnxruntime_providers_{_LIBRARIES[n]}.so") for n in wanted}
    return {n: why for n, why in found.items() if why}


def _missing(library: Path) -> str:
    """What a provider's library needs and the system does not have; empty where nothing is known to be missing."""
    if not library.is_file():
        return ""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # Other complaints are of symbols that the runtime itself brings.
        lacking = re.match(r"(\S+): cannot open shared object file", str(error))
        return f"{lacking[1]} is missing" if lacking else ""
    return ""


def refusal(name: str, why: str) -> str:
    """The sentence for a provider that was asked for and is not there."""
    remedy = {
        "CUDAExecutionProvider": "install the CUDA libraries (pip install 'onnxplain[gpu-cuda]') and NVIDIA's driver",
        "TensorrtExecutionProvider": "install TensorRT (pip install tensorrt) and the CUDA libraries, or use 'cuda'",
    }.get(name, "install what it needs")
    return (
        f"provider {name} was asked for but did not load: {why}; {remedy}, or choose another provider "
        "('onnxplain doctor' tells what loads)"
    )
