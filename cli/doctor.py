"""``onnxplain doctor``: does this installation work, and what does it have?

Looks at what loads, not at what is listed: every provider that the runtime was built with is tried on a
graph of one node, and the session is asked what it really runs on.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer

from onnxplain import __version__
from onnxplain.cli import options as o
from onnxplain.cli.application import ANSWER_NO, app
from onnxplain.cli.console import console, show_json, table

#: Newest releases that the test suite has run on; a newer one is no problem, but worth a remark.
TESTED = {"numpy": "2.4", "onnx": "1.23", "onnx-ir": "1.1", "onnxruntime": "1.31", "typer": "0.29"}

#: Packages that only some work needs, one a line: what for, how to get it, the newest release tested. ``a|b``: either.
OPTIONAL = {
    "torch": ("PyTorch exports", "onnxplain[torch]", "2.13"),
    "onnxscript": ("PyTorch exports", "onnxplain[torch]", "0.7"),
    "tensorflow|tensorflow-cpu": ("TensorFlow exports", "onnxplain[tensorflow]", "2.21"),
    "keras": ("Keras exports", "onnxplain[tensorflow]", "3.15"),
    "tf2onnx": ("Keras exports", "onnxplain[tensorflow]", "1.17"),
    "scikit-learn": ("scikit-learn exports", "onnxplain[sklearn]", "1.9"),
    "skl2onnx": ("scikit-learn exports", "onnxplain[sklearn]", "1.20"),
    "transformers": ("Hugging Face exports", "onnxplain[huggingface]", "5.23"),
    "safetensors": (".safetensors files", "onnxplain[huggingface]", "0.8"),
    "tokenizers": ("--text", "onnxplain[text]", "0.23"),
    "jax2onnx": ("JAX exports", "jax2onnx", "0.17"),
    "flax": ("JAX exports", "flax", "0.12"),
}


@dataclass
class Package:
    """One distribution: what is installed, what is asked for, and what is to be said about it."""

    name: str
    installed: str = ""
    required: str = ""
    remark: str = ""


@dataclass
class Provider:
    """One execution provider: compiled in, and whether a session really got it."""

    name: str
    loads: bool
    session_has: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass
class Diagnosis:
    """Everything that was found."""

    onnxplain: str
    python: str
    platform: str
    packages: list[Package]
    runtime_owners: list[str]
    providers: list[Provider] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ort_training: bool = False
    ort_training_remark: str = ""


@app.command()
def doctor(as_json: o.AsJson = False, quiet: o.Quiet = False) -> None:
    """Check this installation: versions, the runtime, and which providers really load. Exit code 1: a problem."""
    found = diagnose()
    if as_json:
        show_json({**asdict(found), "ok": not found.problems})
    elif not quiet:
        show_diagnosis(found)
    if found.problems:
        raise typer.Exit(ANSWER_NO)


def diagnose() -> Diagnosis:
    """Look at everything; problems are collected, not raised."""
    from onnxplain.engine.errors import RuntimeMissingError
    from onnxplain.engine.session import runtime
    from onnxplain.engine.session.training_backend import available

    found = Diagnosis(__version__, platform.python_version(), platform.platform(), [], runtime.owners())
    found.ort_training, found.ort_training_remark = available()
    needed = _requirements()
    needed |= dict.fromkeys(found.runtime_owners, ".".join(map(str, runtime.OLDEST)))
    found.packages += [_package(name, needed[name], found.problems) for name in sorted(needed)]
    found.packages += [_optional(*line) for line in OPTIONAL.items() if line[0] not in needed]
    try:
        module = runtime.import_runtime()
    except RuntimeMissingError as error:
        found.problems.append(str(error))
        return found
    if len(found.runtime_owners) > 1:
        both = ", ".join(found.runtime_owners)
        found.problems.append(f"two packages own the onnxruntime folder ({both}); uninstall both, then install one")
    found.providers = [try_provider(module, name) for name in module.get_available_providers()]
    if not any(p.name == "CPUExecutionProvider" and p.loads for p in found.providers):
        found.problems.append("the CPU provider does not load; reinstall onnxruntime")
    problem = _opencv()
    return found if problem is None else _with(found, problem)


def _with(found: Diagnosis, problem: str) -> Diagnosis:
    found.problems.append(problem)
    return found


def _requirements(*, extras: bool = False) -> dict[str, str]:
    """What the package itself asks for, or its extras do: name -> oldest version."""
    try:
        texts = requires("onnxplain") or []
    except PackageNotFoundError:  # run from a folder, not installed
        return {}
    found = {}
    for text in texts:
        parts = re.match(r"([\w.-]+)\s*(?:\(?>=\s*([\d.]+))?", text)
        if parts and ("extra ==" in text) == extras:
            found[parts[1].lower()] = parts[2] or ""
    return found


def _package(name: str, oldest: str, problems: list[str]) -> Package:
    """A package that every use needs; what is wrong with it is a problem."""
    entry = Package(name, _version(name), f">={oldest}" if oldest else "")
    newest = TESTED.get("onnxruntime" if name.startswith("onnxruntime") else name, "")
    if not entry.installed:
        entry.remark = "not installed"
        problems.append(f"{name} is not installed; pip install {name}")
    elif _older(entry.installed, oldest):
        entry.remark = f"older than {oldest}"
        problems.append(f"{name} {entry.installed} is older than {oldest}; pip install -U {name}")
    else:
        entry.remark = _newer(entry.installed, newest)
    return entry


def _optional(names: str, line: tuple[str, str, str]) -> Package:
    """A package of :data:`OPTIONAL`; nothing about it is a problem."""
    use, source, newest = line
    first, *others = names.split("|")
    name = next((n for n in (first, *others) if _version(n)), first)
    oldest = _requirements(extras=True).get(first, "")
    entry = Package(name, _version(name), f">={oldest}" if oldest else "", use)
    if not entry.installed:
        entry.remark = f"{use}: pip install '{source}'"
    elif _older(entry.installed, oldest):
        entry.remark = f"{use}; older than {oldest}: pip install -U '{source}'"
    elif newer := _newer(entry.installed, newest):
        entry.remark = f"{use}; {newer}"
    return entry


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _older(installed: str, oldest: str) -> bool:
    return bool(oldest) and _numbers(installed) < _numbers(oldest)


def _newer(installed: str, newest: str) -> str:
    return f"newer than the tested {newest}" if newest and _numbers(installed)[:2] > _numbers(newest) else ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def try_provider(runtime: Any, name: str) -> Provider:
    """Open a session of one node on a provider, run it, and read back what it got."""
    from onnxplain.engine.session.providers import missing_libraries

    options = runtime.SessionOptions()
    options.log_severity_level = 4
    runtime.set_default_logger_severity(4)
    missing = missing_libraries(runtime, [name])
    if missing:
        return Provider(name, False, [], missing[name])
    try:
        session = runtime.InferenceSession(one_node(), options, providers=[name], enable_fallback=0)
        got = list(session.get_providers())
        if name not in got:
            return Provider(name, False, got, "its libraries are missing or do not fit")
        session.run(None, {"x": [1.0]})
    except Exception as error:  # whatever a provider's own library raises
        text = str(error).strip()
        return Provider(name, False, [], text.splitlines()[0][:200] if text else type(error).__name__)
    return Provider(name, True, got)


def one_node() -> bytes:
    """The smallest model that does something: y = x + x."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(made.SerializeToString())


