"""Names of execution providers: short, full, with options, unknown, mixed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxplain.engine.errors import OptionError
from onnxplain.engine.session import providers as module
from onnxplain.engine.session.providers import REFERENCE, SHORT, check_available, missing_libraries, refusal, resolve

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [CPU]),
        ("cpu", [CPU]),
        ("CUDA", [CUDA]),
        ("cuda, cpu", [CUDA, CPU]),
        ([CUDA, "cpu"], [CUDA, CPU]),
        ([("cuda", {"device_id": 1}), "cpu"], [(CUDA, {"device_id": 1}), CPU]),
        ("MyOwnExecutionProvider", ["MyOwnExecutionProvider"]),
        ("cuda:device_id=1, cpu", [(CUDA, {"device_id": "1"}), CPU]),
        (
            "tensorrt:trt_fp16_enable=1:trt_engine_cache_path=/tmp/a=b",
            [("TensorrtExecutionProvider", {"trt_fp16_enable": "1", "trt_engine_cache_path": "/tmp/a=b"})],
        ),
        ("reference", [REFERENCE]),
    ],
)
def test_names(given: Any, expected: list[Any]) -> None:
    assert resolve(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        [],
        "reference,cpu",
        "cuda:1",
        "cuda:=1",
        "cuda:device_id=1:",
        ["cuda", "reference"],
        [3],
        [("cuda",)],
        [("cuda", 1)],
        [None],
    ],
)
def test_what_is_no_list_of_providers(given: Any) -> None:
    with pytest.raises(OptionError):
        resolve(given)


def test_short_names_are_those_of_the_runtime() -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs a runtime")
    known = set(runtime.get_all_providers())
    assert {v for k, v in SHORT.items() if k in ("cpu", "cuda", "tensorrt", "openvino", "coreml", "directml")} <= known


def test_unknown_providers_are_refused_with_what_there_is() -> None:
    check_available([CPU, (CUDA, {})], [CUDA, CPU])
    with pytest.raises(OptionError, match=r"provider 'cuda' is not part .* which has: cpu, Azure"):
        check_available([CUDA], [CPU, "AzureExecutionProvider"])
    with pytest.raises(OptionError, match="provider 'cdua'"):
        check_available(["cdua"], [CPU])


def installed(folder: Path, *names: str) -> Any:
    """A runtime with libraries of providers beside it, which talks when it looks for CUDA."""
    (folder / "capi").mkdir()
    for name in names:
        (folder / "capi" / f"libonnxruntime_providers_{name}.so").write_bytes(b"")

    def preload() -> None:
        sys.stdout.write("Failed to load libcudnn")

    return SimpleNamespace(__file__=str(folder / "__init__.py"), preload_dlls=preload)


def test_a_missing_library_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load(path: str) -> None:
        asked.append(Path(path).name)
        raise OSError("libcublasLt.so.13: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(module, "ctypes", SimpleNamespace(CDLL=load))
    runtime = installed(tmp_path, "cuda")
    found = missing_libraries(runtime, [(CUDA, {"device_id": 1}), "TensorrtExecutionProvider", CPU])
    assert found == {CUDA: "libcublasLt.so.13 is missing"}
    assert asked == ["libonnxruntime_providers_cuda.so"], "TensorRT's is not installed, so nothing is known of it"
    sentence = refusal(CUDA, found[CUDA])
    assert sentence.count("\n") == 0
    assert "onnxplain[gpu-cuda]" in sentence
    assert capfd.readouterr() == ("", "")


def test_a_library_that_needs_the_runtimes_own_symbols_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: str) -> None:
        raise OSError("libonnxruntime_providers_cuda.so: undefined symbol: Provider_GetHost")

    monkeypatch.setattr(module, "ctypes", SimpleNamespace(CDLL=load))
    assert missing_libraries(installed(tmp_path, "cuda"), [CUDA]) == {}
    assert missing_libraries(SimpleNamespace(), [CPU]) == {}
