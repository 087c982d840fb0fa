"""Which onnxruntime there is: none, two, too old, damaged."""

from __future__ import annotations

import importlib
import sys
from email.message import Message
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from onnxplain.engine.errors import RuntimeMissingError
from onnxplain.engine.session import runtime


def pretend(monkeypatch: pytest.MonkeyPatch, *names: str | None) -> None:
    """Let these distributions be installed, and no runtime imported yet."""
    found = []
    for name in names:
        metadata = Message()
        if name is not None:
            metadata["Name"] = name
        found.append(SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(runtime, "distributions", lambda: found)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)


def module(version: str, **attributes: Any) -> ModuleType:
    result = ModuleType("onnxruntime")
    vars(result).update(__version__=version, **attributes)
    return result


def test_the_installed_runtime() -> None:
    assert runtime.import_runtime().__name__ == "onnxruntime"
    assert len(runtime.owners()) == 1
    assert {"onnx", "onnx-ir", "numpy", *runtime.owners()} <= set(runtime.versions())


def test_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch, "numpy", "ONNXRuntime_GPU", "onnxruntime-extensions", "onnxruntime-genai", None, "onnxruntime-gpu"
    )
    assert runtime.owners() == ["onnxruntime-gpu"]


def test_two_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(RuntimeMissingError, match="pip uninstall onnxruntime onnxruntime-gpu"):
        runtime.import_runtime()


def test_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "numpy")

    def missing(name: str) -> ModuleType:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(RuntimeMissingError, match=r"onnxplain\[cpu\].*onnxplain\[gpu\]"):
        runtime.import_runtime()


def test_an_empty_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: ModuleType(name))
    with pytest.raises(RuntimeMissingError, match="empty or damaged"):
        runtime.import_runtime()


@pytest.mark.parametrize("version", ["1.18.1", "1.19.1", "0.5", "1.4.0rc1"])
def test_too_old(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: module(version, InferenceSession=object))
    with pytest.raises(RuntimeMissingError, match="older than"):
        runtime.import_runtime()


@pytest.mark.parametrize("version", ["1.19.2", "1.31.1+cu128", "1.32.0.dev20260101", "1.32rc1", "2.0"])
def test_new_enough(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake = module(version, InferenceSession=object)
    monkeypatch.setattr(importlib, "import_module", lambda name: fake)
    assert runtime.import_runtime() is fake