def _opencv() -> str | None:
    try:
        import cv2
    except ImportError as error:
        return f"OpenCV cannot be imported ({error}); pip install opencv-python-headless"
    return None if hasattr(cv2, "imdecode") else "the cv2 folder is damaged; reinstall opencv-python-headless"


# ---------------------------------------------------------------------------------------------- tables


def show_diagnosis(found: Diagnosis) -> None:
    """Print everything, the verdict last."""
    from rich.text import Text

    screen = console()
    screen.print(f"onnxplain {found.onnxplain}, Python {found.python}, {found.platform}")
    screen.print()
    made = table("package", "installed", "required", "remark", shrink="remark")
    for package in found.packages:
        made.add_row(package.name, package.installed or "-", package.required, package.remark)
    screen.print(made)
    screen.print()
    if found.providers:
        _show_providers(found.providers)
    state = "available" if found.ort_training else "not available"
    screen.print(Text(f'backend="ort-training": {state}; {found.ort_training_remark}'))
    screen.print()
    for problem in found.problems:
        screen.print(Text.assemble(("problem: ", "bold red"), problem))
    if not found.problems:
        screen.print(Text.assemble(("ok: ", "bold green"), "models can be explained on this machine"))


def _show_providers(providers: Sequence[Provider]) -> None:
    from rich.text import Text

    made = table("provider", "loads", "remark", shrink="remark")
    for provider in providers:
        loads = Text("yes", style="green") if provider.loads else Text("no", style="yellow")
        fell = f"; the session got {', '.join(provider.session_has)}" if provider.session_has else ""
        made.add_row(provider.name, loads, "" if provider.loads else provider.reason + fell)
    console().print(made)
    console().print()
