"""`onnxplain doctor`: what loads is told from what is listed."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from command_line import call

from onnxplain.cli import doctor
from onnxplain.engine.errors import RuntimeMissingError
from onnxplain.engine.session import runtime

ROOT = Path(__file__).resolve().parents[2]


def test_a_sound_installation() -> None:
    result = call("doctor")
    assert result.exit_code == 0, result.stdout
    assert "ok: models can be explained" in result.stdout
    assert version("onnxruntime") in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_json() -> None:
    found = json.loads(call("doctor", "--json").stdout)
    assert found["ok"]
    assert found["runtime_owners"] == runtime.owners()
    packages = {package["name"]: package for package in found["packages"]}
    assert packages["onnx"]["installed"] == version("onnx")
    assert packages["onnx"]["required"].startswith(">=")
    providers = {provider["name"]: provider for provider in found["providers"]}
    assert set(providers) == set(ort.get_available_providers())
    assert providers["CPUExecutionProvider"]["session_has"] == ["CPUExecutionProvider"]


def test_two_runtimes_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "owners", lambda: ["onnxruntime", "onnxruntime-gpu"])
    result = call("doctor")
    assert result.exit_code == 1
    assert "two packages own the onnxruntime folder" in " ".join(result.stdout.split())
    assert "ok:" not in result.stdout


def test_no_runtime_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise RuntimeMissingError("onnxruntime cannot be imported; install one")

    monkeypatch.setattr(runtime, "import_runtime", missing)
    result = call("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"] == ["onnxruntime cannot be imported; install one"]


def test_an_old_and_a_missing_package_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_requirements", lambda *, extras=False: {"onnx": "99.0", "no-such-package": ""})
    found = doctor.diagnose()
    assert any("onnx " in problem and "older than 99.0" in problem for problem in found.problems)
    assert any("no-such-package is not installed" in problem for problem in found.problems)


@pytest.mark.parametrize("line", doctor.OPTIONAL)
def test_what_exports_need_is_listed_with_the_way_to_get_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = line.split("|")
    use, source, newest = doctor.OPTIONAL[line]
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    (found,) = (p for p in doctor.diagnose().packages if p.name in names)
    assert (found.name, found.installed, found.remark) == (names[0], "", f"{use}: pip install '{source}'")
    monkeypatch.setattr(doctor, "_version", lambda name: "999.0" if name == names[-1] else "")
    (found,) = (p for p in doctor.diagnose().packages if p.name in names)
    assert (found.name, found.installed) == (names[-1], "999.0")
    assert found.remark == (f"{use}; newer than the tested {newest}" if newest else use)


def test_the_packages_of_every_export_extra_are_listed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    listed = {n: source for names, (_, source, _) in doctor.OPTIONAL.items() for n in names.split("|")}
    for extra in {source.split("[")[1].rstrip("]") for source in listed.values() if "[" in source}:
        for text in extras[extra]:
            name = re.match(r"[\w-]+", text)
            assert name and listed.get(name[0], f"onnxplain[{extra}]") == f"onnxplain[{extra}]"
            assert name[0] in listed or name[0] == "onnxplain", f"{name[0]} of [{extra}] has no line in OPTIONAL"


def test_an_optional_package_that_is_too_old_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "0.1")
    monkeypatch.setattr(doctor, "_requirements", lambda *, extras=False: {"torch": "2.9"} if extras else {})
    found = next(p for p in doctor.diagnose().packages if p.name == "torch")
    assert found.remark == "PyTorch exports; older than 2.9: pip install -U 'onnxplain[torch]'"


def test_a_newer_package_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TESTED", {"onnx": "1.0"})
    found = doctor.diagnose()
    assert next(p for p in found.packages if p.name == "onnx").remark == "newer than the tested 1.0"
    assert found.problems == []


def fake_runtime(**session: Any) -> Any:
    def open_session(model: bytes, options: Any, providers: list[str], **more: Any) -> Any:
        if "raises" in session:
            raise RuntimeError(session["raises"])
        return SimpleNamespace(get_providers=lambda: session["got"], run=lambda *_: [])

    return SimpleNamespace(
        SessionOptions=SimpleNamespace, InferenceSession=open_session, set_default_logger_severity=lambda level: None
    )


def test_a_provider_that_falls_back_does_not_load() -> None:
    tried = doctor.try_provider(fake_runtime(got=["CPUExecutionProvider"]), "CUDAExecutionProvider")
    assert (tried.loads, tried.session_has) == (False, ["CPUExecutionProvider"])
    tried = doctor.try_provider(fake_runtime(raises="libcudnn.so is missing\nmore"), "CUDAExecutionProvider")
    assert (tried.loads, tried.reason) == (False, "libcudnn.so is missing")


def test_the_probe_is_a_model() -> None:
    probe = onnx.load_from_string(doctor.one_node())
    onnx.checker.check_model(probe, full_check=True)
    assert [node.op_type for node in probe.graph.node] == ["Add"]


def test_the_other_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPLAIN_ORT_TRAINING", str(tmp_path))
    result = call("doctor")
    assert result.exit_code == 0, "it is optional"
    said = " ".join(result.stdout.split())
    assert 'backend="ort-training": not available' in said
    assert "pip install --no-deps --target FOLDER onnxruntime-training-cpu==1.19.2" in said
    found = json.loads(call("doctor", "--json").stdout)
    assert found["ort_training"] is False and "has no onnxruntime" in found["ort_training_remark"]
